"""The folder of kept answers and the usage of budgets, both beside a job's output.

saved = SavedUsage(ledger.private)
governor = Governor(rate, budget, price, saved.by_account.get(spec.account))
saved.save({spec.account: governor.usage()})         # the job's next run continues from this
"""

from collections.abc import Mapping
from typing import Any

import orjson

from connectors.errors import UserError
from connectors.storage import Folder
from rmbatch.chat.spec import ChatSpec

ANSWERS = "answers"
"""The folder of the answers, where a spec names no other."""
FILE = "spent.json"


class SavedUsage:
    """What earlier runs of a job have used, by account: counts of requests and tokens."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self.by_account: dict[str, Any] = orjson.loads(folder.read_if_exists(FILE) or b"{}")

    def save(self, usage: Mapping[str, Any]) -> None:
        """Write the usage of these accounts, if it has changed. Raises OSError."""
        now = {**self.by_account, **usage}
        if now != self.by_account:
            self._folder.write(FILE, orjson.dumps(now, option=orjson.OPT_INDENT_2))
            self.by_account = now


def with_default_cache(spec: ChatSpec, folder: Folder) -> ChatSpec:
    """Make the spec of the asker's client; answers are kept in the folder if the spec names no other place."""
    return spec.place().model_copy(update={"cache": spec.cache or folder.folder(ANSWERS).url})


def with_service(spec: ChatSpec) -> ChatSpec:
    """The same; where the job serves the model, with the service's name, which other nodes could not tell, and with
    patience for a server that loads again."""
    if spec.serve is None:
        return spec
    lost_after_s = max(spec.lost_after_s, spec.serve.patience_s)
    return spec.model_copy(update={"service": spec.service_name, "lost_after_s": lost_after_s})


def check_limits(specs: Mapping[str, ChatSpec]) -> None:
    """Raises UserError where two specs share an account and set different limits. The keys are names for people."""
    known: dict[str, tuple[str, ChatSpec]] = {}
    for name, spec in specs.items():
        other, first = known.setdefault(spec.account, (name, spec))
        if (first.rate, first.budget, first.price) != (spec.rate, spec.budget, spec.price):
            raise UserError(
                f"{other} and {name} ask {spec.model!r} at {spec.service_name}; "
                "rate, budget and price must be the same for both"
            )
