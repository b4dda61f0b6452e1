"""Tiny models that the tests of this folder share, each made once."""

from pathlib import Path

import pytest

from tests.tiny_models import make_model


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of a scalar, a multi-output and a process reward model, and of a causal one."""
    pytest.importorskip("transformers")
    pytest.importorskip("torch")
    root: Path = tmp_path_factory.mktemp("models")
    families = ("scalar", "multi", "process", "causal")
    return {family: make_model(root / family, family) for family in families}
