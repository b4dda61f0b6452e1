"""The fingerprint of a scorer: one name for everything that decides a model's raw outputs. Scores are kept under it.

It covers the content of the weights, the configuration, the model's own code, the tokenizer, the chat template, and
each setting of the spec that no rule below leaves out. So a new setting counts by default. It leaves out settings that
only decide where and how fast the model runs, and those applied to raw outputs afterwards: activation, names and choice
of outputs, aggregation of steps. It does not cover engine versions and kinds of devices, which change the last digits;
code that a configuration takes from another repository; and the base model of an adapter that is itself on the hub.

A model of the hub is identified by its commit. A branch gets new commits, even for a README, and then no kept score is
found. To keep scores, name a commit as ``revision``.

    made = compute_fingerprint(spec, encoder.chat_template)    # reads all weights of a local folder
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
from rmbatch.reward_models.spec import RewardModelSpec

VERSION = 1
"""Counts up when scores of earlier versions of rmbatch are not those of this one."""
WEIGHTS = r".+\.(safetensors|bin|pt|pth|gguf)"
BESIDE = r".+\.(json|py|model|tiktoken)|vocab\.txt|merges\.txt"
"""Files of a model's folder that may decide a score; beside weights: configurations, code, tokenizers."""
IRRELEVANT = re.compile(
    r"(optimizer|scheduler|training_args|rng_state.*|scaler)\.(bin|pt|pth)"
    r"|(trainer_state|generation_config|all_results|train_results|eval_results|chat_template)\.json|\..*"
)
"""Those that trainers leave beside a model. The chat template counts by its text, not by its file."""
READ_BYTES = 16 << 20
THREADS = 8

_COMMIT = re.compile(r"[0-9a-f]{40}")
_AFTERWARDS = ("activation", "outputs", "output")
_RESOLVED = ("model", "revision", "chat_template")


@dataclass(frozen=True)
class Fingerprint:
    """All that decides the scores, as plain values."""

    details: Mapping[str, Any]

    @property
    def hex(self) -> str:
        """The name of the scorer, 32 characters: a hash of all details but the model's name."""
        decisive = {key: value for key, value in self.details.items() if key != "called"}
        return xxhash.xxh3_128_hexdigest(json.dumps(decisive, sort_keys=True).encode())


def compute_fingerprint(spec: RewardModelSpec, chat_template: str) -> Fingerprint:
    """The fingerprint of a model with this chat template, given as text. Reads all weights of a local folder.

    Raises UserError where the weights cannot be identified.
    """
    settings = spec.identity()
    if spec.steps is not None:
        del settings["steps"]["aggregate"]
    for name in (*_AFTERWARDS, *_RESOLVED):
        del settings[name]
    try:
        weights = _identify_weights(spec)
    except OSError as error:
        raise UserError(f"model {spec.model!r} cannot be read: {error.strerror}: {error.filename}") from None
    return Fingerprint(
        {"called": spec.model, "version": VERSION, "weights": weights, "chat_template": chat_template, **settings}
    )


def _identify_weights(spec: RewardModelSpec) -> dict[str, Any]:
    if not spec.is_remote:
        return _identify_checkpoint(spec.model, spec.revision)
    if spec.revision is None:
        raise UserError(
            f"store: nothing tells which weights the endpoints of {spec.model!r} serve; name them yourself, and anew "
            "whenever they change: revision: NAME"
        )
    # A tokenizer of the hub is left out: scores are kept by token ids, so another one finds nothing.
    tokenizer = {"tokenizer": _hash_files(Path(spec.model), BESIDE)} if Path(spec.model).is_dir() else {}
    return {"served_as": spec.model, "named": spec.revision, **tokenizer}


def _identify_checkpoint(model: str, revision: str | None) -> dict[str, Any]:
    """The hashes of a folder's files, or a commit of the hub."""
    if not Path(model).is_dir():
        return {"hub": model, "commit": resolve_commit(model, revision)}
    found: dict[str, Any] = {"files": _hash_files(Path(model), f"{WEIGHTS}|{BESIDE}")}
    adapter = Path(model) / "adapter_config.json"
    if adapter.is_file():
        config = json.loads(adapter.read_bytes())
        if base := config.get("base_model_name_or_path"):
            found["base"] = _identify_checkpoint(base, config.get("revision"))
    return found


def resolve_commit(model: str, revision: str | None) -> str:
    """The commit that a revision of the hub means now: the hub's answer, offline the local cache's, as engines do.

    Raises UserError where neither knows the model.
    """
    if revision is not None and _COMMIT.fullmatch(revision):
        return revision
    hub = _import_hub()
    try:
        return str(hub.hf_hub_download(model, "config.json", revision=revision, dry_run=True).commit_hash)
    except (OSError, ValueError) as error:
        said = " ".join(str(error).split())[:300]
        at = f" at revision {revision!r}" if revision else ""
        raise UserError(f"model {model!r}{at} is no folder, and not to be had from the hub: {said}") from None


def _import_hub() -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise UserError("a model of the hub needs the package huggingface_hub; pip install 'rmbatch[gpu]'") from None
    return huggingface_hub


def _hash_files(folder: Path, wanted: str) -> dict[str, str]:
    """Hashes of the files whose names match, by name."""
    names = sorted(
        f"{part}/{path.name}" if part else path.name
        for part in _list_module_folders(folder)
        for path in (folder / part).iterdir()
        if re.fullmatch(wanted, path.name) and not IRRELEVANT.fullmatch(path.name) and path.is_file()
    )
    with ThreadPoolExecutor(THREADS) as pool:
        return dict(zip(names, pool.map(_hash_file, [folder / name for name in names])))


def _list_module_folders(folder: Path) -> list[str]:
    """The folder itself, and its folders that hold sentence-transformers' modules."""
    try:
        modules = json.loads((folder / "modules.json").read_bytes())
        named = {str(module.get("path") or "") for module in modules}
    except (FileNotFoundError, ValueError, AttributeError, TypeError):
        named = set()
    return sorted({""} | {name for name in named if (folder / name).is_dir()})


def _hash_file(path: Path) -> str:
    state, buffer = xxhash.xxh3_128(), bytearray(READ_BYTES)
    view = memoryview(buffer)
    with open(path, "rb", buffering=0) as file:
        while size := file.readinto(view):
            state.update(view[:size])
    return state.hexdigest()
