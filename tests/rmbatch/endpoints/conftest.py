"""Two servers that double numbers."""

from collections.abc import Iterator

import pytest

from tests.rmbatch.endpoints.doubling import doubled, key
from tests.servers.hostile import HostileServer


@pytest.fixture
def one() -> Iterator[HostileServer]:
    with HostileServer(doubled, key) as server:
        yield server


@pytest.fixture
def other() -> Iterator[HostileServer]:
    with HostileServer(doubled, key) as server:
        yield server
