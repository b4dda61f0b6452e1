"""Figures of a report on a finished output: each module takes blocks of whole prompts and ends in plain values."""
