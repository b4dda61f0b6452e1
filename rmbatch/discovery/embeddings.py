"""Gets vectors of texts from a server with OpenAI's ``/v1/embeddings``, and keeps them as answers are kept.

vectors = embed_texts(Embeddings(endpoint="http://host:8001", model="Qwen/Qwen3-Embedding-0.6B"), texts, folder)
"""

import asyncio
import os
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import numpy as np
import orjson
from pydantic import Field, field_validator

from connectors.errors import JobError, UserError
from connectors.storage import Folder
from rmbatch.discovery.select import Vectors
from rmbatch.endpoints.errors import ServiceError, ServiceLost
from rmbatch.settings.base import Positive, Settings

BATCH = 64
"""Texts in a request."""
IN_FLIGHT = 8


class Embeddings(Settings):
    """The server that makes vectors of texts."""

    endpoint: Annotated[str, Field(min_length=1)]
    """Base URL of a server."""
    model: Annotated[str, Field(min_length=1)]
    """As the server calls it."""
    api_key_env: str = "OPENAI_API_KEY"
    """The environment variable that has the key; if it is not set, no key is sent."""
    dimensions: Positive | None = None
    """What the server is asked for. None: the model's own."""

    @field_validator("endpoint")
    @classmethod
    def _is_url(cls, url: str) -> str:
        from rmbatch.chat.spec import normalize_url

        try:
            normalize_url(url)
        except ServiceError as error:
            raise ValueError(str(error).removeprefix("endpoints: ")) from None
        return url


def embed_texts(spec: Embeddings, texts: Sequence[str], kept: Folder) -> Vectors:
    """Get a vector for each text, [n, dimensions]; ``kept``: the folder that keeps them.

    Raises UserError where the server refuses, and JobError where it cannot be asked any more.
    """
    from rmbatch.stores.answers import ResponseCache, key_of

    cache = ResponseCache.open(kept.url, kept.options, service=spec.endpoint, model=spec.model)
    keys = [key_of(spec.endpoint, orjson.dumps([spec.model, spec.dimensions, text])) for text in texts]
    found = {key: answer["vector"] for key in keys if (answer := cache.find(key)) is not None}
    missing = {key: text for key, text in zip(keys, texts) if key not in found}

    def keep(text: str, vector: list[float]) -> None:
        cache.add(key_of_text[text], {"vector": vector})
        found[key_of_text[text]] = vector

    key_of_text = {text: key for key, text in missing.items()}
    try:
        asyncio.run(_request(spec, list(missing.values()), keep))
    except (ServiceError, ServiceLost) as error:
        raise JobError(f"embeddings of {spec.model!r}: {error}") from error
    finally:
        cache.flush()
    lengths = {len(vector) for vector in found.values()}
    if len(lengths) > 1:
        raise UserError(f"embeddings of {spec.model!r}: vectors of {sorted(lengths)} numbers do not fit together")
    return np.array([found[key] for key in keys], dtype=np.float64)


async def _request(spec: Embeddings, texts: Sequence[str], keep: Callable[[str, list[float]], None]) -> None:
    """Request the vectors, and call ``keep`` with each as it arrives."""
    from rmbatch.endpoints.balancer import Ask, Endpoints, Post
    from rmbatch.endpoints.http import BadAnswer, Refused, Reply

    async def check(ask: Ask) -> None:
        try:
            await ask("/v1/models")
        except Refused as refused:
            if refused.status not in (404, 405, 501):
                raise

    def read(some: Sequence[str], reply: Reply) -> bool:
        try:
            rows = sorted(reply.body["data"], key=lambda row: int(row["index"]))
            vectors = [[float(number) for number in row["embedding"]] for row in rows]
        except (KeyError, TypeError, ValueError) as error:
            raise BadAnswer(f"no embeddings: {type(error).__name__} {error}") from None
        if len(vectors) != len(some) or not np.isfinite(vectors).all():
            raise BadAnswer(f"{len(vectors)} embeddings for {len(some)} texts, or not all numbers finite")
        for text, vector in zip(some, vectors):
            keep(text, vector)
        return True

    def post(some: Sequence[str]) -> Post[bool]:
        body: dict[str, Any] = {"model": spec.model, "input": list(some), "encoding_format": "float"}
        if spec.dimensions is not None:
            body["dimensions"] = spec.dimensions
        return Post("/v1/embeddings", orjson.dumps(body), lambda reply: read(some, reply))

    if not texts:
        return
    key = os.environ.get(spec.api_key_env)
    endpoints = Endpoints([spec.endpoint], check, in_flight=IN_FLIGHT, api_key=key)
    try:
        batches = [texts[start : start + BATCH] for start in range(0, len(texts), BATCH)]
        answers = await endpoints.post_all(map(post, batches))
    finally:
        endpoints.close()
    failed = next((answer.failure for answer in answers if answer.value is None), None)
    if failed is not None:
        raise UserError(f"embeddings of {spec.model!r}: {failed}")
