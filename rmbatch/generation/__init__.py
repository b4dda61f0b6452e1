"""Candidates for prompts, sampled from chat models: what is asked, and what becomes of each answer."""
