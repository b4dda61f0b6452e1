"""Finds the principles behind preferences: proposed row by row, tried, selected, and measured on rows held out.

How a judge uses principles is ``rmbatch/judges/``; files and output folders are ``jobs/principles.py``. Importing this
package loads nothing.
"""
