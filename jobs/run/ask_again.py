"""Which kept answers a retry asks for again: ``jobs/run/retry.py`` decides it, the run that does the rows reads it.

stage_retry(ledger, spec, run, rows, {"code": "verdict_*", "reward": "help"})
read_ask_again(ledger, needs)                        # an AskAgain for the tasks, or None
"""

from collections.abc import Mapping

from connectors.ledger import Ledger
from rmbatch.chat.again import AskAgain
from rmbatch.generation.candidates import GENERATION
from rmbatch.generation.requests import RequestWriter
from rmbatch.stages.base import Asker, Needs


def read_ask_again(ledger: Ledger, needs: Needs) -> AskAgain | None:
    """What the last retry asks for again. None: nothing, or no row was ever done again."""
    retried = ledger.read_retried()
    if retried is None or (again := retried.get("ask_again")) is None:
        return None
    users = None if again["reward"] is None else _find_users(again["reward"], needs.askers)
    return AskAgain(retried["run"], again["code"], users)


def _find_users(reward: str, askers: Mapping[str, Asker]) -> frozenset[str]:
    """The askers behind the errors of a reward, its parts and what it is a part of, by what they are counted as."""
    if reward == GENERATION:
        return frozenset(each.counted_as for each in askers.values() if isinstance(each, RequestWriter))
    names = [name for name in askers if f"{name}.".startswith(f"{reward}.") or f"{reward}.".startswith(f"{name}.")]
    return frozenset(askers[name].counted_as for name in names)
