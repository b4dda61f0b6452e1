"""What a job does about its judges: finds them among its rewards, runs their clients, tells and keeps what they cost.

judges = job_judges(prepared)                     # {"kind": JudgeReward}
with clients(judges, ledger, options, display) as judged:
    run_pieces(..., connections=judged.connections)
judged.told(counts)                               # {"kind": Spending}
"""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from connectors.errors import JobError, UserError
from connectors.groups import group_offsets
from connectors.ledger import Ledger
from connectors.storage import StorageOptions
from jobs.run.prepare import Prepared
from jobs.run.sampling import Sample, by_first_place
from jobs.show.display import Display
from rmbatch.chat.connect import Unasked, open_client
from rmbatch.chat.limits.accounts import Spent, with_default_cache
from rmbatch.chat.spec import ChatSpec
from rmbatch.costs.chat import Spending, spending
from rmbatch.endpoints.errors import ServiceError
from rmbatch.judges.asking import counted_as
from rmbatch.judges.reward import JudgeReward, judge_rewards
from rmbatch.rows.roles import flatten

TOKEN_BYTES = 4
"""Of text, for an estimate: English has about so many a token, Chinese fewer."""


def job_judges(prepared: Prepared) -> dict[str, JudgeReward]:
    """The job's judges, those inside compositions too, by the names that their columns end in."""
    return dict(judge_rewards(prepared.score_stage.rewards))


@dataclass(frozen=True)
class Judged:
    """The clients of a running job; without judges it is empty."""

    judges: Mapping[str, JudgeReward] = field(default_factory=dict)
    specs: Mapping[str, ChatSpec] = field(default_factory=dict)
    """By judge: who is asked, as its client has it."""
    chats: Any = None
    spent: Spent | None = None

    @property
    def connections(self) -> Mapping[str, Any]:
        """By the client keys that judges ask by, for the tasks."""
        if not self.chats:
            return {}
        there = self.chats.connections
        return {judge.spec.chat().client_key: there[self.specs[name].client_key] for name, judge in self.judges.items()}

    @property
    def block_rows(self) -> int | None:
        """Rows that a task should take at a time; None: as many as without judges."""
        return self.chats.block_rows if self.chats else None

    def told(self, counts: Mapping[str, int]) -> dict[str, Spending]:
        """What each judge has cost so far, by the counts of the tasks."""
        found = {}
        for name, judge in self.judges.items():
            start = counted_as(judge.spec)
            mine = {key.removeprefix(start): number for key, number in counts.items() if key.startswith(start)}
            found[name] = spending(mine, judge.spec.price)
        return found

    def keep_spent(self) -> None:
        """Keep what was spent against budgets so far."""
        if self.chats and self.spent:
            self.spent.keep(self.chats.usage())


def unasked_judges(judges: Mapping[str, JudgeReward]) -> dict[str, Unasked]:
    """Connections for a look at a job that asks nobody."""
    return {judge.spec.chat().client_key: Unasked() for judge in judges.values()}


def look_for_judge(asked: tuple[str, ChatSpec]) -> None:
    """Raises UserError where none of the servers that a reward (by name) asks is there; asks them nothing else."""
    name, spec = asked

    async def look() -> None:
        client = open_client(spec.model_copy(update={"cache": None}))
        try:
            await client.start()
        finally:
            await client.close()

    try:
        asyncio.run(look())
    except ServiceError as error:
        raise UserError(f"reward {name!r}: model {spec.model!r} cannot be asked: {error}") from None


@contextmanager
def clients(
    judges: Mapping[str, JudgeReward], ledger: Ledger, options: StorageOptions, display: Display
) -> Iterator[Judged]:
    """The clients of the judges while rows are worked on; raises UserError where no server can be asked."""
    if not judges:
        yield Judged()
        return
    from rmbatch.pipeline.actors.chats import start_chats

    specs = {name: with_default_cache(judge.spec.chat(), ledger.private) for name, judge in judges.items()}
    spent = Spent(ledger.private)
    named = {spec.client_key: (name, spec) for name, spec in specs.items()}
    with start_chats(named, options, spent.by_account, display.say, spent.keep) as chats:
        try:
            yield Judged(judges, specs, chats, spent)
        except JobError:  # it goes on another day; who interrupts it does not wait for this
            chats.compact()
            raise
        chats.compact()


def estimated(name: str, judge: JudgeReward, sample: Sample, prepared: Prepared) -> list[tuple[str, str]]:
    """What a judge will have to be asked, by a sample, as lines for people."""
    rows, offsets = sample.rows, None
    if prepared.group is not None:
        rows = by_first_place(rows, prepared.group)
        offsets = group_offsets(rows, prepared.group)
    view = flatten(rows, prepared.roles)
    questions = judge.questions(view.column, offsets if view.offsets is None else view.offsets)
    about = "at most" if "." in name else "about"  # behind a gate or on a route, only some of the rows come to it
    if offsets is not None and judge.takes_offsets:
        about = "at least"  # of a prompt whose rows are scattered, the sample has only some
    share = sample.all_places / max(sample.num_places, 1)
    num_votes = sum(question.num_votes for question in questions)
    tokens = sum(len(question.text.encode()) for question in questions) / TOKEN_BYTES * share
    lines = [
        ("requests", f"{about} {len(questions) * share:,.0f}, {num_votes * share:,.0f} answers"),
        ("prompts", f"{about} {tokens:,.0f} tokens, by {TOKEN_BYTES} bytes each"),
    ]
    price, longest = judge.spec.price, judge.spec.max_tokens
    if price is not None:
        least = tokens * (price.input if price.cached is None else min(price.cached, price.input)) / 1e6
        lines.append(("prompts cost", f"about ${tokens * price.input / 1e6:,.2f}, ${least:,.2f} if all were cached"))
        if longest is not None:
            most = num_votes * share * longest * price.output / 1e6
            lines.append(("answers cost", f"at most ${most:,.2f}, without repairs and repeated tries"))
    if questions:
        lines.append(("first question", questions[0].text))
    return lines
