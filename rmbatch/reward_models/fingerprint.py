"""What a kept score is a score of: everything that decides a model's raw outputs, and one name for all of it.

Covered are the weights by their content, the configuration, the model's own code, tokenizer, chat template, and every
setting of the spec that no rule below leaves out, so that a new setting counts before anybody thinks of it. Left out
are what only decides where and how fast it runs, and what is applied to raw outputs afterwards: activation, names and
choice of outputs, how steps are aggregated. Not covered: versions of engines and kinds of devices, which change the
last digits; code that a configuration takes from another repository than the model's; the base model of an adapter that
is itself on the hub.

A model of the hub is its commit. A branch gets new commits, for a README too, and then nothing is found any more; who
wants to keep scores names a commit as ``revision``.

    made = fingerprint(spec, encoder.chat_template)    # reads all weights of a local folder
    made.hex                                           # "5f0c…", 32 characters
    made.details                                       # the same for people, as JSON holds it
"""

import json
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from connectors.errors import UserError
from rmbatch.reward_models.spec import ServedModel

VERSION = 1
"""Counts up when scores of earlier versions of rmbatch are not those of this one."""
WEIGHTS = r".+\.(safetensors|bin|pt|pth|gguf)"
BESIDE = r".+\.(json|py|model|tiktoken)|vocab\.txt|merges\.txt"
"""Files of a model's folder that may decide a score; beside weights: configurations, code, tokenizers."""
IRRELEVANT = re.compile(
    r"(optimizer|scheduler|training_args|rng_state.*|scaler)\.(bin|pt|pth)"
    r"|(trainer_state|generation_config|all_results|train_results|eval_results|chat_template)\.json|\..*"
)
"""Of these, what trainers leave beside a model; the chat template counts as the text that is in use."""
READ_BYTES = 16 << 20
THREADS = 8

_COMMIT = re.compile(r"[0-9a-f]{40}")
_AFTERWARDS = ("activation", "outputs", "output")
_RESOLVED = ("model", "revision", "chat_template")


@dataclass(frozen=True)
class Fingerprint:
    """What decides the scores, as plain values."""

    details: Mapping[str, Any]

    @property
    def hex(self) -> str:
        """The name of the scorer, 32 characters: of every detail but what the model was called."""
        decisive = {key: value for key, value in self.details.items() if key != "called"}
        return xxhash.xxh3_128_hexdigest(json.dumps(decisive, sort_keys=True).encode())


def scorer_fingerprint(spec: ServedModel, chat_template: str) -> str:
    """The name under which a model's scores are kept; see ``fingerprint``."""
    return fingerprint(spec, chat_template).hex


def fingerprint(spec: ServedModel, chat_template: str) -> Fingerprint:
    """What decides a model's raw outputs; ``chat_template``: the text in use.

    Raises UserError where nothing tells which weights they are.
    """
    settings = spec.identity()
    if spec.steps is not None:
        del settings["steps"]["aggregate"]
    for name in (*_AFTERWARDS, *_RESOLVED):
        del settings[name]
    try:
        weights = _weights(spec)
    except OSError as error:
        raise UserError(f"model {spec.model!r} cannot be read: {error.strerror}: {error.filename}") from None
    return Fingerprint(
        {"called": spec.model, "version": VERSION, "weights": weights, "chat_template": chat_template, **settings}
    )


def resolved_commit(spec: ServedModel) -> str:
    """The commit of the hub that the revision means now: the hub's answer, offline the local cache's, as engines do.

    Raises UserError where neither knows the model.
    """
    return _commit(spec.model, spec.revision)


def local_snapshot(spec: ServedModel) -> Path | None:
    """The folder of the model on this machine: itself, or the hub's local cache of it; None where it is not there."""
    if Path(spec.model).is_dir():
        return Path(spec.model)
    hub = _hub()
    try:
        return Path(hub.snapshot_download(spec.model, revision=spec.revision, local_files_only=True))
    except (FileNotFoundError, ValueError):
        return None


def _weights(spec: ServedModel) -> dict[str, Any]:
    if spec.engine != "endpoint":
        return _stored(spec.model, spec.revision)
    if spec.revision is None:
        raise UserError(
            f"store: nothing tells which weights the endpoints of {spec.model!r} serve; name them yourself, and anew "
            "whenever they change: revision: NAME"
        )
    # A tokenizer of the hub is left out: scores are kept by token ids, so another one finds nothing.
    tokenizer = {"tokenizer": _contents(Path(spec.model), BESIDE)} if Path(spec.model).is_dir() else {}
    return {"served_as": spec.model, "named": spec.revision, **tokenizer}


def _stored(model: str, revision: str | None) -> dict[str, Any]:
    """Which weights these are: the contents of a folder, or a commit of the hub."""
    if not Path(model).is_dir():
        return {"hub": model, "commit": _commit(model, revision)}
    found: dict[str, Any] = {"files": _contents(Path(model), f"{WEIGHTS}|{BESIDE}")}
    adapter = Path(model) / "adapter_config.json"
    if adapter.is_file():
        config = json.loads(adapter.read_bytes())
        if base := config.get("base_model_name_or_path"):
            found["base"] = _stored(base, config.get("revision"))
    return found


def _commit(model: str, revision: str | None) -> str:
    if revision is not None and _COMMIT.fullmatch(revision):
        return revision
    hub = _hub()
    try:
        return str(hub.hf_hub_download(model, "config.json", revision=revision, dry_run=True).commit_hash)
    except (OSError, ValueError) as error:
        said = " ".join(str(error).split())[:300]
        at = f" at revision {revision!r}" if revision else ""
        raise UserError(f"model {model!r}{at} is no folder, and not to be had from the hub: {said}") from None


def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise UserError("a model of the hub needs the package huggingface_hub; pip install 'rmbatch[gpu]'") from None
    return huggingface_hub


def _contents(folder: Path, wanted: str) -> dict[str, str]:
    """Hashes of the files whose names match, by name."""
    names = sorted(
        f"{part}/{path.name}" if part else path.name
        for part in _parts(folder)
        for path in (folder / part).iterdir()
        if re.fullmatch(wanted, path.name) and not IRRELEVANT.fullmatch(path.name) and path.is_file()
    )
    with ThreadPoolExecutor(THREADS) as pool:
        return dict(zip(names, pool.map(_hash, [folder / name for name in names])))


def _parts(folder: Path) -> list[str]:
    """The folder itself, and those of its folders that sentence-transformers' modules are in."""
    try:
        modules = json.loads((folder / "modules.json").read_bytes())
        named = {str(module.get("path") or "") for module in modules}
    except (FileNotFoundError, ValueError, AttributeError, TypeError):
        named = set()
    return sorted({""} | {name for name in named if (folder / name).is_dir()})


def _hash(path: Path) -> str:
    state, buffer = xxhash.xxh3_128(), bytearray(READ_BYTES)
    view = memoryview(buffer)
    with open(path, "rb", buffering=0) as file:
        while size := file.readinto(view):
            state.update(view[:size])
    return state.hexdigest()
