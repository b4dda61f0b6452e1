"""An editor on loopback whose texts a test decides: a real HTTP server that answers chats.

with editor_server(lambda seen: seen.best + " better") as server:
    rmbatch.correct(rows, reward="…", editor={"endpoint": server.url, "model": "editor"})
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.jobs.running import run
from tests.servers.hostile import HostileServer


@dataclass(frozen=True)
class Told:
    """What an editor is told."""

    body: Any

    @property
    def text(self) -> str:
        """The last message."""
        content: str = self.body["messages"][-1]["content"]
        return content

    def fenced(self, name: str) -> str | None:
        """What stands between the tags of this name; None where there are none."""
        found = re.search(rf"<{name}-([0-9a-f]{{8}})>\n(.*?)\n</{name}-\1>", self.text, re.DOTALL)
        return found and found[2]

    @property
    def prompt(self) -> str:
        """The conversation, or all of the message where there are no tags: then it is a plain prompt."""
        return self.fenced("conversation") or self.text

    @property
    def best(self) -> str:
        """The best text so far."""
        return self.fenced("response") or ""

    @property
    def findings(self) -> str:
        """What was found about it."""
        return self.fenced("findings") or ""

    @property
    def seed(self) -> int:
        """The request's seed."""
        seed: int = self.body["seed"]
        return seed


Policy = Callable[[Told], Any]
"""A text; None for a refusal by a filter; or a choice, as OpenAI's API has it."""


def answering(policy: Policy, usage: Callable[[Told], tuple[int, int]] = lambda told: (100, 10)) -> Callable[..., Any]:
    """What the server says."""

    def answer(path: str, body: Any) -> Any:
        if body is None:
            return {"data": [{"id": "editor"}]}
        told = Told(body)
        said = "Hi." if told.text == "Say hi." else policy(told)  # a probe, after failures
        if not isinstance(said, dict):
            reason = "content_filter" if said is None else "stop"
            said = {"message": {"role": "assistant", "content": said}, "finish_reason": reason}
        prompt, completion = usage(told)
        return {
            "choices": [{"index": 0, **said}],
            "usage": {"prompt_tokens": prompt, "completion_tokens": completion},
        }

    return answer


def editor_server(policy: Policy, usage: Callable[[Told], tuple[int, int]] = lambda told: (100, 10)) -> HostileServer:
    """A server whose requests are told apart by their text and seed."""
    return HostileServer(answering(policy, usage), lambda path, body: path if body is None else key_of(body))


def key_of(body: Any) -> str:
    """A request's text and seed."""
    return f"{body.get('seed')} {Told(body).text}"


def requests(server: HostileServer) -> list[Told]:
    """What it was asked, in order, without questions whether it is there."""
    told = [Told(body) for _, body, _ in server.asked if body is not None]
    return [each for each in told if each.text != "Say hi."]


def correct_by_math(source: Path, output: Path | str, server: HostileServer, **more: Any) -> None:
    """Run a job that has this server edit what math_verify calls wrong. ``more``: settings of ``correct:``."""
    editor = {"endpoint": server.url, "model": "editor"}
    run(
        {
            "job": "correct",
            "input": {"path": str(source)},
            "rewards": {"math": {"reward": "math_verify"}},
            "correct": {"gate": {"below": 1.0}, "editor": editor, **more},
            "output": {"path": str(output)},
        }
    )
