"""The modules that know Ray: units in, stages over blocks, files and commit records out."""

import os

# Polars takes all cores of the machine, a task has its share: what Ray grants it stands in OMP_NUM_THREADS. Polars
# reads its own variable when it is first imported, so this comes before the rewards, as a task's first import of ours.
if granted := os.environ.get("OMP_NUM_THREADS"):
    os.environ.setdefault("POLARS_MAX_THREADS", granted)
