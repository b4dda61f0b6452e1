"""A world whose principles are known: rows, and a server that judges by them and writes them, as a test decides.

Preferred answers have a property that the others lack. The judge knows a property only if a principle names it, and
calls all else a tie; so without principles it is never right.

    with scripted_server() as server:
        job = {"input": …, "judge": {"endpoint": server.url, "model": "judge"}, "writer": {…, "model": "writer"}}
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import orjson

from rmbatch.discovery.preferences import Preference
from tests.judging import Seen, judge_server
from tests.servers.hostile import HostileServer

PROPERTIES = {
    "step": ("Next step: call the workshop.", "names the next step that the customer takes"),
    "price": ("It costs 20 dollars.", "tells what the repair will cost"),
    "sorry": ("We are sorry.", "apologises once for the trouble"),
}
"""What an answer says that has a property, and what a principle says that names it."""
VAGUE = "It is a good answer, on the whole."
"""Names no property."""


def rows(num_rows: int, kinds: Sequence[str] = ("step",), num_rejected: int = 1) -> list[dict[str, Any]]:
    """Rows as a file has them; ``kinds``: which property the preferred answers have, in turns."""
    return [
        {
            "id": f"r{number}",
            "prompt": f"My device number {number} is broken.",
            "chosen": f"Device {number}: we repair it. {PROPERTIES[kinds[number % len(kinds)]][0]}",
            "rejected": [f"Device {number}: we repair it, {'soon ' * (each + 1)}" for each in range(num_rejected)],
        }
        for number in range(num_rows)
    ]


def preferences(num_rows: int, kinds: Sequence[str] = ("step",), num_rejected: int = 1) -> list[Preference]:
    """The same, read."""
    return [
        Preference(row["id"], ({"role": "user", "content": row["prompt"]},), row["chosen"], tuple(row["rejected"]))
        for row in rows(num_rows, kinds, num_rejected)
    ]


def text_for(kind: str, wording: str = "") -> str:
    """A principle that names a property."""
    return f"The answer {PROPERTIES[kind][1]}{wording}."


def named_in(text: str) -> list[str]:
    """The properties that principles name."""
    return [kind for kind, (_, says) in PROPERTIES.items() if says in text]


def judging(seen: Seen) -> dict[str, Any]:
    """The verdict by the principles that are shown."""
    principles = seen.text.partition("What stands between the tags")[0]
    kinds = named_in(principles)

    def points(answer: str) -> int:
        return sum(PROPERTIES[kind][0] in answer for kind in kinds)

    if "<response-A-" in seen.text:
        a, b = points(seen.fenced("response-A")), points(seen.fenced("response-B"))
        return {"better": "A" if a > b else "B" if b > a else "tie"}
    numbers = re.findall(r"<response-([0-9]+)-", seen.text)
    return {"best": 1 + max(range(len(numbers)), key=lambda place: points(seen.fenced(f"response-{numbers[place]}")))}


def preferred(seen: Seen) -> str:
    """The answer that the writer is told was preferred."""
    found = re.search(r"People preferred answer ([0-9]+)\.", seen.text)
    assert found, seen.text
    return seen.fenced(f"answer-{found[1]}")


def writing(seen: Seen) -> Any:
    """What a good writer writes: it sees what the preferred answer has."""
    kinds = [kind for kind, (has, _) in PROPERTIES.items() if has in preferred(seen)]
    return written(*(text_for(kind) for kind in kinds), VAGUE)


def written(*texts: str) -> dict[str, Any]:
    """Principles in the form that a writer is asked for."""
    return {"principles": [{"name": " ".join(text.split()[2:5]), "text": text} for text in texts]}


@contextmanager
def scripted_server(
    write: Callable[[Seen], Any] = writing, judge: Callable[[Seen], Any] = judging
) -> Iterator[HostileServer]:
    """A server with two models, ``judge`` and ``writer``."""

    def policy(seen: Seen) -> Any:
        said = write(seen) if seen.body["model"] == "writer" else judge(seen)
        return orjson.dumps(said).decode() if isinstance(said, dict) and "principles" in said else said

    with judge_server(policy) as server:
        yield server


def asked_of(server: HostileServer, model: str) -> list[Seen]:
    """The chats that a model was asked for, in order."""
    return [Seen(body) for _, body, _ in server.asked if body is not None and body.get("model") == model]
