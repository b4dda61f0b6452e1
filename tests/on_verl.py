"""Where real verl is, for tests that are marked ``verl``: an interpreter of its own, as ``make test`` makes it."""

import os

import pytest

from tests.servers.s3 import REPOSITORY

PLUGINS = REPOSITORY / "tests" / "verl_plugins"
"""A folder of modules that verl's interpreter loads."""
VERL_PYTHON = os.environ.get("RMBATCH_VERL_PYTHON") or str(REPOSITORY / ".venv-verl/bin/python")
needs_verl = pytest.mark.skipif(
    not os.access(VERL_PYTHON, os.X_OK), reason=f"no verl in {VERL_PYTHON}; `make test` makes it"
)
