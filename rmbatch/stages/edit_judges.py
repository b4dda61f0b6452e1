"""The judges of a correction as a plan counts them: what they are asked about edits, at most.

JudgeOfEdits(judge, "scores", times=12).questions(view.column, view.offsets)   # those about the rows, and 12 for each
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rmbatch.chat.spec import ChatSpec
from rmbatch.correction.spec import CorrectSpec
from rmbatch.rows.messages import TEXT
from rmbatch.stages.base import Asker, Inquiry, Needs

if TYPE_CHECKING:
    from rmbatch.rewards.evaluation import Columns, Offsets

Work = Literal["scores", "prefers", "watches"]
"""What a judge does: it scores the rows and their edits, it compares each edit with the best text so far, or it only
watches the edits that are accepted."""


@dataclass(frozen=True)
class JudgeOfEdits:
    """A judge that is asked about edits. Nobody knows them before, so they are taken to be as long as the responses."""

    judge: Asker
    work: Work
    times: int
    """How many edits of a row it is asked about, if all rounds are needed."""
    asks_all = False

    @property
    def takes_offsets(self) -> bool:
        """Whether it compares responses."""
        return self.judge.takes_offsets

    @property
    def chat(self) -> ChatSpec:
        """Who is asked."""
        return self.judge.chat

    @property
    def counted_as(self) -> str:
        """The name that what it uses is counted under."""
        return self.judge.counted_as

    def column_types(self, name: str) -> dict[str, pa.DataType]:
        """The columns that it adds under a name."""
        return self.judge.column_types(name)

    def questions(self, column: "Columns", offsets: "Offsets | None" = None) -> list[Inquiry]:
        """The questions of all rounds for some rows, if all of them entered and none reached its target early."""
        rows = np.arange(len(column("prompt"))) if offsets is None else offsets[:-1][np.diff(offsets) > 0]
        compares = self.work != "scores"
        places = pa.array(np.repeat(rows, 2 if compares else 1))

        def edits(name: str) -> pa.Array:
            values = column(name).take(places)
            return _mark_edits(values, every=2 if compares else 1) if name == "response" else values

        asked = [*self.judge.questions(edits, np.arange(len(rows) + 1) * 2 if compares else None)] * self.times
        return asked if compares else [*self.judge.questions(column, offsets), *asked]


def judges_of_edits(needs: Needs, work: Work, spec: CorrectSpec) -> dict[str, Asker]:
    """The askers of these needs, as those who are asked about edits."""
    times = spec.rounds * (1 if work == "watches" else spec.editor.edits)
    if work == "scores" and spec.accept.noise is not None:
        times *= 1 + spec.accept.noise.repeats
    return {name: JudgeOfEdits(judge, work, times) for name, judge in needs.askers.items()}


def _mark_edits(texts: pa.Array, every: int) -> pa.Array:
    """The last of ``every`` texts as an edit: of equal texts no judge is asked which is better."""
    texts = pc.fill_null(texts.cast(TEXT), "")
    edited = pc.binary_join_element_wise(texts, pa.scalar("edited", TEXT), pa.scalar(" ", TEXT))
    return pc.if_else(pa.array(np.arange(len(texts)) % every == every - 1), edited, texts)
