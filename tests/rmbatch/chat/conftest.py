"""Two chat servers that echo, and the key that is sent to them."""

from collections.abc import Iterator

import pytest

from tests.rmbatch.chat.completing import KEY, echo, key
from tests.servers.hostile import HostileServer


@pytest.fixture
def one() -> Iterator[HostileServer]:
    with HostileServer(echo, key) as server:
        yield server


@pytest.fixture
def other() -> Iterator[HostileServer]:
    with HostileServer(echo, key) as server:
        yield server


@pytest.fixture(autouse=True)
def api_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
