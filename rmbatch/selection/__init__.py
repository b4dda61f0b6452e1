"""How candidates are ranked and chosen, as plain functions on columns."""
