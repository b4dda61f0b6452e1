"""What runs inside verl's own interpreter. Nothing else imports it, and it imports as little of us as it can.

``compose``: composes a configuration and tells the environment. ``bradley_terry``: trains a scalar reward model.
``convert``: makes a checkpoint a model folder. ``cpu_platform``: verl on a machine without a GPU.
"""
