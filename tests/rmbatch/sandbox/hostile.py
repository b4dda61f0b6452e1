"""Programs that try to get out, to pass or to be a nuisance, and what must hold of each: regression tests of our walls.

They are in ``greedy.py``, ``intruders.py`` and ``liars.py``, and run by ``test_hostile.py``, inside the sandbox under
test and nowhere else, with small limits. Each has a function ``answer`` that does not give the right answer, and a list
``escaped`` of what it managed to do.
"""

from dataclasses import dataclass
from inspect import cleandoc

NUMBER = 918_273_645
"""The right answer, which only a test knows."""
TESTS = [f"assert answer() == {NUMBER}", "assert escaped == []"]

BEGINNING = """
import os, sys
escaped = []
def attempt(name, action, allowed=()):
    try:
        result = action()
    except Exception:
        return None
    if result not in allowed:
        escaped.append(name)
    return result
def answer():
    return 0
"""

CALM = (False, True)
"""It does not pass, and what it tried did not work."""
ENDED = (False, False)
"""It did not live to say."""


@dataclass(frozen=True)
class Hostile:
    """One program, and which of ``TESTS`` pass."""

    name: str
    program: str
    """Indented as it stands here; CANARY is a folder outside, PORT a port on loopback."""
    passed: tuple[bool, bool] | None = CALM
    """None: either, as long as the first does not."""
    kinds: tuple[str, ...] = ("wrong_answer",)
    """What the first failure may be called."""

    def text(self, canary: str, port: int) -> str:
        """The program as it is run."""
        return BEGINNING + cleandoc(self.program).replace("CANARY", canary).replace("PORT", str(port))
