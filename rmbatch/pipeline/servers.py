"""Looks whether the servers of a job are there, before it does long work. Asks them nothing else."""

import asyncio

from connectors.errors import UserError
from rmbatch.chat.connect import open_client
from rmbatch.chat.spec import ChatSpec
from rmbatch.endpoints.errors import ServiceError
from rmbatch.reward_models.engines.base import open_engine
from rmbatch.reward_models.spec import RewardModelSpec


def check_chat_servers(asker: tuple[str, ChatSpec]) -> None:
    """Raises UserError where none of the servers that a reward (by name) asks is there."""
    name, spec = asker

    async def look() -> None:
        client = open_client(spec.model_copy(update={"cache": None}))
        try:
            await client.start()
        finally:
            await client.close()

    try:
        asyncio.run(look())
    except ServiceError as error:
        raise UserError(f"reward {name!r}: model {spec.model!r} cannot be asked: {error}") from None


def check_model_servers(spec: RewardModelSpec) -> None:
    """Raises UserError where none of the servers of a model is there."""
    try:
        open_engine(spec).close()
    except ServiceError as error:
        raise UserError(f"model {spec.model!r} cannot be served: {error}") from None
