"""Reads input and writes output: storage, file formats, units and the ledger. This package does not know rewards."""
