"""The judges that have a name: what each judges, and how. The page of them, ``docs/alignment.md``, is made here, too.

The names are RM-Gallery's; the principles are our own, in ``topics/<topic>.yaml``, which ``principles.py`` reads.
This is only the table, and loads neither pydantic nor YAML. To add judges: write the file, add a line to ``TOPICS``.

    is_judge("base_helpfulness_pointwise")           # True
    LIBRARY["safety_listwise_reward"].topic          # "safety"
    python -m rmbatch.judges.library > docs/alignment.md
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from rmbatch.judges.principles import PrincipleSet

Kind = Literal["pointwise", "listwise"]

_BASES: dict[str, str] = {
    "helpfulness": "does what the prompt asks for, usably, without flattery or padding",
    "harmlessness": "hurts nobody, helps nobody to hurt, and declines without preaching",
    "honesty": "says what is true, as surely as it can be known, and nothing false about itself",
}
_TASKS: dict[str, str] = {
    "safety": "declines harmful requests, however wrapped, and answers harmless ones",
    "factuality": "makes claims that are true, each of them, and invents no sources",
    "focus": "answers this very prompt, all of it, and nothing else",
    "math": "reaches the right result by steps that hold",
    "precise_if": "follows checkable instructions to the letter",
    "chat": "is a good next turn of the conversation",
    "generation": "is the text that was commissioned: whole, coherent, and its own",
    "summarization": "says what matters in the source, and nothing that is not there",
    "brainstorming": "gives ideas that fit, differ and can be used",
    "translation": "means what the source means, in natural language of the target",
    "role_playing": "stays in the role, in its world, and leaves the user's part to the user",
    "classification": "gives the right label, out of the given ones, in the form asked for",
    "closed_qa": "answers from the passage alone, and says when the answer is not there",
    "code": "is code that runs, is right at the edges too, and keeps to its interface",
    "open_qa": "answers a question of general knowledge truly, and at the right depth",
    "reasoning": "reaches a conclusion that its premises support, step by step",
    "rewrite": "changes what it was asked to change, and keeps the rest",
}
TOPICS: Mapping[str, str] = MappingProxyType({**_BASES, **_TASKS})
"""What there are principles for, and in a few words what a good response to it does."""


@dataclass(frozen=True)
class LibraryEntry:
    """A judge by name."""

    kind: Kind
    """pointwise: one response at a time; listwise: the responses to one prompt against each other."""
    topic: str
    """Whose principles it judges by."""
    about: str
    """What a good response does, in a few words."""


def _entries() -> Iterator[tuple[str, LibraryEntry]]:
    for topic, about in TOPICS.items():
        for kind in get_args(Kind):
            name = f"base_{topic}_{kind}" if topic in _BASES else f"{topic}_{kind}_reward"
            yield name, LibraryEntry(kind, topic, about)


KINDS = ("pointwise", "pairwise", "listwise", "stepwise")
"""Of judges; the library has those of the first and the third."""
LIBRARY: Mapping[str, LibraryEntry] = MappingProxyType(dict(_entries()))
"""All of them by name: ``base_helpfulness_listwise``, …, ``rewrite_pointwise_reward``."""


def is_judge(name: str) -> bool:
    """Whether it is a kind of judge, or a judge of the library."""
    return name in KINDS or name in LIBRARY


def topic_file(topic: str) -> bytes:
    """The file of a topic's principles, YAML, out of the installed package."""
    return files("rmbatch.judges").joinpath("topics", f"{topic}.yaml").read_bytes()


_HEAD = """# Judges for alignment

Made from the library itself by `python -m rmbatch.judges.library > docs/alignment.md`; do not edit it here.

These judges have a name and principles; whom they ask is up to you. A pointwise judge says which principles a response
violates, and the score is 1 minus their share (with `score: scale` it gives a number). A listwise judge compares the
responses to one prompt; the best has 1, the others 0 (with `score: ranking`, all get their place). In a job file:

```yaml
rewards:
  helpful: {judge: base_helpfulness_pointwise, endpoint: "${JUDGE_URL}", model: Qwen/Qwen3-32B}
```

In Python:

```python
import rmbatch

helpful = rmbatch.judge("base_helpfulness_pointwise", endpoint="http://host:8000", model="Qwen/Qwen3-32B")
helpful.evaluate({"prompt": "What is 2 + 2?", "response": "4"})
```

Any other judge takes the same principles by their topic: `{judge: pairwise, principles: helpfulness, …}`.

## Principles of your own

`principles:` takes a topic of the list below, a list of sentences, or the path of a file that ends in `.yaml`:

```yaml
topic: support
about: What counts is whether our support could send the response to the customer as it is.
version: 1
principles:
  - name: names the next step
    text: The response ends with one thing that the customer or we do next, and says when.
    source: Support handbook, chapter 3
  - name: no internal names
    text: The response holds no name of an internal system, team or ticket.
```

A judge is shown `about`, and of each principle `name` (which may be left out) and `text`. Write principles of which a
reader of prompt and response alone can say whether they are violated, and say nothing twice, for it would count twice.
`source` says where an idea comes from, and `provenance` (any keys and values) how a generated file came to be; no judge
sees these.

## Names

The listwise names and the `base_…_pointwise` ones are RM-Gallery's; the other pointwise ones are added here. The two of
a line have the same principles.

| pointwise | listwise | a good response … |
|---|---|---|"""

_ARXIV = re.compile(r"arXiv (\d{4}\.\d{5})")
_LINK = r"[arXiv \1](https://arxiv.org/abs/\1)"


def page() -> str:
    """The whole page, Markdown."""
    from rmbatch.judges.principles import load_principles

    parts = [line for topic in TOPICS for line in _section(topic, load_principles(topic))]
    return "\n".join([_HEAD, *map(_row, TOPICS), "", *parts])


def _row(topic: str) -> str:
    pointwise, listwise = _names(topic)
    return f"| [`{pointwise}`](#{topic}) | [`{listwise}`](#{topic}) | {TOPICS[topic]} |"


def _section(topic: str, principles: "PrincipleSet") -> Iterator[str]:
    yield f"## {topic}"
    yield ""
    yield f"Judges: {' and '.join(f'`{name}`' for name in _names(topic))}."
    yield ""
    yield principles.about
    yield ""
    for place, each in enumerate(principles.principles, 1):
        yield f"{place}. **{each.name}.** {each.text}"
        if each.source:
            yield f"   *{_ARXIV.sub(_LINK, each.source)}*"
    yield ""


def _names(topic: str) -> list[str]:
    """Of the pointwise and the listwise judge."""
    return [name for name, entry in LIBRARY.items() if entry.topic == topic]


if __name__ == "__main__":
    print(page(), end="")
