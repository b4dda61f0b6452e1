"""Trains a scalar reward model on preference pairs, on verl's engines. torchrun starts a process for each GPU.

    torchrun --nproc-per-node 8 -m rmbatch.training.on_verl.bradley_terry data.train_files=train.parquet …

The configuration is verl's ``sft_trainer_engine``; what it has no place for stands under ``bradley_terry``:
``centring`` and ``scores_file`` (where the held-out pairs' scores are written).
Data loader, checkpoints and loggers are verl's.
Metrics: train/loss, train/accuracy, train/difference, train/grad_norm, train/lr, train/tokens, train/step_s, and of the
held-out pairs held_out/accuracy (a tie is half right), held_out/loss, held_out/pairs, held_out/difference.
"""

import json
import os
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import hydra
import numpy as np
import torch
import torch.distributed as dist
from omegaconf import OmegaConf, open_dict
from tensordict.tensorclass import NonTensorData
from torch.utils.data import DistributedSampler
from torchdata.stateful_dataloader import StatefulDataLoader
from transformers import AutoConfig
from verl.trainer.sft_trainer import SFTTrainer
from verl.utils import tensordict_utils as tu
from verl.utils.device import get_device_name
from verl.utils.distributed import destroy_global_process_group, initialize_global_process_group
from verl.utils.tracking import Tracking
from verl.workers.config import TrainingWorkerConfig

from rmbatch.reward_models.spec import RewardModelSpec
from rmbatch.training.on_verl.pairs import Pairs, collate
from rmbatch.training.on_verl.reward_head import (
    MODEL_TYPE,
    RewardWorker,
    bradley_terry_loss,
    last_values,
)


class BradleyTerryTrainer(SFTTrainer):  # type: ignore[misc]
    """verl's SPMD trainer, with pairs for conversations and our loop, which measures on all held-out pairs."""

    def _build_dataset(self) -> None:
        data = self.config.data
        spec = RewardModelSpec(model=self.model_config.local_path, max_length=data.max_length)
        self.train_dataset, self.val_dataset = Pairs(data.train_files, spec), Pairs(data.val_files, spec)
        if len(self.train_dataset) < data.train_batch_size:
            raise ValueError(
                f"{len(self.train_dataset)} pairs of {data.train_files} are left, and a batch has "
                f"{data.train_batch_size}: {self.train_dataset.num_left_out} are longer than {data.max_length} tokens"
            )

    def _build_dataloader(self) -> None:
        engine, data = self.engine, self.config.data
        rank, ranks = engine.get_data_parallel_rank(), engine.get_data_parallel_size()
        if data.train_batch_size % ranks:
            raise ValueError(f"a batch of {data.train_batch_size} pairs cannot be split over {ranks} devices")
        own = data.train_batch_size // ranks
        self.global_batch_size = 2 * data.train_batch_size  # sequences
        self.train_sampler = DistributedSampler(
            self.train_dataset, ranks, rank, shuffle=True, seed=self.config.trainer.seed, drop_last=True
        )
        self.val_sampler = DistributedSampler(self.val_dataset, ranks, rank, shuffle=False)
        workers = {"collate_fn": collate, "num_workers": data.num_workers, "pin_memory_device": get_device_name()}
        self.train_dataloader = StatefulDataLoader(
            self.train_dataset, own, sampler=self.train_sampler, drop_last=True, **workers
        )
        self.val_dataloader = StatefulDataLoader(self.val_dataset, own, sampler=self.val_sampler, **workers)

    def _build_engine(self) -> None:
        self.training_client = RewardWorker(
            TrainingWorkerConfig(
                model_type=MODEL_TYPE,
                model_config=self.model_config,
                engine_config=self.engine_config,
                optimizer_config=self.optimizer_config,
                checkpoint_config=self.checkpoint_config,
                profiler_config=self.profiler_config,
            )
        )
        self.training_client.set_loss_fn(partial(bradley_terry_loss, centring=self.config.bradley_terry.centring))
        self.engine = self.training_client.engine

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes."""
        return bool(self.engine.is_mp_src_rank_with_outputs()) and self.engine.get_data_parallel_rank() == 0

    def fit(self) -> None:
        """Train to the last step; measure before the first, every ``test_freq`` steps and after the last."""
        trainer = self.config.trainer
        self._tracking = None
        if self.is_first:
            plain = OmegaConf.to_container(self.config, resolve=True)
            self._tracking = Tracking(trainer.project_name, trainer.experiment_name, trainer.logger, plain)
        step = self.resume_global_step
        self._log(
            {
                "train/total_steps": self.total_training_steps,
                "train/pairs": len(self.train_dataset),
                "train/pairs_left_out": self.train_dataset.num_left_out,
                "held_out/pairs_left_out": self.val_dataset.num_left_out,
            },
            step,
        )
        if step == 0 or step >= self.total_training_steps:
            self._measure(step)
        for batch in self._batches(step):
            step += 1
            self._log(self._train_step(batch), step)
            is_last = step == self.total_training_steps
            if is_last or (self.test_freq > 0 and step % self.test_freq == 0):
                self._measure(step)
            if is_last or (self.save_freq > 0 and step % self.save_freq == 0):
                self.ckpt_handler.save_checkpoint(step=step)

    def _batches(self, step: int) -> Iterator[dict[str, Any]]:
        """The batches from a step on; verl's loader goes on within an epoch by itself."""
        for epoch in range(step // self.steps_per_epoch, self.config.trainer.total_epochs):
            self.train_sampler.set_epoch(epoch)
            begun = step
            while step == begun:  # a loader whose state was saved at the end of an epoch first gives no batch
                for batch in self.train_dataloader:
                    if step == self.total_training_steps:
                        return
                    step += 1
                    yield batch

    def _train_step(self, batch: dict[str, Any]) -> dict[str, float]:
        began = time.monotonic()
        data = tu.get_tensordict(tensor_dict=batch, non_tensor_dict=self._settings())
        lengths = self._get_batch_seqlens(data)
        tu.assign_non_tensor(data, update_lr_scheduler=True, global_token_num=NonTensorData(lengths))
        output = self.training_client.train_batch(data=data)
        if output is None:
            return {}
        metrics = dict(tu.get(output, "metrics"))
        names = ("loss", "grad_norm", "lr", "accuracy", "difference", "chosen", "rejected")
        found = {f"train/{name}": float(metrics[name]) for name in names if name in metrics}
        return found | {"train/tokens": float(sum(lengths)), "train/step_s": time.monotonic() - began}

    def _measure(self, step: int) -> None:
        """Score all held-out pairs, log what it comes to, and write the scores."""
        own: list[tuple[int, float, float, float]] = []
        for batch in self.val_dataloader:
            data = tu.get_tensordict(tensor_dict=batch, non_tensor_dict=self._settings())
            tu.assign_non_tensor(
                data, compute_loss=False, global_token_num=NonTensorData(self._get_batch_seqlens(data))
            )
            output = self.training_client.infer_batch(data)
            if output is not None:
                last = last_values(tu.get(output, "values")).tolist()
                rows, margins = batch["row"].values()[0::2].tolist(), batch["margin"].values()[0::2].tolist()
                own += zip(rows, last[0::2], last[1::2], margins, strict=True)
        everyone: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(everyone, own)
        if not self.is_first:
            return
        scores = {each[0]: each for part in everyone for each in part}  # a sampler repeats pairs to fill the last batch
        table = np.array([scores[row] for row in sorted(scores)], dtype=float).reshape(-1, 4)
        chosen, rejected, margin = table[:, 1], table[:, 2], table[:, 3]
        self._log(
            {
                "held_out/accuracy": float(np.mean((chosen > rejected) + 0.5 * (chosen == rejected))),
                "held_out/loss": float(np.mean(np.logaddexp(0.0, -(chosen - rejected - margin)))),
                "held_out/difference": float(np.mean(chosen - rejected)),
                "held_out/pairs": len(table),
            },
            step,
        )
        lines = [{"row": int(row), "chosen": c, "rejected": r} for row, c, r, _ in table.tolist()]
        replace_file(self.config.bradley_terry.scores_file, "".join(json.dumps(line) + "\n" for line in lines))

    def _settings(self) -> dict[str, Any]:
        data, model = self.config.data, self.config.model
        return {
            "use_remove_padding": model.use_remove_padding,
            "use_dynamic_bsz": data.use_dynamic_bsz,
            "max_token_len_per_gpu": data.max_token_len_per_gpu,
            "micro_batch_size_per_gpu": data.micro_batch_size_per_gpu,
            "temperature": 1.0,
            "global_batch_size": self.global_batch_size,
            "pad_mode": data.pad_mode,
            "pad_token_id": self.model_config.tokenizer.pad_token_id,
        }

    def _log(self, metrics: dict[str, Any], step: int) -> None:
        if self._tracking is not None and metrics:
            self._tracking.log(data=metrics, step=step)


def replace_file(path: str, text: str) -> None:
    """Write a file whole or not at all."""
    with open(f"{path}.part", "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(f"{path}.part", path)


def scalar_architecture(base: str, trust_remote_code: bool) -> list[str]:
    """The class of the base model with one output a token: Qwen2ForCausalLM -> Qwen2ForTokenClassification."""
    config = AutoConfig.from_pretrained(base, trust_remote_code=trust_remote_code)
    name = (config.architectures or [""])[0]
    family, found, _ = name.partition("For")
    if not found:
        raise ValueError(f"{base}: its config.json names no architecture")
    return [f"{family}ForTokenClassification"]


@hydra.main("pkg://verl.trainer.config", "sft_trainer_engine", None)  # type: ignore[untyped-decorator]
def main(config: Any) -> None:
    """Train as the configuration says."""
    initialize_global_process_group()
    with open_dict(config):
        config.model.override_config.architectures = scalar_architecture(
            config.model.path, config.model.trust_remote_code
        )
        config.model.override_config.num_labels = 1
        config.model.override_config.classifier_dropout = 0.0
    torch.manual_seed(config.trainer.seed)  # the head is drawn
    BradleyTerryTrainer(config).fit()
    destroy_global_process_group()


if __name__ == "__main__":
    main()
