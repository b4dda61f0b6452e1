"""Served reward models: what is served (``spec.py``), how conversations become ids, the engines, and the reward itself.

Nothing here knows Ray; pools of engines in a cluster are ``rmbatch/pipeline/engines.py``.
"""
