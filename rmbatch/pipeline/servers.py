"""Checks that the servers of a job answer, before it does long work."""

import asyncio

from connectors.errors import UserError
from rmbatch.chat.connect import open_client
from rmbatch.chat.spec import ChatSpec
from rmbatch.endpoints.errors import ServiceError
from rmbatch.reward_models.engines.base import open_engine
from rmbatch.reward_models.spec import RewardModelSpec


def check_chat_servers(asker: tuple[str, ChatSpec]) -> None:
    """Raises UserError where none of an asker's servers answers. ``asker``: the name of a reward, and its spec."""
    name, spec = asker

    async def check() -> None:
        client = open_client(spec.model_copy(update={"cache": None}))
        try:
            await client.start()
        finally:
            await client.close()

    try:
        asyncio.run(check())
    except ServiceError as error:
        raise UserError(f"reward {name!r}: model {spec.model!r} cannot be asked: {error}") from None


def check_model_servers(spec: RewardModelSpec) -> None:
    """Raises UserError where none of a model's servers answers."""
    try:
        open_engine(spec).close()
    except ServiceError as error:
        raise UserError(f"model {spec.model!r} cannot be served: {error}") from None
