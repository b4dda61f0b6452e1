"""The tasks of a job: units in, stages over blocks, files and commit records out. Here the modules know Ray."""

import os

# Polars takes all cores of the machine, but a task has only the share in OMP_NUM_THREADS, which Ray sets. Polars reads
# its own variable when it is first imported. So this must run before a task imports the rewards.
if granted := os.environ.get("OMP_NUM_THREADS"):
    os.environ.setdefault("POLARS_MAX_THREADS", granted)
