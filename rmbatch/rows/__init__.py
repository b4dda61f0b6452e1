"""The two shapes of rows (flat and nested), the roles of their columns, and messages."""
