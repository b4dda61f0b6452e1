"""The settings that all judges have: who is asked (``ChatSpec``), what good means, how often it is asked.

The same in a job file (``rewards: {help: {judge: pointwise, …}}``) and in Python (``rmbatch.judge("pointwise", …)``).
Each kind (``kinds/``) is a subclass with settings of its own. Importing it loads no client and no template engine.
"""

import math
from typing import Literal, Self

from pydantic import model_validator

from rmbatch.chat.spec import ChatSpec
from rmbatch.settings.base import Positive

Aggregate = Literal["mean", "median", "majority", "min", "max"]


class JudgeSpec(ChatSpec):
    """What all kinds of judges have, beside who is asked."""

    judge: str
    """The kind."""
    principles: str | tuple[str, ...] | None = None
    """What good means: a topic of the alignment library, the path of a principle file, or sentences. None: what the
    template says."""
    template: str | None = None
    """A jinja2 template of what the judge is asked, or the path of one (``*.jinja``). None: the kind's own."""
    system: str | None = None
    """A system message before it. None: none is sent, for some models refuse one."""
    reference: bool = False
    """Whether the judge sees the reference; a response without one then has no score."""
    critique: bool = True
    """Whether reasons are asked for before the verdict: better verdicts, longer answers."""
    repair: bool = False
    """Whether a verdict that cannot be read is asked for once more, with what is wrong with it."""
    min_votes: Positive | None = None
    """Of ``n`` votes, the fewest that must be readable. None: more than half."""
    one_by_one: bool = False
    """Whether each of ``n`` votes is a request of its own, with seeds that count up, for servers that do not know n."""
    shuffle_seed: int = 0
    """What decides the order of candidates, together with the texts themselves."""

    @model_validator(mode="after")
    def _votes_fit(self) -> Self:
        if self.min_votes is not None and self.min_votes > self.n:
            raise ValueError(f"min_votes: {self.min_votes} of {self.n} votes (n) can never be there")
        if self.logprobs is not None:
            raise ValueError("logprobs: no judge reads log probabilities; leave it out")
        return self

    @property
    def quorum(self) -> int:
        """``min_votes``, with None filled in."""
        return self.n // 2 + 1 if self.min_votes is None else self.min_votes

    def chat(self) -> ChatSpec:
        """Who is asked, and how, without what makes it a judge."""
        is_single = self.asks_differently or self.one_by_one
        return self.as_chat(**({"n": 1} if is_single else {}))


def check_scale(scale: tuple[float, float], whole: bool) -> None:
    """Raises ValueError for a scale that no verdict could be on."""
    low, high = scale
    if not low < high:
        raise ValueError(f"scale: must begin below its end; got {list(scale)}")
    if whole and math.floor(high) - math.ceil(low) < 1:
        raise ValueError(f"scale: {list(scale)} has no two whole numbers; write another one, or whole: false")
