"""Adapters of published datasets: each turns the columns that a dataset has into the columns that jobs read.

``base.py`` holds the contract and the table of their names. A module here holds one family of datasets.
"""
