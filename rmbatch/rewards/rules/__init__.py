"""The rule rewards, a module for each noun."""
