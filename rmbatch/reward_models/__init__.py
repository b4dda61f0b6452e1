"""Rewards that are models: their settings, how a conversation is written, and who runs them."""
