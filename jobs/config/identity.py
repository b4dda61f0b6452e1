"""The identity of a job: the part of its file that decides its result, and digests of the files behind its rewards.

An output's plan keeps it, so that another job does not write to the same output.

    job_identity(job)                                          # plain values, as they come back from JSON
    differences(planned, job_identity(job))                    # ["select.keep: 1 -> 2"]
"""

import hashlib
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from rmbatch.settings.mistakes import show


def job_identity(job: BaseModel) -> dict[str, Any]:
    """The fields of a job that decide its result, and under ``reward_files`` a digest of each file behind them."""
    fields = identity_of_fields(job)
    fields.pop("run", None)  # it changes no score
    fields.pop("models", None)  # whoever asks one holds its settings
    if fields.get("generate", ...) is None:
        del fields["generate"]  # as jobs were planned before there was this key
    files = [config.files(name) for name, config in getattr(job, "rewards", {}).items()]
    files.append(job.input.files() if hasattr(job, "input") else {})
    fields["reward_files"] = {path: digest for each in files for path, digest in each.items()}
    plain: dict[str, Any] = _as_from_json(fields)
    return plain


def identity_of_fields(settings: BaseModel) -> dict[str, Any]:
    """The fields as plain values: of each its ``identity()`` where it has one, else all of it."""
    dumped = settings.model_dump(mode="json")
    return {name: _identity(value, dumped[name]) for name, value in settings}


def _identity(value: Any, dumped: Any) -> Any:
    if hasattr(value, "identity"):
        return value.identity()
    if isinstance(value, Mapping) and any(hasattr(each, "identity") for each in value.values()):
        return {key: _identity(each, dumped[key]) for key, each in value.items()}
    return dumped


def digest_file(path: str) -> str:
    """16 letters that are the same for equal content; empty where nothing is there."""
    file = Path(path)
    if file.is_dir():  # a model: its weights are too many to read here
        files = sorted(each for each in file.iterdir() if each.is_file())
        seen = [
            (each.name, each.stat().st_size, each.read_bytes() if each.suffix == ".json" else b"") for each in files
        ]
        return digest(repr(seen).encode())
    return digest(file.read_bytes()) if file.is_file() else ""


def digest(content: bytes) -> str:
    """16 letters that are the same for equal content."""
    return hashlib.sha256(content).hexdigest()[:16]


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What differs between two jobs' identities, a line each: ``select.keep: 1 -> 2``."""
    lines = []
    for key in dict.fromkeys([*old, *new]):
        before, after = old.get(key, _ABSENT), new.get(key, _ABSENT)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            lines.append(f"{prefix}{key}: {show(before)} -> {show(after)}")
    return lines


def _as_from_json(value: Any) -> Any:
    """The value as it comes back from the plan's JSON, which has no inf and no NaN."""
    if isinstance(value, dict):
        return {key: _as_from_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_from_json(item) for item in value]
    return str(value) if isinstance(value, float) and not isfinite(value) else value


class _Absent:
    def __repr__(self) -> str:
        return "(absent)"


_ABSENT = _Absent()
