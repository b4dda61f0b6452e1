"""What ``rmbatch explain`` shows: rows of an output, where they came from, and their stories."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import orjson
from rich.console import Console
from rich.padding import Padding
from rich.rule import Rule
from rich.text import Text

from rmbatch.inspection.story import CandidateStory, Story
from rmbatch.inspection.text_changes import Piece, find_changes

SHORT = 400
"""Characters of a text that are shown without --full."""
SHORT_SAME = 60
"""Characters that are shown at both ends of a stretch that an edit leaves as it is."""
MAX_SIBLINGS = 20
_STYLES = {"removed": "red strike", "added": "green", "same": ""}


@dataclass(frozen=True)
class Origin:
    """Where a row came from, and which run committed it."""

    file: str | None
    """The input file. None: the rows were shuffled, so nothing leads back to it."""
    row: int | None
    """The row's number in the file, from 0."""
    address: str
    """UNIT:ROW in the job's plan."""
    run: str
    at: float
    """When it was committed, in seconds since 1970."""
    before: "Origin | None" = None
    """Where the row of the input came from, where the input is an output itself."""


@dataclass(frozen=True)
class Sibling:
    """A response to the same prompt, of flat rows."""

    path: str
    index: int
    id: Any
    scores: Mapping[str, float | None]
    rank: int | None
    reason: str | None


@dataclass(frozen=True)
class FoundRow:
    """A row of an output."""

    part: str
    """data, rejected or dead_letters."""
    path: str | None
    """The file of the output. None: the row is in no file."""
    index: int | None
    """The row's number in the file, from 0."""
    origin: Origin | None
    """None: no commit record names the file."""
    story: Story
    siblings: Sequence[Sibling] = ()
    """All responses to the prompt of a flat row, itself included."""


@dataclass(frozen=True)
class Explanation:
    """The stories of the rows that were meant."""

    output: str
    job: Mapping[str, Any]
    rows: Sequence[FoundRow]
    num_found: int
    full: bool = False
    """Whether texts are shown whole."""

    def plain(self) -> dict[str, Any]:
        """As plain values; texts are whole."""
        return {
            "output": self.output,
            "job": self.job.get("job"),
            "num_found": self.num_found,
            "rows": [asdict(row) for row in self.rows],
        }

    def show(self, console: Console) -> None:
        """Print it for a person."""
        for row in self.rows:
            _Page(console, self.full).show(row)
        if self.num_found > len(self.rows):
            console.print(f"{self.num_found:,} rows match; the first {len(self.rows)} are shown", highlight=False)


class _Page:
    """Prints the story of one row."""

    def __init__(self, console: Console, full: bool) -> None:
        self._console, self._full = console, full

    def show(self, row: FoundRow) -> None:
        story = row.story
        name = "row" if story.id is None else f"row {story.id}"
        self._console.print(Rule(Text(f"{name}: {story.outcome}", style="bold"), align="left"))
        self._line("why", story.why)
        for label, text in _describe_place(row):
            self._line(label, text)
        for message in story.prompt or ():
            self._line(f"{message['role']}", message["content"])
        if story.reference is not None:
            self._line("reference", story.reference)
        for candidate in story.candidates:
            self._candidate(candidate, alone=len(story.candidates) == 1)
        self._siblings(row)
        if story.correction is not None:
            self._correction(story.correction)
        if story.others:
            self._head("other columns")
            for name, value in story.others.items():
                self._line(name, _as_text(value))

    def _head(self, title: str) -> None:
        self._console.print()
        self._console.print(Text(title, style="bold"))

    def _line(self, label: str, text: Any, indent: int = 0) -> None:
        shown = Text(f"{label}  ", style="cyan")
        shown.append(self._shorten(_as_text(text)), style="")
        self._console.print(Padding(shown, (0, 0, 0, indent), expand=False))

    def _shorten(self, text: str) -> str:
        if self._full or len(text) <= SHORT:
            return text
        head, tail = text[: SHORT * 2 // 3], text[-SHORT // 3 :]
        return f"{head} … [{len(text) - len(head) - len(tail):,} characters, --full shows them] … {tail}"

    def _candidate(self, candidate: CandidateStory, *, alone: bool) -> None:
        chosen = f"rank {candidate.rank}" if candidate.rank is not None else candidate.reason
        title = "response" if alone else f"response {candidate.number}"
        self._head(f"{title}: {chosen}" if chosen else title)
        if candidate.meaning:
            self._line("not kept", candidate.meaning, 2)
        for name, score in candidate.scores.items():
            said = "no score" if score.score is None else f"{score.score:.6g}"
            self._line(f"score.{name}", said + (f"  {score.error}" if score.error else ""), 2)
            if score.reason:
                self._line("reason", score.reason, 4)
            if score.steps:
                self._line("steps", score.steps, 4)
        if candidate.value is not None:
            self._line("ranked by", f"{candidate.value:.6g}", 2)
        if candidate.generation:
            details = {key: value for key, value in candidate.generation.items() if value is not None}
            self._line("generated", ", ".join(f"{key} {value}" for key, value in details.items()), 2)
        self._line("text", "(none)" if candidate.text is None else candidate.text, 2)

    def _siblings(self, row: FoundRow) -> None:
        if len(row.siblings) < 2:
            return
        self._head(f"all {len(row.siblings)} responses to this prompt")
        for each in row.siblings[: None if self._full else MAX_SIBLINGS]:
            chosen = f"rank {each.rank}" if each.rank is not None else each.reason or "kept"
            scores = ", ".join(f"{name} {_number(value)}" for name, value in each.scores.items())
            this = " (this one)" if (each.path, each.index) == (row.path, row.index) else ""
            self._line(str(each.id if each.id is not None else each.index), f"{chosen}; {scores}{this}", 2)
        if len(row.siblings) > MAX_SIBLINGS and not self._full:
            self._line("…", "--full shows all", 2)

    def _correction(self, correction: Mapping[str, Any]) -> None:
        before, after = correction.get("score_before"), correction.get("score")
        self._head(f"correction: {correction.get('outcome')}, score {_number(before)} -> {_number(after)}")
        details = {name: correction.get(name) for name in ("stopped", "error", "rounds", "tokens", "control")}
        self._line("in all", ", ".join(f"{k} {v}" for k, v in details.items() if v not in (None, False)), 2)
        history = correction.get("history") or []
        best = ""
        for each in history:
            if each["round"] == 0:
                best = next((edit["text"] or "" for edit in each["edits"]), "")
                continue
            best = self._round(each, best)
        for number, each in enumerate([] if history else correction.get("by_round") or [], 1):
            decisions = ", ".join(each["decisions"] or ())
            self._line(f"round {number}", f"best score {_number(each['score'])}; {decisions}", 2)
        if correction.get("response") is not None and not history:
            self._line("result", correction["response"], 2)

    def _round(self, each: Mapping[str, Any], best: str) -> str:
        """Show a round, and return the best text after it."""
        self._head(f"round {each['round']}")
        self._line("critique", each["critique"] or "(nothing was found wrong)", 2)
        after = best
        for edit in each["edits"] or ():
            scores = {name: value for name, value in (edit["scores"] or {}).items() if value is not None}
            said = ", ".join(f"{name} {_number(value)}" for name, value in scores.items())
            self._line(edit["kind"], f"{edit['decision']}" + (f"; {said}" if said else ""), 2)
            if edit["text"] is not None:
                self._console.print(Padding(self._changes(best, edit["text"]), (0, 0, 0, 4), expand=False))
                if edit["decision"].partition(":")[0] == "accepted":
                    after = edit["text"]
        if each["held_out"]:
            self._line("held-out judge", each["held_out"], 2)
        return after

    def _changes(self, before: str, after: str) -> Text:
        """Both texts in one: [-removed-] and {+added+}, so that it reads without colours too."""
        shown = Text()
        for piece in find_changes(before, after):
            shown.append(self._mark(piece), style=_STYLES[piece.kind])
        return shown

    def _mark(self, piece: Piece) -> str:
        if piece.kind == "removed":
            return f"[-{self._shorten(piece.text)}-]"
        if piece.kind == "added":
            return f"{{+{self._shorten(piece.text)}+}}"
        text = piece.text
        if self._full or len(text) <= 2 * SHORT_SAME + 5:
            return text
        return f"{text[:SHORT_SAME]} … {text[-SHORT_SAME:]}"


def _describe_place(row: FoundRow) -> Iterator[tuple[str, str]]:
    if row.origin is not None:
        origin = row.origin
        yield "from", _describe_origin(origin)
        earlier = origin.before
        while earlier is not None:
            yield "which came from", _describe_origin(earlier)
            earlier = earlier.before
        when = datetime.fromtimestamp(origin.at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        yield "committed", f"{when} by run {origin.run}"
    if row.path is not None:
        yield "in", f"{row.path} row {row.index}"


def _describe_origin(origin: Origin) -> str:
    if origin.file is None:
        return f"address {origin.address} of the shuffled rows"
    return f"{origin.file} row {origin.row}, address {origin.address}"


def _number(value: float | None) -> str:
    return "null" if value is None else f"{value:.6g}"


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return orjson.dumps(value, default=str).decode()
