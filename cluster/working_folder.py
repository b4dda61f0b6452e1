"""Knows whether this process is a job that was submitted with its working folder, which Ray copies and deletes.

refuse_lost_output("output.path", "out/best")        # raises UserError under `ray job submit --working-dir .`
"""

import os
from pathlib import Path

from connectors.errors import UserError

COPIES = "runtime_resources"
"""The folder of a Ray session that holds the copies of working folders."""


def refuse_lost_output(key: str, path: str) -> None:
    """Raises UserError where ``path``, the value of ``key``, lies in a folder that Ray deletes with the job."""
    if "://" in path or os.path.isabs(os.path.expanduser(path)) or COPIES not in Path.cwd().parts:
        return
    raise UserError(
        f"{key}: {path!r} is relative, and this job runs in Ray's copy of the submitted folder, which is deleted "
        "afterwards; write an address that all nodes reach, such as s3://bucket/out or /shared/out"
    )
