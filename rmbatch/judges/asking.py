"""Asks a judge questions and reads the votes.

    votes = ask(spec, [Question("Which is better? …", form, num_votes=3)])
    votes[0][0].value                                    # what the form's verdict is, or None and votes[0][0].error

A vote that cannot be read is no verdict, and never a default: it keeps the code and all that was said. With ``repair``
the judge is asked for it once more.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rmbatch.chat.connect import complete_counted
from rmbatch.chat.request import ChatRequest
from rmbatch.judges.form import Form
from rmbatch.judges.spec import JudgeSpec

if TYPE_CHECKING:
    from rmbatch.chat.completion import Completion, Sample


MOST_THOUGHT = 2000
"""Characters that are kept of what was thought, where nothing was said."""


def counted_as(spec: JudgeSpec) -> str:
    """The name that what a judge uses is counted under."""
    return f"judge.{spec.digest}"


@dataclass(frozen=True)
class Question:
    """One question to a judge."""

    text: str
    form: Form
    num_votes: int = 1
    number: int = 0
    """Which of several votes it is for, so that no two of them are one request."""
    quotable: str = ""
    """What others wrote of it: the conversation, the responses, the reference."""
    affinity: str = ""
    """Questions with the same begin alike, and go to the same one of several servers."""


@dataclass(frozen=True)
class Vote:
    """One verdict, or why there is none."""

    value: Any = None
    error: str | None = None
    """``stable_code: message``; None where there is a value."""
    said: str = ""
    """The reasons; where the verdict could not be read, all that was said."""


def ask(spec: JudgeSpec, questions: Sequence[Question]) -> list[list[Vote]]:
    """Ask the judge, and return the votes on each question. Raises JobError where all must stop."""
    asks = [
        (place, _make_request(question, _write_messages(spec, question), seed=_seed_of_vote(spec, number), n=n))
        for place, question in enumerate(questions)
        for number, n in _split_into_requests(spec, question)
    ]

    def read(number: int, completion: "Completion") -> list[Vote]:
        place, request = asks[number]
        return _read_votes(spec, questions[place], completion, request.n or 1)

    def find_errors(number: int, completion: "Completion") -> list[str]:
        found = [vote for vote in read(number, completion) if not _is_repaired(spec, vote)]
        return [vote.error for vote in found if vote.error is not None]

    completions = complete_counted(spec.chat(), [request for _, request in asks], counted_as(spec), find_errors)
    votes: list[list[Vote]] = [[] for _ in questions]
    for number, completion in enumerate(completions):
        votes[asks[number][0]] += read(number, completion)
    return _repair(spec, questions, votes) if spec.repair else votes


def _split_into_requests(spec: JudgeSpec, question: Question) -> list[tuple[int, int]]:
    """The requests that bring the votes on a question: of each its number and how many samples it asks for."""
    if not spec.one_by_one:
        return [(question.number, question.num_votes)]
    return [(question.number + number, 1) for number in range(question.num_votes)]


def _seed_of_vote(spec: JudgeSpec, number: int) -> int | None:
    """The seed of a vote's request. Without a seed in the settings the first vote has none, each other its number."""
    if spec.seed is None:
        return number or None
    return spec.seed + number


def _is_repaired(spec: JudgeSpec, vote: Vote) -> bool:
    """Whether a vote is asked for once more because it cannot be read."""
    return spec.repair and vote.error is not None and vote.error.startswith("verdict_") and bool(vote.said)


def _repair(spec: JudgeSpec, questions: Sequence[Question], votes: list[list[Vote]]) -> list[list[Vote]]:
    """Ask once more for each vote that could not be read, and return all votes."""
    places = [
        (row, place) for row, some in enumerate(votes) for place, vote in enumerate(some) if _is_repaired(spec, vote)
    ]
    requests = []
    for row, place in places:
        vote, question = votes[row][place], questions[row]
        why = f"This cannot be read ({vote.error}). {question.form.instructions(spec.structured)}"
        said = [{"role": "assistant", "content": vote.said}, {"role": "user", "content": why}]
        seed = _seed_of_vote(spec, question.number + place)
        requests.append(_make_request(question, [*_write_messages(spec, question), *said], seed=seed, n=1))

    def read(number: int, completion: "Completion") -> Vote:
        (vote,) = _read_votes(spec, questions[places[number][0]], completion, 1)
        return vote

    def find_errors(number: int, completion: "Completion") -> list[str]:
        row, place = places[number]
        return [] if read(number, completion).error is None else [str(votes[row][place].error)]

    completions = complete_counted(spec.chat(), requests, counted_as(spec), find_errors)
    votes = [list(some) for some in votes]
    for number, (row, place) in enumerate(places):
        again = read(number, completions[number])
        if again.error is None:
            votes[row][place] = again
    return votes


def _make_request(question: Question, messages: list[dict[str, str]], *, seed: int | None, n: int) -> ChatRequest:
    schema = question.form.schema
    return ChatRequest(messages, schema, schema_name="verdict", seed=seed, n=n, affinity=question.affinity)


def _read_votes(spec: JudgeSpec, question: Question, completion: "Completion", num_votes: int) -> list[Vote]:
    if completion.failure is not None:
        return [Vote(error=str(completion.failure))] * num_votes
    return [_read_vote(spec, question, sample) for sample in completion.samples]


def _read_vote(spec: JudgeSpec, question: Question, sample: "Sample") -> Vote:
    if sample.text is None:
        return Vote(error="refused_by_filter: this sample was withheld")
    form, text = question.form, sample.content or ""
    reading = form.read(
        text,
        spec.structured,
        quotable=question.quotable,
        was_thought=bool(sample.reasoning) and sample.text == text.lstrip(),
        has_ended=sample.has_ended,
    )
    if reading.reason is None:
        return Vote(reading.value, said=form.critique_in(text, spec.structured))
    said = sample.text or sample.reasoning[-MOST_THOUGHT:]
    if sample.is_cut_off:
        return Vote(error=f"verdict_cut_off: the answer ended at max_tokens; {reading.reason}", said=said)
    return Vote(error=reading.reason, said=said)


def _write_messages(spec: JudgeSpec, question: Question) -> list[dict[str, str]]:
    system = [] if spec.system is None else [{"role": "system", "content": spec.system}]
    return [*system, {"role": "user", "content": question.text}]
