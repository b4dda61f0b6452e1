"""What the recipes that train a judge by GRPO share: prompts as judges see them, verl's rows and overrides.

A judge's question is rendered by the kind that asks it when the model is trained (``rmbatch/judges/kinds``), so the
trained model is used with the same settings. Source of GRPO: Shao et al., DeepSeekMath, arXiv 2402.03300.
"""

import json
from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pyarrow as pa
import yaml

from connectors.errors import UserError
from rmbatch.judges.asking import Question
from rmbatch.judges.kinds.base import JudgeKind, QuestionWriter
from rmbatch.judges.kinds.responses import Responses
from rmbatch.judges.principles import load_principles
from rmbatch.rows.messages import MESSAGES, TEXT
from rmbatch.rows.roles import Roles
from rmbatch.settings.extras import require
from rmbatch.training.recipe import Places, Recipe, Resources, Rows, read_prompts
from rmbatch.training.spec import TrainSpec
from rmbatch.training.verdicts import Truth

VERL_ROWS = pa.schema(
    [
        ("data_source", TEXT),
        ("prompt", MESSAGES),
        ("ability", TEXT),
        ("reward_model", pa.struct([("style", TEXT), ("ground_truth", TEXT)])),
        ("extra_info", pa.struct([("index", pa.int64()), ("label", TEXT)])),
    ]
)
"""verl's columns; ``ground_truth`` is a ``Truth`` as JSON, and ``index`` a row of the input."""
STORAGE_CPUS, TASK_RUNNER_CPUS, CPUS_PER_GPU = 1, 1, 3
"""What verl 0.9 asks Ray for: one for each unit of its transfer queue and for its controller, one for its task runner,
and a bundle of three beside each GPU."""
ON_CPU_CPUS = 12
"""CPUs that Ray is told of on a machine without a GPU, however many there are: verl's processes mostly wait."""


@dataclass(frozen=True)
class Judged:
    """A question of a training row, and what is true of it; or why there is none."""

    question: Question | None = None
    label: Any = None
    form: Mapping[str, Any] | None = None
    fault: str = ""


class Grpo(Recipe):
    """A judge that writes, trained by the agreement of its verdicts with labels."""

    config_name = "ppo_trainer"
    kind = "causal"
    judge_kind: ClassVar[str]
    """The kind of judge that is trained."""
    truth_kind: ClassVar[Any]

    def __init__(self, name: str, base: str, train: TrainSpec, judge: JudgeKind | None) -> None:
        super().__init__(name, base, train, judge)
        if judge is None or judge.judge != self.judge_kind:
            got = "it is missing" if judge is None else f"got {judge.judge!r}"
            raise UserError(f"judge: recipe {name} trains a {self.judge_kind} judge; {got}")
        require("judge", f"recipe {name}")
        principles = None if judge.principles is None else load_principles(judge.principles)
        self._judge = judge
        self._prompt = judge.make_prompt(judge.template)
        self.writer = QuestionWriter(judge, self._prompt, principles)
        self.accuracy_metric = f"val-core/{name}/acc/mean@1"  # type: ignore[misc]
        readable = f"val-aux/{name}/parse_ok/mean@1"
        self.curves = {  # type: ignore[misc]
            "reward": ("critic/score/mean",),
            "held-out accuracy": (self.accuracy_metric,),
            "held-out readable": (readable,),
            "answer tokens": ("response_length/mean",),
        }

    @abstractmethod
    def judge_rows(self, table: pa.Table, roles: Roles, prompts: pa.Array) -> list[list[Judged]]:
        """The questions of each row of the input, mostly one."""

    def read_rows(self, table: pa.Table, roles: Roles, first: int) -> Rows:
        prompts = read_prompts(table, roles)
        unusable: Counter[str] = Counter()
        rows: list[dict[str, Any]] = []
        kept: list[int] = []
        for place, judged in enumerate(self.judge_rows(table, roles, prompts)):
            for each in judged:
                if each.question is None or each.form is None:
                    unusable[each.fault] += 1
                    continue
                kept.append(place)
                rows.append(self._verl_row(each.question, each.label, each.form, first + place))
        made = pa.Table.from_pylist(rows, VERL_ROWS)
        return Rows(made, prompts.take(pa.array(kept, pa.int64())), dict(sorted(unusable.items())))

    def _verl_row(self, question: Question, label: Any, form: Mapping[str, Any], row: int) -> dict[str, Any]:
        judge = self._judge
        system = [] if judge.system is None else [{"role": "system", "content": judge.system}]
        truth = Truth(self.truth_kind, label, form, judge.structured, question.quotable)
        if self.train.decay is not None:
            truth = replace(truth, decay=self.train.decay)
        return {
            "data_source": self.name,
            "prompt": [*system, {"role": "user", "content": question.text}],
            "ability": "judge",
            "reward_model": {"style": "rule", "ground_truth": truth.to_json()},
            "extra_info": {"index": row, "label": json.dumps(label)},
        }

    def overrides(self, places: Places) -> dict[str, Any]:
        train = self.train
        on_cpu = train.device == "cpu"
        mini = train.batch // 4 if train.batch % 4 == 0 and not on_cpu else train.batch
        answer = train.answer_tokens or 0
        found: dict[str, Any] = {
            "algorithm.adv_estimator": "grpo",
            "algorithm.use_kl_in_reward": False,
            "data.train_files": [places.train],
            "data.val_files": [places.held_out],
            "data.prompt_key": "prompt",
            "data.train_batch_size": train.batch,
            "data.max_prompt_length": train.max_length,
            "data.max_response_length": answer,
            "data.filter_overlong_prompts": True,
            "data.seed": train.seed,
            "data.dataloader_num_workers": 0,
            "actor_rollout_ref.model.path": self.base,
            "actor_rollout_ref.model.use_remove_padding": True,
            "actor_rollout_ref.model.enable_gradient_checkpointing": not on_cpu,
            "+actor_rollout_ref.model.override_config.attn_implementation": train.attention,
            "actor_rollout_ref.actor.strategy": "fsdp2",
            "actor_rollout_ref.actor.optim.lr": train.learning_rate,
            "actor_rollout_ref.actor.ppo_mini_batch_size": mini,
            "actor_rollout_ref.actor.use_dynamic_bsz": True,
            "actor_rollout_ref.actor.ppo_max_token_len_per_gpu": train.device_tokens,
            "actor_rollout_ref.actor.use_kl_loss": bool(train.kl),
            "actor_rollout_ref.actor.kl_loss_coef": train.kl,
            "actor_rollout_ref.actor.kl_loss_type": "low_var_kl",
            "actor_rollout_ref.actor.entropy_coeff": 0,
            "actor_rollout_ref.rollout.name": "vllm",
            "actor_rollout_ref.rollout.tensor_model_parallel_size": 1,
            "actor_rollout_ref.rollout.gpu_memory_utilization": train.rollout_memory,
            "actor_rollout_ref.rollout.n": train.candidates,
            "actor_rollout_ref.rollout.temperature": train.temperature,
            "actor_rollout_ref.rollout.max_model_len": train.max_length + answer,
            "actor_rollout_ref.rollout.val_kwargs.temperature": 0,
            "actor_rollout_ref.rollout.val_kwargs.do_sample": False,
            "actor_rollout_ref.rollout.val_kwargs.n": 1,
            "actor_rollout_ref.rollout.agent.num_workers": 1 if on_cpu else 4 * train.nodes,
            "reward.num_workers": 1 if on_cpu else 2 * train.nodes,
            "reward.reward_manager.name": "naive",
            "reward.custom_reward_function.path": "pkg://rmbatch.training.verdicts",
            "reward.custom_reward_function.name": "compute_score",
            "transfer_queue.backend.SimpleStorage.num_data_storage_units": 1 if on_cpu else 2 * train.nodes,
            "trainer.device": train.device,
            "trainer.nnodes": train.nodes,
            "trainer.n_gpus_per_node": train.gpus,
            "trainer.total_epochs": train.epochs,
            "trainer.total_training_steps": train.steps,
            "trainer.save_freq": train.save_every,
            "trainer.test_freq": train.measure_every,
            "trainer.val_before_train": True,
            "trainer.resume_mode": "auto",
            "trainer.max_actor_ckpt_to_keep": train.keep_checkpoints,
            "trainer.default_local_dir": places.checkpoints,
            "trainer.validation_data_dir": places.rollouts,
            "trainer.log_val_generations": 0,
            "trainer.project_name": "rmbatch",
            "trainer.experiment_name": self.name,
        }
        return found | (_cpu_overrides() if on_cpu else {})

    def command(self, python: str) -> list[str]:
        return [python, "-m", "verl.trainer.main_ppo"]

    def resources(self, config: Mapping[str, Any]) -> Resources:
        trainer = config["trainer"]
        if trainer["device"] == "cpu":
            return Resources(0, 0)
        gpus = int(trainer["n_gpus_per_node"]) * int(trainer["nnodes"])
        units = int(config["transfer_queue"]["backend"]["SimpleStorage"]["num_data_storage_units"])
        return Resources(gpus, CPUS_PER_GPU * gpus + (units + 1) * STORAGE_CPUS + TASK_RUNNER_CPUS)

    def checkpoint_folder(self, step_folder: str) -> str:
        return f"{step_folder}/actor"

    def describe_use(self, folder: str) -> str:
        settings = self._judge.model_dump(mode="json", exclude_defaults=True)
        for name in ("endpoint", "endpoints", "model", "serve", "by"):
            settings.pop(name, None)
        judged = {"judge": self.judge_kind, **settings, "by": "trained"}
        job = {"models": {"trained": {"serve": folder}}, "rewards": {"judge": judged}}
        return yaml.safe_dump(job, sort_keys=False, allow_unicode=True)


def _cpu_overrides() -> dict[str, Any]:
    """What verl needs on a machine without a GPU."""
    return {
        "actor_rollout_ref.actor.use_torch_compile": False,
        "actor_rollout_ref.actor.fsdp_config.use_torch_compile": False,
        "+actor_rollout_ref.actor.fsdp_config.mixed_precision.param_dtype": "fp32",
        "actor_rollout_ref.rollout.free_cache_engine": False,
        "transfer_queue.backend.SimpleStorage.total_storage_size": 10_000,
        "+ray_kwargs.ray_init.include_dashboard": False,
        "+ray_kwargs.ray_init.num_gpus": 1,  # verl's placement groups ask for a GPU also where the device is a CPU
        "ray_kwargs.ray_init.num_cpus": ON_CPU_CPUS,
        "+ray_kwargs.ray_init.object_store_memory": 500_000_000,
    }


def responses_of(prompts: pa.Array, texts: Sequence[str | None]) -> Responses:
    """What a judge's template shows of rows with one text each."""
    return Responses(prompts.to_pylist(), texts, None, {}, None)
