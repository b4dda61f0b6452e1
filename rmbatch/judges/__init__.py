"""LLM judges: principles and a prompt, a model's critique, and a strictly read verdict as a score.

How models are asked is ``rmbatch/chat/``. Importing this package loads nothing.
"""
