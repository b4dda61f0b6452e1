"""Chat clients as actors: shared by tasks, killed and asked again, refused where there is no room."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from connectors.errors import JobError, UserError
from connectors.storage import StorageOptions
from rmbatch.chat.client import ChatRequest
from rmbatch.chat.spec import ChatSpec
from rmbatch.pipeline.actors.chats import Chats, start_chats
from tests.judging import judge_server, questions
from tests.servers.hostile import HostileServer, Late, Status

pytestmark = pytest.mark.ray


@pytest.fixture
def server() -> Iterator[HostileServer]:
    with judge_server(lambda seen: f"said {seen.text}") as server:
        yield server


def spec(server: HostileServer, tmp_path: Path, **settings: Any) -> ChatSpec:
    written = {"endpoint": server.url, "model": "judge", "cache": str(tmp_path / "answers"), **settings}
    return ChatSpec.model_validate(written)


def opened(*specs: ChatSpec, spent: dict[str, Any] | None = None, kept: Any = None) -> Any:
    named = {each.client_key: (f"reward {n}", each) for n, each in enumerate(specs)}
    return start_chats(named, StorageOptions(), spent or {}, lambda _: None, kept or (lambda _: None))


def asked(texts: list[str]) -> list[ChatRequest]:
    return [ChatRequest([{"role": "user", "content": text}]) for text in texts]


def only(chats: Chats) -> Any:
    return next(iter(chats.connections.values()))


def test_equal_requests_of_all_tasks_are_sent_once(local_ray: None, server: HostileServer, tmp_path: Path) -> None:
    texts = [f"question {n % 200}" for n in range(600)]
    server.always = Late(0.05)
    with opened(spec(server, tmp_path, actors=2)) as chats:
        chat = only(chats)
        found: list[Any] = []
        threads = [threading.Thread(target=lambda: found.append(chat.complete(asked(texts)))) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for completions in found:
        assert [completion.texts for completion in completions] == [(f"said {text}",) for text in texts]
    assert len(questions(server)) == 200


def actors() -> list[psutil.Process]:
    """Processes of chat actors."""
    return [
        process for process in psutil.Process(os.getpid()).children(recursive=True) if "ChatActor" in _title(process)
    ]


def all_gone() -> bool:
    """Whether no actor is left, soon."""
    deadline = time.monotonic() + 20
    while actors() and time.monotonic() < deadline:
        time.sleep(0.1)
    return not actors()


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def test_killed_actors_open_requests_alone_are_asked_again(
    local_ray: None, server: HostileServer, tmp_path: Path
) -> None:
    server.always = Late(0.2)
    texts = [f"question {n}" for n in range(300)]
    with opened(spec(server, tmp_path, in_flight=16)) as chats:
        chat, found = only(chats), []
        thread = threading.Thread(target=lambda: found.extend(chat.complete(asked(texts))))
        thread.start()
        while len(questions(server)) < 100:
            time.sleep(0.02)
        (process,) = actors()
        process.send_signal(signal.SIGKILL)
        thread.join(60)
    assert [completion.texts for completion in found] == [(f"said {text}",) for text in texts]
    twice = [text for text in texts if server.seen[text].count("200") > 1]
    assert len(twice) <= 16  # what was on its way when it died


def test_no_server_is_said_before_any_work(local_ray: None, server: HostileServer, tmp_path: Path) -> None:
    server.die()
    message = "reward 'reward 0': model 'judge' cannot be asked: no endpoint answers"
    with pytest.raises(UserError, match=message), opened(spec(server, tmp_path)):
        pass
    assert all_gone()


def test_a_mistake_comes_back_as_one_line(local_ray: None, server: HostileServer, tmp_path: Path) -> None:
    with opened(spec(server, tmp_path)) as chats:
        server.always = Status(404, body={"error": {"message": "no such model"}})
        with pytest.raises(ray.exceptions.RayTaskError) as error:
            only(chats).complete(asked(["question"]))
    assert isinstance(error.value.cause, JobError)
    assert "404 no such model" in str(error.value.cause)


def test_too_many_actors_for_the_cluster_are_refused(local_ray: None, server: HostileServer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="set fewer actors"), opened(spec(server, tmp_path, actors=20)):
        pass


def test_two_budgets_for_one_account_are_refused(local_ray: None, server: HostileServer, tmp_path: Path) -> None:
    one, other = (spec(server, tmp_path, budget={"requests": n}) for n in (5, 6))
    with pytest.raises(UserError, match="must be the same for both"), opened(one, other):
        pass


def test_spending_is_told_at_the_end_and_counts_next_time(
    local_ray: None, server: HostileServer, tmp_path: Path
) -> None:
    kept: dict[str, Any] = {}
    poor = spec(server, tmp_path, budget={"requests": 5}, max_tokens=5)
    with opened(poor, kept=kept.update) as chats:
        only(chats).complete(asked(["1", "2", "3"]))
    (account,) = kept
    assert kept[account]["requests"] == 3
    with opened(poor, spent=kept, kept=kept.update) as chats, pytest.raises(Exception, match="budget"):
        only(chats).complete(asked([str(n) for n in range(4, 9)]))
    assert kept[account]["requests"] == 5
    assert len(questions(server)) == 5


def test_nothing_runs_on_after_it(local_ray: None, server: HostileServer, tmp_path: Path) -> None:
    with opened(spec(server, tmp_path, rate={"requests": 6000})) as chats:
        only(chats).complete(asked(["1"]))
    assert all_gone()


def test_a_task_takes_completions_as_they_come(local_ray: None, server: HostileServer, tmp_path: Path) -> None:
    server.plan("slow", Late(3.0))
    texts = ["slow", *(f"question {n}" for n in range(100))]
    with opened(spec(server, tmp_path, actors=2)) as chats:
        found = only(chats).as_completed(asked(texts))
        first = dict(next(found) for _ in range(100))
        assert 0 not in first
        assert server.under_way == 1
        place, completion = next(found)
        assert (place, completion.texts) == (0, ("said slow",))
        assert next(found, None) is None
    assert {place: each.texts for place, each in first.items()} == {
        place: (f"said {text}",) for place, text in enumerate(texts) if place
    }


def test_completions_are_noted_while_others_are_under_way(
    local_ray: None, server: HostileServer, tmp_path: Path
) -> None:
    server.plan("slow", Late(5.0))
    texts = ["slow", *(f"question {n}" for n in range(100))]
    under_way = []
    with opened(spec(server, tmp_path)) as chats:
        found = only(chats).complete(asked(texts), lambda _: under_way.append(server.under_way))
    assert [each.texts for each in found] == [(f"said {text}",) for text in texts]
    assert (len(under_way), under_way[0], under_way[-1]) == (101, 1, 0)


def test_a_task_that_wants_no_more_cancels_what_is_under_way(
    local_ray: None, server: HostileServer, tmp_path: Path
) -> None:
    server.plan("slow", Late(60))
    with opened(spec(server, tmp_path)) as chats:
        found = only(chats).as_completed(asked(["slow", "question"]))
        assert next(found)[0] == 1
        found.close()
        deadline = time.monotonic() + 20
        while server.under_way and time.monotonic() < deadline:
            time.sleep(0.05)
        assert server.under_way == 0
        assert only(chats).complete(asked(["another"]))[0].texts == ("said another",)


def test_completions_go_on_coming_from_an_actor_that_was_killed(
    local_ray: None, server: HostileServer, tmp_path: Path
) -> None:
    server.always = Late(0.2)
    texts = [f"question {n}" for n in range(100)]
    with opened(spec(server, tmp_path, in_flight=8)) as chats:
        found = only(chats).as_completed(asked(texts))
        completions = dict(next(found) for _ in range(20))
        (process,) = actors()
        process.send_signal(signal.SIGKILL)
        completions |= dict(found)
    assert [completions[place].texts for place in range(100)] == [(f"said {text}",) for text in texts]
    assert sum(server.seen[text].count("200") > 1 for text in texts) <= 8  # what was on its way when it died


def test_a_mistake_ends_a_stream_in_one_line(local_ray: None, server: HostileServer, tmp_path: Path) -> None:
    with opened(spec(server, tmp_path)) as chats:
        server.always = Status(404, body={"error": {"message": "no such model"}})
        with pytest.raises(ray.exceptions.RayTaskError) as error:
            list(only(chats).as_completed(asked(["question"])))
    assert isinstance(error.value.cause, JobError)
    assert "404 no such model" in str(error.value.cause)
