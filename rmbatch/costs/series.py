"""What the models of one run have used, by time: few points, so that a run of weeks has a small file.

    series = UsageSeries(began=time.time())
    series.add(10.0, {"judge": ModelUsage("chat", "gpt", {"answers": 12, "prompt_tokens": 900}, usd=0.002)})
    UsageSeries.from_json(series.to_json()).last["judge"].usd      # 0.002

It knows nothing of other runs: ``rmbatch/reports/usage.py`` adds them up.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import orjson

VERSION = 1
MOST_POINTS = 500
"""With more points, every second one is dropped."""
Kind = Literal["chat", "reward_model"]


@dataclass(frozen=True)
class ModelUsage:
    """What a user of a model has used since the run began."""

    kind: Kind
    model: str
    counts: Mapping[str, int]
    """Of a chat model as ``prices.count``, of a reward model as ``engine_cost`` takes them."""
    usd: float | None
    """The cost of the answers whose tokens are known. None: no price is set."""


class UsageSeries:
    """Points of time, and what each user of a model had used by then. Usage only grows."""

    def __init__(self, began: float) -> None:
        """``began``: seconds since 1970."""
        self.began = began
        self.points: list[tuple[float, Mapping[str, ModelUsage]]] = [(0.0, {})]
        """Seconds since the run began, and the usage by user; the first point is the beginning."""
        self._step_s = 0.0

    @property
    def last(self) -> Mapping[str, ModelUsage]:
        """The usage of the whole run, by user."""
        return self.points[-1][1]

    def add(self, seconds: float, used: Mapping[str, ModelUsage]) -> None:
        """Add the newest point. It replaces the one before where the points would come too close."""
        if len(self.points) > 2 and seconds - self.points[-2][0] < self._step_s:
            self.points.pop()
        self.points.append((seconds, used))
        if len(self.points) > MOST_POINTS:
            self.points = [*self.points[:-1:2], self.points[-1]]
            self._step_s = 2 * seconds / MOST_POINTS

    def to_json(self) -> bytes:
        """One list of each count, with a value for each point."""
        users = {
            name: {
                "kind": each.kind,
                "model": each.model,
                "usd": None if each.usd is None else [_usd_of(used.get(name)) for _, used in self.points],
                "counts": {
                    what: [used[name].counts.get(what, 0) if name in used else 0 for _, used in self.points]
                    for what in each.counts
                },
            }
            for name, each in self.last.items()
        }
        seconds = [round(at, 3) for at, _ in self.points]
        return orjson.dumps({"version": VERSION, "began": self.began, "seconds": seconds, "users": users})

    @classmethod
    def from_json(cls, text: bytes) -> "UsageSeries":
        """Read what ``to_json`` wrote. Raises ValueError for anything else."""
        try:
            return cls._from_plain(orjson.loads(text))
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise ValueError(f"it does not hold what models have used: {error!r}") from None

    @classmethod
    def _from_plain(cls, data: Mapping[str, Any]) -> "UsageSeries":
        if data["version"] != VERSION:
            raise ValueError(f"it is of version {data['version']}, and this reads version {VERSION}")
        series = cls(float(data["began"]))
        series.points = [
            (
                float(seconds),
                {
                    name: ModelUsage(
                        each["kind"],
                        str(each["model"]),
                        {what: int(values[place]) for what, values in each["counts"].items()},
                        None if each["usd"] is None else float(each["usd"][place]),
                    )
                    for name, each in data["users"].items()
                },
            )
            for place, seconds in enumerate(data["seconds"])
        ]
        if not series.points:
            raise ValueError("it holds no point of time")
        return series


def _usd_of(used: ModelUsage | None) -> float:
    return 0.0 if used is None or used.usd is None else used.usd
