"""The limits of chat requests: rate, budget, and the usage of each account."""
