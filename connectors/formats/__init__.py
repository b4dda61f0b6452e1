"""File formats of inputs and outputs. ``base.py`` says what a format promises and lists those that exist."""
