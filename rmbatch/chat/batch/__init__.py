"""Batch APIs: cheaper answers that come within a day."""
