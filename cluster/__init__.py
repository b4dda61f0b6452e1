"""Where a job runs: this machine or a Ray cluster. Knows nothing of rewards or of rows."""
