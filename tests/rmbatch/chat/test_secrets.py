"""An API key that a server repeats is seen nowhere: answers, errors, tracebacks, logs, what is kept."""

import logging
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson
import pytest

import rmbatch
from rmbatch.chat.client import Completion
from rmbatch.endpoints.balancer import Patience
from tests.judging import judge_server
from tests.rmbatch.chat.completing import KEY, asked, completed, says
from tests.servers.hostile import Deed, Events, HostileServer, Json, Status

pytestmark = pytest.mark.usefixtures("no_client_stays")

ECHOES = [
    KEY,
    quote(KEY, safe="").replace("-", "%2D"),
    KEY.replace("-", "&#45;"),
    KEY.replace("-", "\\u002d"),
    "x" * 60 + KEY,  # where a message is cut
    "x" * 290 + KEY,
    "x" * 4090 + KEY,
]
FAST = Patience(
    attempts=2, timeout_s=60, give_up_s=0.3, backoff_s=0.01, max_backoff_s=0.02, cooldown_s=0.02, lost_after_s=0.3
)
PARTS = (KEY, KEY[:9], KEY[3:])


def seen_in(text: object) -> list[str]:
    return [part for part in PARTS if part in str(text)]


def chain(error: BaseException) -> Iterator[BaseException]:
    """An error and all that led to it, those too that a traceback does not show."""
    told: list[BaseException] = [error]
    for each in told:
        told += [other for other in (each.__cause__, each.__context__) if other is not None and other not in told]
    yield from told


@pytest.mark.parametrize("echo", ECHOES)
@pytest.mark.parametrize("status", [301, 400, 401, 402, 403, 404, 422, 429, 500, 503])
def test_no_error_shows_a_key(one: HostileServer, caplog: Any, status: int, echo: str) -> None:
    caplog.set_level(logging.DEBUG)
    one.plan("/v1/models", *[Json({})] * 99)
    for body in ({"error": {"message": f"bad key {echo}", "code": echo}}, f"<p>bad key {echo}</p>".encode()):
        one.always = Status(status, {"Location": f"http://elsewhere/{KEY}"}, body)
        told: Any = ""
        try:
            told = completed(one, requests=asked("q"), patience=FAST)
        except Exception as error:
            for each in chain(error):
                assert not seen_in(each) + seen_in(each.args) + seen_in(vars(each)), repr(each)
            told = "".join(traceback.format_exception(error))
        assert not seen_in(told)
    assert not seen_in(caplog.text)


@pytest.mark.parametrize("echo", ECHOES)
@pytest.mark.parametrize(
    "form",
    [
        lambda echo: Json(says(f"Your key is {echo}.")),
        lambda echo: Json(says("A", reasoning_content=f"hm {echo}")),
        lambda echo: Json(says(None, refusal=f"no {echo}")),
        lambda echo: Json({"error": {"message": echo}}),
        lambda echo: Json({"nonsense": echo}),
        lambda echo: Json([echo]),
        lambda echo: Status(200, body=f"<html>{echo}".encode()),
        lambda echo: Events([b"data: " + orjson.dumps({"error": {"message": echo}}) + b"\n\n"]),
        lambda echo: Events([b"data: " + echo.encode() + b"\n\n"]),
        lambda echo: Events(pieces_of(echo)),
    ],
)
def test_no_answer_shows_a_key(one: HostileServer, tmp_path: Path, caplog: Any, form: Any, echo: str) -> None:
    caplog.set_level(logging.DEBUG)
    deed: Deed = form(echo)
    one.plan("q", *[deed] * 1000)
    settings = {"first_token_timeout_s": 5} if isinstance(deed, Events) else {}
    names = [f"n{number}" for number in range(30)]
    completions: list[Completion] = completed(
        one, requests=asked("q", *names), cache=str(tmp_path), in_flight=2, patience=FAST, **settings
    )
    assert completions[0].texts or completions[0].failure
    assert not seen_in(completions) + seen_in(caplog.text)
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or not seen_in(path.read_bytes())


def pieces_of(echo: str) -> list[bytes]:
    """A streamed answer that repeats a key in many pieces."""
    deltas = [{"content": echo[place : place + 5]} for place in range(0, len(echo), 5)]
    chunks = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    return [b"data: " + orjson.dumps(each) + b"\n\n" for each in (*chunks, end)] + [b"data: [DONE]\n\n"]


def test_no_judge_reason_shows_a_key() -> None:
    with judge_server(lambda seen: {"critique": f"Your key is {KEY}.", "score": 7}) as server:
        result = rmbatch.judge("pointwise", endpoint=server.url, model="judge").evaluate(
            {"prompt": "q", "response": "a"}
        )
    assert (result.score, result.reason) == (7.0, "Your key is ***.")  # type: ignore[union-attr]
