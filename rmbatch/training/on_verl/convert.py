"""A script that makes a checkpoint of verl a model folder: merged, and for a scalar model as vLLM serves it.

    /envs/verl/bin/python -m rmbatch.training.on_verl.convert scalar float32 CHECKPOINT FOLDER    # causal; bfloat16

``CHECKPOINT`` holds the shards of all ranks. The weights are kept as the training computed with them, so that the model
scores as it was measured: rounded to bfloat16, scores of a model trained in float32 moved by up to 0.8. A scalar model
becomes a ``*ForSequenceClassification`` with one output.
The bias of its head is dropped, because a constant changes no comparison and no such class has one.
"""

import json
import sys
from pathlib import Path
from typing import Any


def main(kind: str, precision: str, checkpoint: str, folder: str) -> int:
    """Merge, and convert a scalar model."""
    merge(checkpoint, folder, precision)
    config = read_config(Path(folder))
    write_config(Path(folder), {**config, "dtype": precision})
    if kind == "scalar":
        make_sequence_classifier(Path(folder))
    return 0


def merge(checkpoint: str, folder: str, precision: str) -> None:
    """Merge the shards of a checkpoint to one folder, as ``python -m verl.model_merger merge`` does.

    verl's merger casts each shard by ``Tensor.bfloat16``; for float32 that keeps them, in this process alone.
    """
    import torch
    from verl.model_merger import __main__ as merger

    if precision == "float32":
        torch.Tensor.bfloat16 = torch.Tensor.float
    arguments = ["merge", "--backend", "fsdp", "--local_dir", checkpoint, "--target_dir", folder]
    before, sys.argv = sys.argv, ["model_merger", *arguments]
    try:
        merger.main()
    finally:
        sys.argv = before


def make_sequence_classifier(folder: Path) -> None:
    """Make a merged ``*ForTokenClassification`` with one output a ``*ForSequenceClassification``, in place."""
    write_config(folder, scalar_config(read_config(folder)))
    drop_tensor(folder, "score.bias")


def read_config(folder: Path) -> dict[str, Any]:
    """The model's configuration."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config


def write_config(folder: Path, config: dict[str, Any]) -> None:
    """Replace the model's configuration."""
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


def scalar_config(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a scalar reward model, from that of a token classifier with one output."""
    name = config["architectures"][0].replace("ForTokenClassification", "ForSequenceClassification")
    labels = {"num_labels": 1, "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    return {**config, "architectures": [name], **labels}


def drop_tensor(folder: Path, name: str) -> None:
    """Rewrite the file of weights that holds a tensor without it, and the index if there is one."""
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            if name not in opened.keys():  # noqa: SIM118 - not a mapping
                continue
        tensors = load_file(file)
        del tensors[name]
        save_file(tensors, file, metadata={"format": "pt"})
    index = folder / "model.safetensors.index.json"
    if index.exists():
        known = json.loads(index.read_text(encoding="utf-8"))
        known["weight_map"].pop(name, None)
        index.write_text(json.dumps(known, indent=2), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
