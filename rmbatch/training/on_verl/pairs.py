"""Preference pairs as a torch dataset: two token sequences a pair, written exactly as scoring will write them.

data = Pairs("train.parquet", spec)
data[0]                                       # [chosen, rejected]: input_ids, position_ids, loss_mask, margin
collate([data[0], data[1]])                   # four sequences as nested tensors: chosen, rejected, chosen, rejected
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.utils.data import Dataset
from verl.utils.dataset.dataset_utils import DatasetPadMode, SFTTensorCollator

from rmbatch.reward_models.conversation import Encoder
from rmbatch.reward_models.spec import RewardModelSpec

BATCH_ROWS = 1024


class Pairs(Dataset):  # type: ignore[misc]
    """The pairs of a Parquet file: prompt, chosen, rejected, margin (0 where null); too long ones are left out.

    Tokenised once, by the encoder that scores with the trained model, so both read the same tokens.
    """

    def __init__(self, file: str, spec: RewardModelSpec) -> None:
        encoder = Encoder(spec)
        sides: dict[str, list[pa.Array]] = {"chosen": [], "rejected": []}
        rows: list[int] = []
        margins: list[float] = []
        self.num_left_out = 0
        """Pairs with a conversation that is longer than the limit, or that the chat template refuses."""
        first = 0
        for batch in pq.ParquetFile(file).iter_batches(BATCH_ROWS):
            encoded = {side: encoder.encode(batch["prompt"], batch[side]).ids for side in sides}
            usable = [
                place
                for place in range(batch.num_rows)
                if encoded["chosen"][place].is_valid and encoded["rejected"][place].is_valid
            ]
            for side, chunks in sides.items():
                chunks.append(encoded[side].take(pa.array(usable, pa.int64())))
            margin = batch["margin"].to_pylist()
            rows += [first + place for place in usable]
            margins += [margin[place] or 0.0 for place in usable]
            self.num_left_out += batch.num_rows - len(usable)
            first += batch.num_rows
        self.rows, self.margins = np.array(rows, dtype=np.int64), np.array(margins)
        self._sides = [pa.chunked_array(chunks) if chunks else pa.chunked_array([[]]) for chunks in sides.values()]
        self._sides = [pa.concat_arrays(side.chunks) for side in self._sides]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> list[dict[str, Any]]:
        return [self._sequence(side[place].values.to_numpy(), place) for side in self._sides]

    def _sequence(self, ids: "np.ndarray[Any, Any]", place: int) -> dict[str, Any]:
        tokens = torch.tensor(ids, dtype=torch.int64)
        return {
            "input_ids": tokens,
            "position_ids": torch.arange(len(tokens)),
            "loss_mask": torch.ones_like(tokens),
            "margin": torch.full((1,), float(self.margins[place])),
            "row": torch.full((1,), int(self.rows[place])),
        }


def collate(pairs: Sequence[Sequence[dict[str, Any]]]) -> dict[str, Any]:
    """Pairs as one batch of sequences, chosen and rejected by turns."""
    flat = [sequence for pair in pairs for sequence in pair]
    batch: dict[str, Any] = SFTTensorCollator(DatasetPadMode.NO_PADDING)(flat)
    return batch
