"""verl's own dataset classes read exports, in verl's interpreter."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.bench.exports import write_output
from tests.jobs.commands import Command
from tests.on_verl import VERL_PYTHON, needs_verl
from tests.tiny_models import make_model

pytestmark = [pytest.mark.verl, needs_verl, pytest.mark.timeout(600)]
SCRIPT = """
import json, sys
from omegaconf import OmegaConf
from transformers import AutoTokenizer
from verl.utils.dataset.multiturn_sft_dataset import MultiTurnSFTDataset
from verl.utils.dataset.rl_dataset import RLHFDataset

prompts, chats, model = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(model)
config = {"max_prompt_length": 4096, "max_length": 4096, "cache_dir": "cache", "ignore_input_ids_mismatch": True}
config = OmegaConf.create(config)
rl, sft = RLHFDataset([prompts], tokenizer, config), MultiTurnSFTDataset([chats], tokenizer, config)
first, trained = rl[3], sft[3]
said = tokenizer.decode(trained["input_ids"][trained["loss_mask"].bool()])
print(json.dumps({
    "rl": len(rl), "prompt": first["raw_prompt"], "truth": first["reward_model"]["ground_truth"],
    "index": first["index"], "source": first["data_source"], "sft": len(sft), "answer": said,
}))
"""


def test_verl_reads_prompts_and_conversations(rmbatch: Command, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    write_output(tmp_path / "out", 20, words=10)
    for to in ("verl", "sft"):
        assert rmbatch("export", "out", "--to", to, "--as", "parquet", "--out", to).code == 0
    files = [str(tmp_path / to / "data/train-00000.parquet") for to in ("verl", "sft")]
    ended = subprocess.run(
        [VERL_PYTHON, "-c", SCRIPT, *files, make_model(tmp_path / "model", "causal")],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    told = json.loads(ended.stdout.splitlines()[-1])
    import pyarrow.parquet as pq

    rows, chats = (pq.read_table(file).to_pylist() for file in files)
    assert (told["rl"], told["sft"]) == (20, 20)
    assert (told["prompt"], told["truth"]) == (rows[3]["prompt"], rows[3]["reward_model"]["ground_truth"])
    assert (told["index"], told["source"]) == (3, "rmbatch")
    assert chats[3]["messages"][-1]["content"] in told["answer"]
