"""LLM judges: a model criticises responses by principles, and its verdict, read strictly, is the score.

``rmbatch/chat/`` sends the requests. Importing this package loads nothing.
"""
