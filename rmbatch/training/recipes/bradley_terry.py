"""A scalar reward model, trained on preference pairs: -log sigmoid(chosen - rejected - margin).

Sources: Bradley and Terry 1952, Biometrika 39; margin: Touvron et al., arXiv 2307.09288; centring: Eisenstein et al.,
arXiv 2312.09244. Learning rate and schedule as OpenRLHF has them.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from connectors.errors import UserError
from rmbatch.judges.kinds.base import JudgeKind
from rmbatch.rows.messages import TEXT
from rmbatch.rows.roles import Roles
from rmbatch.training.recipe import Places, Recipe, Resources, Rows, read_numbers, read_prompts, read_texts
from rmbatch.training.spec import TrainSpec


class BradleyTerry(Recipe):
    """Pairs in, a ``*ForSequenceClassification`` with one output out."""

    config_name = "sft_trainer_engine"
    kind = "scalar"
    columns = ("chosen", "rejected", "margin")
    accuracy_metric = "held_out/accuracy"
    curves: ClassVar[Mapping[str, Sequence[str]]] = {
        "loss": ("train/loss", "held_out/loss"),
        "accuracy": ("train/accuracy", "held_out/accuracy"),
        "chosen minus rejected": ("train/difference", "held_out/difference"),
    }
    noun = "pairs"

    def __init__(self, name: str, base: str, train: TrainSpec, judge: JudgeKind | None) -> None:
        super().__init__(name, base, train, judge)
        if judge is not None:
            raise UserError("judge: bradley_terry asks no judge; leave it out")

    def read_rows(self, table: pa.Table, roles: Roles, first: int) -> Rows:
        prompts = read_prompts(table, roles)
        chosen, rejected = read_texts(table, roles, "chosen"), read_texts(table, roles, "rejected")
        if "margin" in roles.extra or "margin" in table.column_names:
            margin = read_numbers(table, roles, "margin")
        else:
            margin = pa.nulls(table.num_rows, pa.float64())
        unusable: Counter[str] = Counter()
        kept = []
        for row, (prompt, good, bad) in enumerate(
            zip(prompts.to_pylist(), chosen.to_pylist(), rejected.to_pylist(), strict=True)
        ):
            why = _find_fault(prompt, good, bad)
            unusable[why] += 1
            if not why:
                kept.append(row)
        del unusable[""]
        index = pa.array([first + row for row in range(table.num_rows)], pa.int64())
        pairs = pa.table({"row": index, "prompt": prompts, "chosen": chosen, "rejected": rejected, "margin": margin})
        pairs = pairs.take(pa.array(kept, pa.int64()))
        return Rows(pairs, prompts.take(pa.array(kept, pa.int64())), dict(sorted(unusable.items())))

    def overrides(self, places: Places) -> dict[str, Any]:
        train = self.train
        on_cpu = train.device == "cpu"
        found: dict[str, Any] = {
            "model.path": self.base,
            "+model.override_config.attn_implementation": train.attention,
            "model.use_remove_padding": train.padding_free,
            "model.enable_gradient_checkpointing": not on_cpu,
            "engine.strategy": "fsdp2",
            "engine.use_torch_compile": False,
            "engine.seed": train.seed,
            "data.train_files": places.train,
            "data.val_files": places.held_out,
            "data.train_batch_size": train.batch,
            "data.use_dynamic_bsz": True,
            "data.max_token_len_per_gpu": train.device_tokens,
            "data.max_length": train.max_length,
            "data.num_workers": 0,
            "optim.lr": train.learning_rate,
            "optim.lr_warmup_steps_ratio": train.warmup,
            "optim.lr_scheduler_type": train.schedule,
            "trainer.device": train.device,
            "trainer.nnodes": train.nodes,
            "trainer.n_gpus_per_node": train.gpus,
            "trainer.total_epochs": train.epochs,
            "trainer.total_training_steps": train.steps,
            "trainer.seed": train.seed,
            "trainer.save_freq": train.save_every,
            "trainer.test_freq": train.measure_every,
            "trainer.max_ckpt_to_keep": train.keep_checkpoints,
            "trainer.default_local_dir": places.checkpoints,
            "trainer.resume_mode": "auto",
            "trainer.project_name": "rmbatch",
            "trainer.experiment_name": self.name,
            "+bradley_terry.centring": train.centring,
            "+bradley_terry.scores_file": places.scores,
        }
        return found | ({"+engine.mixed_precision.param_dtype": "fp32"} if on_cpu else {})

    def command(self, python: str) -> list[str]:
        ranks = ["--standalone", "--nnodes", "1", "--nproc-per-node", str(self.train.gpus)]
        return [python, "-m", "torch.distributed.run", *ranks, "-m", "rmbatch.training.on_verl.bradley_terry"]

    def resources(self, config: Mapping[str, Any]) -> Resources:
        gpus = 0 if config["trainer"]["device"] == "cpu" else int(config["trainer"]["n_gpus_per_node"])
        return Resources(gpus, 0)

    def checkpoint_folder(self, step_folder: str) -> str:
        return step_folder


def _find_fault(prompt: Any, chosen: str | None, rejected: str | None) -> str:
    """Why these are no pair; empty: they are one."""
    if not prompt:
        return "prompt_missing"
    if chosen is None or not chosen.strip():
        return "chosen_missing"
    if rejected is None or not rejected.strip():
        return "rejected_missing"
    return "equal_answers" if chosen == rejected else ""


def length_baseline(train: pa.Table, held_out: pa.Table) -> float | None:
    """The accuracy on held-out pairs of always taking the longer answer, or the shorter where training pairs say so.

    Tables with the columns chosen and rejected. A tie in length is half right. None: there are no pairs.
    """
    if not train.num_rows or not held_out.num_rows:
        return None
    longer = _share_longer(held_out)
    return longer if _share_longer(train) >= 0.5 else 1 - longer


def _share_longer(pairs: pa.Table) -> float:
    chosen, rejected = (pc.utf8_length(pairs[side].cast(TEXT)) for side in ("chosen", "rejected"))
    longer = pc.sum(pc.cast(pc.greater(chosen, rejected), pa.float64())).as_py()
    equal = pc.sum(pc.cast(pc.equal(chosen, rejected), pa.float64())).as_py()
    return float((longer + 0.5 * equal) / pairs.num_rows)
