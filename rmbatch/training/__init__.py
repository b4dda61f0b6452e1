"""Training of reward models by verl: what is decided before it starts, and what is read from what it leaves.

Nothing here imports verl. Its own interpreter runs the modules of ``on_verl/``.
"""
