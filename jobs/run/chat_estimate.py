"""How much a job will ask its chat models, from a sample of its rows: by who asks, and by model that several share.

estimates = {"help": estimate_chat("help", asker, sample, roles, group=None)}
estimates["help"].lines()                            # [("requests", "about 1,200, 3,600 answers"), …]
sum_by_model(askers, estimates)                      # {"qwen3-32b at host:8000": {"asked by": "generate, help", …}}
"""

from collections.abc import Mapping
from dataclasses import dataclass

from connectors.groups import group_offsets
from jobs.run.sampling import Sample, gather_groups
from rmbatch.rows.roles import Roles, flatten
from rmbatch.stages.base import Asker

TOKEN_BYTES = 4
"""Bytes of text per token, for an estimate: about right for English, too high for Chinese."""


@dataclass(frozen=True)
class ChatEstimate:
    """What one asker will ask over the whole input."""

    about: str
    """How sure that is: about, at most or at least."""
    requests: float
    answers: float
    prompt_tokens: float
    prompt_usd: float | None
    """US dollars, if no prompt is cached by the provider. None: no price is set."""
    cached_usd: float | None
    """The same if all were cached."""
    answer_usd: float | None
    """The most that the answers cost, without repairs and repeated tries. None: nothing bounds it."""
    first_question: str | None

    def lines(self) -> list[tuple[str, str]]:
        """Names and values to show."""
        lines = [
            ("requests", f"{self.about} {self.requests:,.0f}, {self.answers:,.0f} answers"),
            ("prompts", f"{self.about} {self.prompt_tokens:,.0f} tokens, by {TOKEN_BYTES} bytes each"),
        ]
        if self.prompt_usd is not None:
            lines.append(("prompts cost", f"about ${self.prompt_usd:,.2f}, ${self.cached_usd:,.2f} if all were cached"))
        if self.answer_usd is not None:
            lines.append(("answers cost", f"at most ${self.answer_usd:,.2f}, without repairs and repeated tries"))
        if self.first_question is not None:
            lines.append(("first question", self.first_question))
        return lines


def estimate_chat(name: str, asker: Asker, sample: Sample, roles: Roles, group: str | None) -> ChatEstimate:
    """Estimate what an asker will ask. ``group``: the key column of flat rows that are compared."""
    rows, offsets = sample.rows, None
    if group is not None:
        rows = gather_groups(rows, group)
        offsets = group_offsets(rows, group)
    view = flatten(rows, roles)
    questions = asker.questions(view.column, offsets if view.offsets is None else view.offsets)
    is_behind = "." in name  # behind a gate or on a route it gets only some of the rows
    about = "at most" if is_behind or not asker.asks_all else "about"
    if offsets is not None and asker.takes_offsets:
        about = "at least"  # the sample may lack some rows of a prompt
    share = sample.all_places / max(sample.num_places, 1)
    answers = sum(question.num_votes for question in questions) * share
    tokens = sum(len(question.text.encode()) for question in questions) / TOKEN_BYTES * share
    price, longest = asker.chat.price, asker.chat.max_tokens
    return ChatEstimate(
        about,
        len(questions) * share,
        answers,
        tokens,
        None if price is None else tokens * price.input / 1e6,
        None if price is None else tokens * min(price.input, price.cached or price.input) / 1e6,
        None if price is None or longest is None else answers * longest * price.output / 1e6,
        questions[0].text if questions else None,
    )


def sum_by_model(askers: Mapping[str, Asker], estimates: Mapping[str, ChatEstimate]) -> dict[str, dict[str, str]]:
    """What each model is asked in all, where several ask it: names and values to show."""
    by_account: dict[str, list[str]] = {}
    for name, asker in askers.items():
        by_account.setdefault(asker.chat.account, []).append(name)
    found = {}
    for names in by_account.values():
        if len(names) < 2:
            continue
        chat, mine = askers[names[0]].chat, [estimates[name] for name in names]
        lines = {
            "asked by": ", ".join(names),
            "requests": f"about {sum(each.requests for each in mine):,.0f}",
            "prompts": f"about {sum(each.prompt_tokens for each in mine):,.0f} tokens",
        }
        prompts, answers = [each.prompt_usd for each in mine], [each.answer_usd for each in mine]
        if None not in prompts:
            lines["prompts cost"] = f"about ${sum(filter(None, prompts)):,.2f}"
        if None not in answers:
            lines["answers cost"] = f"at most ${sum(filter(None, answers)):,.2f}"
        found[f"{chat.model} at {chat.service_name}"] = lines
    return found
