"""Ranks and chooses candidates, as plain functions on columns."""
