"""What is kept beside a job's output about those it asks: the folder of their answers, and what was spent.

spent = Spent(ledger.private)
governor = Governor(rate, budget, price, spent.by_account.get(spec.account))
spent.keep({spec.account: governor.spent()})         # another run of the job goes on counting from there
"""

from collections.abc import Mapping
from typing import Any

import orjson

from connectors.errors import UserError
from connectors.storage import Folder
from rmbatch.chat.spec import ChatSpec

ANSWERS = "answers"
"""Folder of the answers, where a spec names no other."""
FILE = "spent.json"


class Spent:
    """Counts that governors have told, by account."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self.by_account: dict[str, Any] = orjson.loads(folder.read_if_exists(FILE) or b"{}")

    def keep(self, spent: Mapping[str, Any]) -> None:
        """Write what is new. Raises OSError."""
        now = {**self.by_account, **spent}
        if now != self.by_account:
            self._folder.write(FILE, orjson.dumps(now, option=orjson.OPT_INDENT_2))
            self.by_account = now


def with_default_cache(spec: ChatSpec, folder: Folder) -> ChatSpec:
    """The same, its answers kept in the folder if it names no other place."""
    return spec.model_copy(update={"cache": spec.cache or folder.folder(ANSWERS).url})


def check_limits(specs: Mapping[str, ChatSpec]) -> None:
    """Raises UserError where two, by what people call them, share an account and not its limits."""
    known: dict[str, tuple[str, ChatSpec]] = {}
    for name, spec in specs.items():
        other, first = known.setdefault(spec.account, (name, spec))
        if (first.rate, first.budget, first.price) != (spec.rate, spec.budget, spec.price):
            raise UserError(
                f"{other} and {name} ask {spec.model!r} at {spec.service_name}; "
                "rate, budget and price must be the same for both"
            )
