"""What judges are built on: chat completions from any OpenAI-compatible server, kept answers, verdicts, prices.

Judges themselves (prompts, scales, games) are not here yet. Importing this package loads nothing.
"""
