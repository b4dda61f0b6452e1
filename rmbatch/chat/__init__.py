"""Chat completions from any OpenAI-compatible server: many at a time, none paid for twice, within limits.

Who asks are judges (``rmbatch/judges/``). Importing this package loads nothing.
"""
