"""The way to a client in this process: closed with its errors, opened anew after a fork, interrupted at once."""

import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from connectors.errors import JobError
from rmbatch.chat.connect import complete_counted, connect_chat
from rmbatch.chat.spec import ChatSpec
from rmbatch.costs import usage
from tests.rmbatch.chat.completing import asked, chats, spec
from tests.servers.hostile import HostileServer, Late, Status

pytestmark = pytest.mark.usefixtures("no_client_stays")

ROOT = Path(__file__).parents[3]


def complete(chat: ChatSpec, *names: str) -> list[tuple[str | None, ...]]:
    return [completion.texts for completion in connect_chat(chat).complete(asked(*names))]


def test_failed_clients_are_closed(one: HostileServer) -> None:
    before = threading.active_count()
    one.always = Status(401)
    for _ in range(4):
        with pytest.raises(JobError, match="401"):
            complete(spec(one), "q")
    assert threading.active_count() <= before + 1
    one.always = None
    assert complete(spec(one), "q") == [("said q",)]


def test_answers_are_counted_while_others_are_under_way(one: HostileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "REPORT_EVERY_S", 0.0)
    one.plan("slow", Late(1.0))
    counted: Counter[str] = Counter()
    under_way: list[int] = []

    def report(counts: Mapping[str, int]) -> None:
        counted.update(counts)
        under_way.append(one.under_way)

    with usage.report_to(report):
        complete_counted(spec(one), asked("slow", "a", "b"), "judge", lambda *_: ())
    assert under_way[0] >= 1  # a kill now loses what is under way alone
    assert counted["judge.answers"] == len(chats(one)) == 3


def test_forked_process_opens_its_own_client(one: HostileServer) -> None:
    script = """
import os, signal, sys
from rmbatch.chat.client import ChatRequest, ChatSpec
from rmbatch.chat.connect import connect_chat
chat = ChatSpec(endpoint=sys.argv[1], model="judge")
ask = lambda name: connect_chat(chat).complete([ChatRequest([{"role": "user", "content": name}])])[0].texts
assert ask("parent") == ("said parent",)
pid = os.fork()
if not pid:
    signal.alarm(20)
    os._exit(0 if ask("child") == ("said child",) else 1)
assert os.waitpid(pid, 0)[1] == 0
assert ask("again") == ("said again",)
"""
    subprocess.run([sys.executable, "-c", script, one.url], cwd=ROOT, check=True, timeout=60)
    assert [one.seen[name] for name in ("parent", "child", "again")] == [["200"]] * 3


def test_interrupt_stops_complete(one: HostileServer) -> None:
    one.always = Late(0.5)
    script = """
import sys
from rmbatch.chat.client import ChatRequest, ChatSpec
from rmbatch.chat.connect import connect_chat
chat = ChatSpec(endpoint=sys.argv[1], model="judge", in_flight=2)
requests = [ChatRequest([{"role": "user", "content": str(n)}]) for n in range(60)]
try:
    connect_chat(chat).complete(requests)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", script, one.url], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        while not one.most_under_way:
            assert process.poll() is None
            os.sched_yield()
        process.send_signal(signal.SIGINT)
        told, _ = process.communicate(timeout=20)
    finally:
        process.kill()
    assert told == "interrupted\n"
    assert len([path for path, body, _ in one.asked if body is not None]) < 30


def test_threads_share_a_client(one: HostileServer) -> None:
    found: list[object] = []
    threads = [threading.Thread(target=lambda: found.append(complete(spec(one), "q"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[("said q",)]] * 3


def test_different_samplings_share_a_client_and_its_in_flight(one: HostileServer) -> None:
    one.always = Late(0.05)
    cold, warm = spec(one, in_flight=3), spec(one, in_flight=3, temperature=0.9, max_tokens=7)
    with ThreadPoolExecutor() as threads:
        found = list(threads.map(lambda each: connect_chat(each).complete(asked(*"abcdef")), (cold, warm)))
    assert all(completion.texts for completions in found for completion in completions)
    assert one.most_under_way <= 3
    sent = Counter((body["temperature"], body.get("max_tokens")) for body in chats(one))
    assert sent == {(0.0, None): 6, (0.9, 7): 6}
