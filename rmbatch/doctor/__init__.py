"""Checks of models and judges before they cost: what is looked at, and what was found."""
