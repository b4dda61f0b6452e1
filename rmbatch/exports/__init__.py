"""Exports: a finished output as rows for a trainer, by pure functions on Arrow tables.

``base.py`` holds the contract and the table of formats; a module here holds one format or a few alike.
"""
