"""Evaluation of rewards on benchmarks: suites, their metrics, best-of-N estimates, and how sure the figures are.

``base.py`` holds the contract of a suite and the table of all. Nothing here reads files or asks models.
"""
