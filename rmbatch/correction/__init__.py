"""Correction of responses in rounds: critique, edit, score, decide. The output is the best of all that was tried.

``loop.py`` is the loop over the rows of a block; all decisions are plain functions. Importing this loads nothing.
"""
