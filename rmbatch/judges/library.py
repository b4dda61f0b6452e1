"""The judges that have a name: what each judges, and how. ``page.py`` makes their page, ``docs/alignment.md``.

The names are RM-Gallery's; the principles are our own, in ``topics/<topic>.yaml``, which ``principles.py`` reads.
This is only the table, and loads neither pydantic nor YAML. To add judges: write the file, add a line to ``TOPICS``.

    is_judge("base_helpfulness_pointwise")           # True
    LIBRARY["safety_listwise_reward"].topic          # "safety"
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from types import MappingProxyType
from typing import Literal, get_args

from rmbatch.judges.kinds import KINDS

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


def _list_entries() -> Iterator[tuple[str, LibraryEntry]]:
    for topic, about in TOPICS.items():
        for kind in get_args(Kind):
            name = f"base_{topic}_{kind}" if topic in _BASES else f"{topic}_{kind}_reward"
            yield name, LibraryEntry(kind, topic, about)


LIBRARY: Mapping[str, LibraryEntry] = MappingProxyType(dict(_list_entries()))
"""All of them by name: ``base_helpfulness_listwise``, …, ``rewrite_pointwise_reward``."""


def library_defaults(name: str) -> dict[str, str]:
    """The settings that a name of the library stands for, beside its kind."""
    entry = LIBRARY[name]
    return {"principles": entry.topic} | ({"score": "violations"} if entry.kind == "pointwise" else {})


def is_judge(name: str) -> bool:
    """Whether it is a kind of judge, or a judge of the library."""
    return name in KINDS or name in LIBRARY


def topic_file(topic: str) -> bytes:
    """The file of a topic's principles, YAML, out of the installed package."""
    return files("rmbatch.judges").joinpath("topics", f"{topic}.yaml").read_bytes()
