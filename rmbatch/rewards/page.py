"""Makes the page of all rewards, ``docs/rewards.md``, from their signatures and docstrings alone.

    python -m rmbatch.rewards.page > docs/rewards.md

A docstring is a first line, text, and then items that each begin with ``Null``, ``Source:`` or ``Deviation:``.
"""

import re
from collections.abc import Iterator

from rmbatch.rewards.contract import RewardSpec
from rmbatch.rewards.registry import ALIASES, BUILTIN, format_type, resolve

_ITEM = re.compile(r"(Null|Source:|Deviation:)\s")
_RANGE = re.compile(r"->\s*score\[n\]\s*float64(?:\s+in\s+([\[({][^\])}]*[\])}])|,?\s*([^.;]*))", re.DOTALL)

_HEAD = """# Rewards

Made from the rewards themselves by `python -m rmbatch.rewards.page > docs/rewards.md`; do not edit it here.

A reward is used by its name, in a job file (`reward: f1_score`) or from Python (`rmbatch.reward("f1_score")`). It reads
the columns it lists: `response`, `reference` and `prompt` are roles, which a job's `columns` map to columns of the
data; other names are columns as they are called. `null` is no score, and `error.<name>` says why as `code: message`;
zero is scored, and bad. Where a column is null, the code is `missing_<column>`. Listwise rewards compare the responses
of one prompt, so they need rows with a list of responses, or rows that are grouped.

Rules take time linear in the length of a text; a text that would take more than some seconds is null, `too_long`.

Rewards can be made of rewards, at any depth: `sum` (weights), `gate` (a hard constraint), `route` (another reward
for each kind of row) and `cascade` (the next one only where this one is not sure). Each part keeps its own
`score.<name>.<part>`. `jobs/config/rewards.py` explains how to write them, `rmbatch/rewards/composition.py` how they
treat nulls; `jobs/examples/composed.yaml` runs. In Python: `from rmbatch.rewards import Gate`.
"""


_SHARED_DEVIATIONS = (
    "tokenizer `jieba` (`f1_score`, `ngram_repetition_penalty`): white space is no token; RM-Gallery keeps it.",
    "`chinese_only` holds for every tokenizer; RM-Gallery has it for jieba alone.",
    "tokenizer `tiktoken`: a special token that a text spells out is read as text; RM-Gallery raises, and splits at "
    "white space instead.",
    "The knob `name` is refused: the score column is named where the reward is used (`rewards: {NAME: …}`).",
    "A knob that neither has is refused too; RM-Gallery ignores it. Those it has are named below, reward by reward.",
    "`code_execution`: its own conventions stand in docs/sandbox.md; it is not RM-Gallery's harness.",
)


def render_page() -> str:
    """The whole page, Markdown."""
    specs = [resolve(name) for name in sorted(BUILTIN)]
    return "\n".join(
        [_HEAD, *_table(specs), "", *_deviations(specs), *(line for spec in specs for line in _entry(spec))]
    )


def _table(specs: list[RewardSpec]) -> Iterator[str]:
    yield "| reward | reads | range | what it is |"
    yield "|---|---|---|---|"
    for spec in specs:
        columns = ", ".join(f"`{column}`" for column in spec.columns)
        score_range, first = _escape_cell(_read_range(spec)), _escape_cell(_read_paragraphs(spec)[0])
        yield f"| [{spec.name}](#{spec.name.lower()}) | {columns} | {score_range} | {first} |"


def _deviations(specs: list[RewardSpec]) -> Iterator[str]:
    yield "## Where results differ from RM-Gallery's"
    yield ""
    yield "These are the known differences, for the rewards that RM-Gallery has; the others have no counterpart there."
    yield ""
    yield from (f"- {deviation}" for deviation in _SHARED_DEVIATIONS)
    for spec in specs:
        yield from (f"- `{spec.name}`: {deviation}" for deviation in _read_items(spec, "Deviation:"))
    yield ""


def _entry(spec: RewardSpec) -> Iterator[str]:
    first, *rest = _read_paragraphs(spec)
    yield f"## {spec.name}"
    yield ""
    yield first
    yield ""
    if rest:
        yield " ".join(rest)
        yield ""
    other_names = [f"`{alias}`" for alias, name in ALIASES.items() if name == spec.name]
    yield f"- reads: {', '.join(f'`{column}`' for column in spec.columns)} ({spec.kind})"
    yield f"- writes: `score.{spec.name}`, `error.{spec.name}`" + (
        f", `reason.{spec.name}`" if spec.writes_reason else ""
    )
    yield f"- range: {_read_range(spec)}"
    yield from (f"- nulls: {item}" for item in _read_items(spec, "Null"))
    yield from (f"- source: {item}" for item in _read_items(spec, "Source:"))
    yield from (f"- deviation: {item}" for item in _read_items(spec, "Deviation:"))
    if other_names:
        yield f"- also called: {', '.join(other_names)}"
    yield ""
    if spec.knobs:
        yield "| knob | type | default |"
        yield "|---|---|---|"
        for knob in spec.knobs:
            default = "needed" if knob.required else f"`{knob.default!r}`"
            yield f"| `{knob.name}` | {_escape_cell(f'`{format_type(knob.annotation)}`')} | {default} |"
        yield ""


def _read_paragraphs(spec: RewardSpec) -> list[str]:
    """The docstring without its items: first line, then the paragraphs, each as one line."""
    first, _, rest = spec.doc.partition("\n")
    described = _split_docstring(rest)[0]
    return [_to_markdown(first), *([_to_markdown(described)] if described else [])]


def _read_items(spec: RewardSpec, label: str) -> list[str]:
    items = _split_docstring(spec.doc.partition("\n")[2])[1]
    said = [item for item in items if item.startswith(label)]
    return [_to_markdown(item if label == "Null" else item.removeprefix(label).strip()) for item in said]


def _split_docstring(text: str) -> tuple[str, list[str]]:
    """The text before the first item, and the items, each as one line."""
    described: list[str] = []
    items: list[str] = []
    for line in text.splitlines():
        if _ITEM.match(line):
            items.append(line)
        elif items:
            items[-1] += f" {line.strip()}"
        elif line.strip():
            described.append(line.strip())
    return " ".join(described), [item.strip() for item in items]


def _read_range(spec: RewardSpec) -> str:
    found = _RANGE.search(spec.doc)
    if not found:
        return "float64"
    return " ".join((found[1] or found[2] or "any number").split())


def _to_markdown(text: str) -> str:
    return (
        text.replace("``", "`").replace("<", "&lt;")
        if "`" not in text
        else _escape_outside_code(text.replace("``", "`"))
    )


def _escape_outside_code(text: str) -> str:
    parts = text.split("`")
    return "`".join(part if place % 2 else part.replace("<", "&lt;") for place, part in enumerate(parts))


def _escape_cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    print(render_page(), end="")
