"""Checks models and judges before they cost anything."""
