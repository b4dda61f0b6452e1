"""A judge on loopback whose verdicts a test decides: a real HTTP server that answers chats in the form it is asked for.

with judge_server(lambda seen: {"score": seen.quality("response")}) as server:
    rmbatch.judge("pointwise", endpoint=server.url, model="judge").evaluate(…)
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from tests.servers.hostile import HostileServer


@dataclass(frozen=True)
class Seen:
    """What a judge is shown."""

    body: Any

    @property
    def text(self) -> str:
        """The last message."""
        content: str = self.body["messages"][-1]["content"]
        return content

    def fenced(self, name: str) -> str:
        """What stands between the tags of this name, ``response-A`` for instance."""
        found = re.search(rf"<{name}-([0-9a-f]{{8}})>\n(.*?)\n</{name}-\1>", self.text, re.DOTALL)
        assert found, f"no {name} in {self.text}"
        return found[2]

    def quality(self, name: str) -> int:
        """The number that a response ends with, which honest judges go by."""
        return int(self.fenced(name).rsplit(" ", 1)[-1])

    def qualities(self) -> list[int]:
        """Of all numbered responses."""
        numbers = re.findall(r"<response-([0-9]+)-", self.text)
        return [self.quality(f"response-{number}") for number in numbers]


def honest(seen: Seen) -> dict[str, Any]:
    """A judge that goes by the responses' qualities, whatever it is asked."""
    if "<response-A-" in seen.text:
        a, b = seen.quality("response-A"), seen.quality("response-B")
        return {"better": "A" if a > b else "B" if b > a else "tie"}
    if "<response-1-" in seen.text:
        found = seen.qualities()
        order = sorted(range(len(found)), key=lambda place: -found[place])
        return {"ranking": [place + 1 for place in order]} if '"ranking"' in seen.text else {"best": order[0] + 1}
    if "<step-1-" in seen.text:
        steps = re.findall(r"<step-\d+-\w+>\n(.*?)\n<", seen.text, re.DOTALL)
        return {"steps": [int("wrong" not in each) for each in steps]}
    if '"violated"' in seen.text:
        return {"violated": list(range(1, 1 + 10 - seen.quality("response")))}
    return {"score": seen.quality("response")}


def biased(seen: Seen) -> dict[str, Any]:
    """A judge that likes whatever comes first."""
    if "<response-A-" in seen.text:
        return {"better": "A"}
    if '"ranking"' in seen.text:
        return {"ranking": list(range(1, len(seen.qualities()) + 1))}
    return {"best": 1}


Policy = Callable[[Seen], Any]
"""A verdict as a dict, or the whole answer as text."""


def answering(policy: Policy) -> Callable[[str, Any], Any]:
    """What the server says: each sample in its form, with reasons where they are asked for."""

    def answer(path: str, body: Any) -> Any:
        if body is None:
            return {"data": [{"id": "judge"}]}
        is_probe = Seen(body).text == "Say hi."  # of a client all of whose last requests fail
        said = "Hi." if is_probe else policy(Seen(body))
        if isinstance(said, dict):
            reasons = {"critique": "so it is"} if '"critique"' in Seen(body).text else {}
            said = orjson.dumps({**reasons, **said}).decode()
        choices = [
            {"index": n, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
            for n in range(body.get("n") or 1)
        ]
        return {"choices": choices, "usage": {"prompt_tokens": 100, "completion_tokens": 10}}

    return answer


def judge_server(policy: Policy) -> HostileServer:
    """A server whose requests are told apart by their text."""
    return HostileServer(answering(policy), lambda path, body: path if body is None else Seen(body).text)


def questions(server: HostileServer) -> list[Seen]:
    """What it was asked, in order."""
    return [Seen(body) for _, body, _ in server.asked if body is not None]
