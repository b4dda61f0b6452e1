"""Completions taken as they come: from the client itself, and by ordinary code from a client in another thread."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from connectors.errors import JobError
from connectors.storage import Folder
from rmbatch.chat.client import ChatClient, ChatSpec
from rmbatch.chat.connect import ChatConnection, UnaskedChat, connect_chat
from rmbatch.chat.local import open_clients
from rmbatch.chat.spec import Limits
from rmbatch.endpoints.errors import ServiceError
from tests.rmbatch.chat.completing import CALM, asked, chats, completed, spec
from tests.servers.hostile import HostileServer, Late, Status

pytestmark = pytest.mark.usefixtures("no_client_stays")

NAMES = [f"n{number}" for number in range(40)]


def taken(server: HostileServer, *names: str, most: int = 10**9, pause_s: float = 0.0, **settings: Any) -> list[Any]:
    """The first completions in the order in which they came, each with its place."""

    async def work() -> list[Any]:
        found = []
        async with (
            ChatClient(spec(server, **settings), patience=CALM) as client,
            aclosing(client.as_completed(iter(asked(*names)))) as completions,
        ):
            async for each in completions:
                found.append(each)
                if len(found) == most:
                    break
                await asyncio.sleep(pause_s)
        return found

    return asyncio.run(work())


def test_each_completion_comes_once_with_its_place(one: HostileServer) -> None:
    assert {place: each.texts for place, each in taken(one, *NAMES)} == {
        place: (f"said {name}",) for place, name in enumerate(NAMES)
    }


def test_fast_completions_come_before_a_slow_one(one: HostileServer) -> None:
    one.plan("slow", Late(0.5))
    places = [place for place, _ in taken(one, "slow", *NAMES)]
    assert places[-1] == 0
    assert len(places) == 41


def test_no_requests_give_no_completions(one: HostileServer) -> None:
    assert taken(one) == []


def test_requests_wait_for_a_slow_consumer(one: HostileServer) -> None:
    taken(one, *NAMES, most=3, pause_s=0.2, in_flight=2)
    assert len(chats(one)) <= 3 + 2 * 2  # taken, waiting to be taken, and finished but without room to wait


def test_closing_early_drops_requests_under_way(one: HostileServer, tmp_path: Path) -> None:
    one.plan("slow", Late(30))
    began = time.monotonic()
    taken(one, "slow", *NAMES, most=10, cache=str(tmp_path))
    assert time.monotonic() - began < 10
    completions = completed(one, requests=asked(*NAMES), cache=str(tmp_path))
    assert sum(each.from_cache for each in completions) >= 10  # what had come is kept


def test_error_ends_iteration_and_keeps_sent_answers(one: HostileServer, tmp_path: Path) -> None:
    one.plan("n3", Late(0.3))
    one.plan("n5", Status(404, body={"error": {"message": "no model judge"}}))
    with pytest.raises(ServiceError, match="404 no model judge"):
        taken(one, *NAMES, cache=str(tmp_path))
    assert len(chats(one)) < 25
    completions = completed(one, requests=asked(*NAMES), cache=str(tmp_path))
    assert completions[3].from_cache


def test_answers_under_way_come_before_the_error(one: HostileServer) -> None:
    for name in NAMES[:8]:
        one.plan(name, Late(0.5))
    one.plan("wrong", Status(404, body={"error": {"message": "no model judge"}}))

    found = []

    async def work() -> None:
        async with ChatClient(spec(one, in_flight=9), patience=CALM) as client:
            async for place, _ in client.as_completed(asked(*NAMES[:8], "wrong")):
                found.append(place)

    with pytest.raises(ServiceError, match="404 no model judge"):
        asyncio.run(work())
    assert sorted(found) == list(range(8))  # they are paid for, so who counts them must see them


@contextmanager
def connected_here(chat: ChatSpec, folder: Path) -> Iterator[ChatConnection]:
    yield connect_chat(chat)


@contextmanager
def of_a_local_job(chat: ChatSpec, folder: Path) -> Iterator[ChatConnection]:
    with open_clients({"chat": chat}, Folder.open(str(folder))) as clients:
        yield connect_chat(chat)
        answers = clients.usage(chat)
    assert answers["answers"] + answers["saved_answers"] > 0


Way = Callable[[ChatSpec, Path], Any]
WAYS = pytest.mark.parametrize("way", [connected_here, of_a_local_job])


@WAYS
def test_thread_takes_completions_as_they_come(one: HostileServer, tmp_path: Path, way: Way) -> None:
    one.plan("slow", Late(3.0))
    began = time.monotonic()
    with way(spec(one), tmp_path) as connection:
        found = connection.as_completed(asked("slow", *NAMES))
        places = [next(found)[0] for _ in NAMES]
        assert time.monotonic() - began < 3.0
        assert (places.count(0), next(found)[0]) == (0, 0)
        assert next(found, None) is None
        assert connection.complete(asked("again"))[0].texts == ("said again",)


@WAYS
def test_thread_stops_early_and_asks_again(one: HostileServer, tmp_path: Path, way: Way) -> None:
    one.plan("slow", Late(30))
    began = time.monotonic()
    with way(spec(one, in_flight=4), tmp_path) as connection:
        with closing(connection.as_completed(asked("slow", *NAMES))) as found:
            next(found)
        assert connection.complete(asked("n39"))[0].texts == ("said n39",)
    assert time.monotonic() - began < 10
    assert len(chats(one)) < 40


@WAYS
def test_thread_gets_an_error_in_one_line(one: HostileServer, tmp_path: Path, way: Way) -> None:
    one.plan("n5", *[Status(404, body={"error": {"message": "no model judge"}})] * 9)
    with way(spec(one), tmp_path) as connection:
        assert connection.complete(asked("n0"))
        with pytest.raises(JobError, match=r"model .judge.: .* 404 no model judge"):
            list(connection.as_completed(asked(*NAMES)))


def test_usage_is_saved_while_completions_are_taken(one: HostileServer, tmp_path: Path) -> None:
    one.plan("slow", Late(2.0))
    chat = spec(one).model_copy(update={"budget": Limits(requests=100)})
    with open_clients({"chat": chat}, Folder.open(str(tmp_path))):
        found = connect_chat(chat).as_completed(asked("slow", "q"))
        assert next(found)[0] == 1
        assert next(found)[0] == 0
        assert b'"requests": 2' in (tmp_path / "spent.json").read_bytes()


def test_plan_sends_no_request() -> None:
    completions = UnaskedChat().complete(asked("a", "b"))
    assert [str(each.failure) for each in completions] == ["not_asked: nobody is asked for a plan"] * 2
