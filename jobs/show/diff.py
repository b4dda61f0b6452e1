"""What ``rmbatch diff`` shows: what differs between two scorings or two selections."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console

from jobs.show.display import draw_table


@dataclass(frozen=True)
class FlipExample:
    """Two responses of one prompt: A scores ``better`` higher, B scores ``worse`` higher."""

    prompt: str
    """The id of the row, or of flat rows the value of the group column."""
    better: int | str
    """The number of the response, or of flat rows its id."""
    worse: int | str
    scores_a: tuple[float, float]
    """Of ``better`` and of ``worse``."""
    scores_b: tuple[float, float]


@dataclass(frozen=True)
class Difference:
    """What differs between two outputs."""

    a: str
    b: str
    on: str
    """The column by which rows are the same."""
    candidates: Mapping[str, int]
    """both, only_a, only_b; other_text: of those in both, how many have another text."""
    prompts: Mapping[str, int]
    """both, only_a, only_b."""
    scores: Mapping[str, Mapping[str, Any]]
    """By name: see ``ScoreChanges.plain``."""
    selection: Mapping[str, Any] | None
    """See ``SelectionChanges.plain``. None: the outputs are not two selections."""
    flips: Mapping[str, Sequence[FlipExample]]
    """By score: the largest flips, one a prompt."""

    def plain(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    def show(self, console: Console) -> None:
        """Print it for a person."""
        console.print(draw_table("", list(self._rows())))
        for name, changes in self.scores.items():
            console.print()
            console.print(draw_table(f"score.{name}", list(_describe_score(changes))))
            for flip in self.flips[name]:
                console.print(f"  {_describe_flip(flip)}", highlight=False, markup=False)
        if self.selection is not None:
            console.print()
            console.print(draw_table("selection", list(_describe_selection(self.selection))))

    def _rows(self) -> Iterator[tuple[str, str]]:
        yield "A", self.a
        yield "B", self.b
        for name, counts in (("prompts", self.prompts), ("responses", self.candidates)):
            yield (
                name,
                f"{counts['both']:,} in both by {self.on}, {counts['only_a']:,} only in A, "
                f"{counts['only_b']:,} only in B",
            )
        if self.candidates["other_text"]:
            yield "warning", f"{self.candidates['other_text']:,} responses have another text in B than in A"


def _describe_score(changes: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    counts, pairs, tau, first = (changes[name] for name in ("candidates", "pairs", "tau", "first_place"))
    yield (
        "scores",
        (
            f"{counts['same']:,} same, {counts['changed']:,} changed, {counts['gained']:,} null -> value, "
            f"{counts['lost']:,} value -> null, {counts['no_score']:,} null in both"
        ),
    )
    if changes["mean_change"] is not None:
        yield "change", f"mean {changes['mean_change']:+.4g}, mean absolute {changes['mean_absolute_change']:.4g}"
    ordered = pairs["kept"] + pairs["flipped"]
    flipped = f" ({pairs['flipped'] / ordered:.1%} of those that both order)" if ordered else ""
    yield (
        "pairs",
        (
            f"{pairs['flipped']:,} flipped{flipped} in {changes['prompts_with_flip']:,} prompts, "
            f"{pairs['kept']:,} kept, {pairs['tied_before']:,} tied in A only, {pairs['tied_after']:,} in B only, "
            f"{pairs['tied']:,} in both"
        ),
    )
    all_prompts = tau["prompts"] + tau["undefined_all_tied"] + tau["undefined_too_few"]
    mean = "" if tau["mean"] is None else f"mean {tau['mean']:.4f} over {tau['prompts']:,} of {all_prompts:,} prompts; "
    yield (
        "Kendall's tau-b",
        (
            f"{mean}undefined for {tau['undefined_all_tied']:,} prompts with all tied and {tau['undefined_too_few']:,} "
            "with fewer than two scored responses"
        ),
    )
    if tau["prompts"]:
        bins = zip(tau["borders"], tau["borders"][1:], tau["histogram"])
        yield "its distribution", ", ".join(f"{low:g}..{high:g}: {num:,}" for low, high, num in bins if num)
    yield (
        "best response",
        (f"{first['same']:,} same, {first['changed']:,} changed, {first['overlaps']:,} depend on how ties are broken"),
    )


def _describe_flip(flip: FlipExample) -> str:
    (a_better, a_worse), (b_better, b_worse) = flip.scores_a, flip.scores_b
    return (
        f"{flip.prompt}: A prefers {flip.better} to {flip.worse} ({a_better:.4g} to {a_worse:.4g}), "
        f"B prefers {flip.worse} ({b_worse:.4g} to {b_better:.4g})"
    )


def _describe_selection(selection: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    kept, prompts, first = (selection[name] for name in ("candidates", "prompts", "rank_1"))
    yield "responses kept", f"{kept['both']:,} by both, {kept['only_a']:,} by A only, {kept['only_b']:,} by B only"
    yield (
        "prompts",
        (
            f"{prompts['same']:,} same, {prompts['changed']:,} with other responses, "
            f"{prompts['gained']:,} kept by B only, {prompts['lost']:,} kept by A only"
        ),
    )
    yield "rank 1", f"{first['same']:,} same, {first['changed']:,} changed, of the prompts that both keep"
