"""Samples candidates for the prompts of some rows: the one kernel of notebooks and jobs.

    candidates = sample(spec, writers, prompts, ask_models(writers))           # a list for each row

All candidates that are wanted at a time are asked for together, those of a prompt next to each other, so that a server
computes the prompt once. With ``stop_when`` they are asked for in waves, and prompts that have enough drop out.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rmbatch.chat.connect import complete_counted
from rmbatch.generation.candidates import Candidate, read_candidate
from rmbatch.generation.requests import Prompt, RequestWriter
from rmbatch.generation.spec import GenerateSpec

if TYPE_CHECKING:
    from rmbatch.chat.client import ChatRequest
    from rmbatch.chat.completion import Completion

Ask = Callable[[int, "Sequence[ChatRequest]"], "Sequence[Completion]"]
"""Asks the source of this number; a completion for each request."""
Passes = Callable[[Sequence[int], Sequence[str | None]], Sequence[bool]]
"""Whether each text, an answer to the prompt of this row, has passed."""


@dataclass(frozen=True)
class _Slot:
    """A candidate that is wanted."""

    row: int
    place: int
    """Among the row's candidates."""
    source: int
    number: int
    """Among those of the source."""


def sample(
    spec: GenerateSpec,
    writers: Sequence[RequestWriter],
    prompts: Sequence[Sequence[Prompt]],
    ask: Ask,
    passes: Passes | None = None,
) -> list[list[Candidate]]:
    """The candidates of each row, those of a source in order, one source after the other.

    ``prompts``: of each source, of each row. ``passes``: judges candidates for ``stop_when``. Raises JobError where all
    must stop.
    """
    num_rows = len(prompts[0])
    order = [(source, number) for source, each in enumerate(spec.sources) for number in range(each.n)]
    found: list[list[Candidate]] = [[] for _ in range(num_rows)]
    passed = [0] * num_rows
    still_open = list(range(num_rows))
    while still_open:
        slots = [
            _Slot(row, place, *order[place])
            for row in still_open
            for place in range(len(found[row]), len(found[row]) + _count_next(spec, len(found[row]), passed[row]))
        ]
        for slot, candidate in zip(slots, _fill(slots, writers, prompts, ask, found), strict=True):
            found[slot.row].append(candidate)
        if spec.stop_when is not None and passes is not None:
            usable = [slot for slot in slots if found[slot.row][slot.place].error is None]
            texts = [found[slot.row][slot.place].text for slot in usable]
            for slot, has_passed in zip(usable, passes([slot.row for slot in usable], texts), strict=True):
                passed[slot.row] += has_passed
        still_open = [row for row in still_open if not _has_enough(spec, len(found[row]), passed[row])]
    return found


def ask_models(writers: Sequence[RequestWriter]) -> Ask:
    """Asks the sources' servers, and counts what that costs."""

    def ask(source: int, requests: "Sequence[ChatRequest]") -> "Sequence[Completion]":
        writer = writers[source]

        def find_errors(place: int, completion: "Completion") -> list[str]:
            error = read_candidate(completion, writer.source, requests[place].seed or 0).error
            return [] if error is None else [error]

        return complete_counted(writer.chat, requests, writer.counted_as, find_errors)

    return ask


def _count_next(spec: GenerateSpec, num_found: int, num_passed: int) -> int:
    """How many candidates are asked for next, of a prompt that has not enough."""
    left, stop = spec.num_candidates - num_found, spec.stop_when
    if stop is None:
        return left
    return min(stop.wave or max(stop.count - num_passed, num_found), left)  # in all, at most twice as many as needed


def _has_enough(spec: GenerateSpec, num_found: int, num_passed: int) -> bool:
    return num_found >= spec.num_candidates or (spec.stop_when is not None and num_passed >= spec.stop_when.count)


def _fill(
    slots: Sequence[_Slot],
    writers: Sequence[RequestWriter],
    prompts: Sequence[Sequence[Prompt]],
    ask: Ask,
    before: Sequence[Sequence[Candidate]],
) -> list[Candidate]:
    """The candidates of these slots. One that repeats another of its row is asked for anew, as often as its source
    allows; the last answer stands."""
    filled: dict[_Slot, Candidate] = {}
    missing = list(slots)
    for attempt in range(1 + max(writer.source.retry_repeats for writer in writers)):
        filled |= _ask(missing, attempt, writers, prompts, ask)
        missing = [
            slot for slot in _find_repeats(slots, filled, before) if attempt < writers[slot.source].source.retry_repeats
        ]
        if not missing:
            break
    return [filled[slot] for slot in slots]


def _ask(
    slots: Sequence[_Slot],
    attempt: int,
    writers: Sequence[RequestWriter],
    prompts: Sequence[Sequence[Prompt]],
    ask: Ask,
) -> dict[_Slot, Candidate]:
    """Ask for these candidates, all sources at once."""

    def ask_source(source: int) -> dict[_Slot, Candidate]:
        writer = writers[source]
        mine = [(slot, prompts[source][slot.row]) for slot in slots if slot.source == source]
        asked = [(slot, prompt) for slot, prompt in mine if prompt.error is None]
        requests = [writer.write(prompt, slot.number, attempt) for slot, prompt in asked]
        completions = ask(source, requests) if requests else []
        found = {slot: Candidate(None, writer.source.model, prompt.error) for slot, prompt in mine}
        for (slot, prompt), completion in zip(asked, completions, strict=True):
            found[slot] = read_candidate(completion, writer.source, writer.seed(prompt, slot.number, attempt))
        return found

    sources = sorted({slot.source for slot in slots})
    if len(sources) <= 1:
        return ask_source(sources[0]) if sources else {}
    with ThreadPoolExecutor(len(sources)) as threads:
        return {slot: each for found in threads.map(ask_source, sources) for slot, each in found.items()}


def _find_repeats(
    slots: Sequence[_Slot], filled: dict[_Slot, Candidate], before: Sequence[Sequence[Candidate]]
) -> Iterator[_Slot]:
    """The slots whose text stands in an earlier one of the same row."""
    seen = {slot.row: {candidate.text for candidate in before[slot.row]} for slot in slots}
    for slot in slots:
        text = filled[slot].text
        if text is not None and text in seen[slot.row]:
            yield slot
        seen[slot.row].add(text)
