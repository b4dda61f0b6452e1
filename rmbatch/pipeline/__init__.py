"""The modules that know Ray: units in, stages over blocks, files and commit records out."""
