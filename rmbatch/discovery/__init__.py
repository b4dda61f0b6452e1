"""Finds the principles behind preferences: it proposes them row by row, tries and selects them, and measures them.

Judges use principles in ``rmbatch/judges/``; ``jobs/principles.py`` reads and writes the files. Importing this
package loads nothing.
"""
