"""What a chat request sets for itself: what is sent, under which key its answer is kept, what a completion holds."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from rmbatch.chat.client import ChatClient, ChatRequest, ChatSpec, Completion
from rmbatch.chat.request import build_body, with_defaults
from rmbatch.stores.answers import key_of
from tests.rmbatch.chat.completing import asked, chats, completed, says
from tests.rmbatch.chat.test_transport import BEGUN, COUNTED, DONE, END, chunk
from tests.servers.hostile import Deed, Events, HostileServer, Json

SCHEMA = {"type": "object", "properties": {"b": {}, "a": {}}}
MESSAGES = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
ALL_SET = {
    **{"temperature": 0.7, "top_p": 0.9, "max_tokens": 64, "seed": 3, "n": 2, "stop": ["END"], "logprobs": 4},
    **{"presence_penalty": 0.5, "frequency_penalty": -0.5, "reasoning_effort": "low"},
    "extra_body": {"top_k": 5, "chat_template_kwargs": {"enable_thinking": False}},
}
ADD = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
CALL = {"id": "call-1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
OTHER_CALL = {"id": "call-2", "type": "function", "function": {"name": "add", "arguments": "{}"}}
TOKENS = {"content": [{"token": "a", "logprob": -0.5, "top_logprobs": []}]}


@pytest.mark.parametrize(
    ("settings", "own", "key"),
    [  # recorded before requests could set more than a seed and n: answers of that time are found
        ({}, {}, "9540d1cdf32daf448d728b146eb5d184"),
        ({}, {"schema": SCHEMA, "seed": 7, "n": 3}, "cfe8f1c441123211500d8cbb74204b1f"),
        (ALL_SET, {}, "03d7c6456e41747bcd2a8cafd572efe0"),
        (ALL_SET, {"schema": SCHEMA, "seed": 7, "n": 3}, "767925696026636c174e15e0bb0173a7"),
    ],
)
def test_keys_of_kept_answers_do_not_change(settings: dict[str, Any], own: dict[str, Any], key: str) -> None:
    spec = ChatSpec(endpoints=["http://judge:8000"], model="judge", **settings)
    body = ChatClient(spec).build_body(ChatRequest(MESSAGES, **own))
    assert key_of(spec.service_name, body).hex() == key


OWN: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"temperature": 0.2}, {"temperature": 0.2}),
    ({"temperature": 0.0}, {"temperature": 0.0}),
    ({"top_p": 0.5}, {"top_p": 0.5}),
    ({"max_tokens": 9}, {"max_tokens": 9}),
    ({"seed": 0}, {"seed": 0}),
    ({"n": 3}, {"n": 3}),
    ({"stop": ["A", "B"]}, {"stop": ["A", "B"]}),
    ({"stop": "A"}, {"stop": "A"}),
    ({"stop": []}, {"stop": None}),
    ({"logprobs": 1}, {"top_logprobs": 1}),
    ({"logprobs": 0}, {"top_logprobs": None}),
    ({"tools": [ADD]}, {"tools": [ADD]}),
    ({"tools": [ADD], "tool_choice": "required"}, {"tools": [ADD], "tool_choice": "required"}),
    ({"schema": SCHEMA}, {"response_format": ("verdict", SCHEMA)}),
    ({"schema": SCHEMA, "schema_name": "critique"}, {"response_format": ("critique", SCHEMA)}),
]


@pytest.mark.parametrize(("own", "differs"), OWN)
def test_setting_of_a_request_replaces_the_specs(
    one: HostileServer, tmp_path: Path, own: dict[str, Any], differs: dict[str, Any]
) -> None:
    requests = [ChatRequest(MESSAGES), ChatRequest(MESSAGES, **own)]
    assert not any(each.from_cache for each in completed(one, requests=requests, cache=str(tmp_path), **ALL_SET))
    sent = sorted(chats(one), key=lambda body: all(_of(body, name) == value for name, value in differs.items()))
    plain, with_own = sent
    assert {name: _of(with_own, name) for name in differs} == differs
    assert {**plain, **dict.fromkeys(differs)} == {**with_own, **dict.fromkeys(differs)}
    assert all(each.from_cache for each in completed(one, requests=requests, cache=str(tmp_path), **ALL_SET))


def _of(body: dict[str, Any], name: str) -> Any:
    if name == "response_format" and (form := body.get(name)):
        return form["json_schema"]["name"], form["json_schema"]["schema"]
    return body.get(name)


def test_setting_of_a_request_replaces_extra_body(one: HostileServer) -> None:
    extra = {"tools": [ADD, ADD], "tool_choice": "auto", "max_completion_tokens": 100}
    request = ChatRequest(MESSAGES, tools=[ADD], tool_choice="none", max_tokens=7)
    completed(one, requests=[request], extra_body=extra)
    (body,) = chats(one)
    assert (body["tools"], body["tool_choice"], body["max_completion_tokens"]) == ([ADD], "none", 7)
    assert "max_tokens" not in body


def answered(server: HostileServer, deed: Deed, **settings: Any) -> Completion:
    server.plan("q", *[deed] * 4)
    (completion,) = completed(server, requests=asked("q"), **settings)
    return completion


CALLED = says(None, "tool_calls", tool_calls=[CALL, OTHER_CALL])


def test_tool_calls_are_kept_for_each_sample(one: HostileServer, tmp_path: Path) -> None:
    other = says("no tool")["choices"][0] | {"index": 1, "logprobs": TOKENS}
    deed = Json(CALLED | {"choices": [*CALLED["choices"], other]})
    completion = answered(one, deed, n=2, temperature=1.0, cache=str(tmp_path))
    assert completion.tool_calls == ((CALL, OTHER_CALL), ())
    assert [sample.tool_calls for sample in completion.samples] == [(CALL, OTHER_CALL), ()]
    assert [sample.logprobs for sample in completion.samples] == [None, TOKENS]
    assert completion.texts == ("", "no tool")
    kept = answered(one, deed, n=2, temperature=1.0, cache=str(tmp_path))
    assert (kept.from_cache, kept.tool_calls) == (True, completion.tool_calls)


def test_tool_call_without_content_is_an_answer(one: HostileServer) -> None:
    message = {"role": "assistant", "tool_calls": [CALL]}
    completion = answered(one, Json({"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]}))
    assert (completion.failure, completion.tool_calls) == (None, ((CALL,),))


@pytest.mark.parametrize("call", [7, {}, {"function": {"name": "add"}}, {"function": {"name": 7, "arguments": ""}}])
def test_malformed_tool_call_is_a_bad_answer(one: HostileServer, call: Any) -> None:
    one.plan("q", Json(says(None, "tool_calls", tool_calls=[call])))
    (completion,) = completed(one, requests=asked("q"))
    assert (completion.texts, completion.num_tries) == (("said q",), 2)


def piece(arguments: str, **about: Any) -> bytes:
    """An event with a part of a call."""
    function = {"arguments": arguments} | ({"name": about.pop("name")} if "name" in about else {})
    return chunk({"tool_calls": [{**about, "function": function}]})


ENDS = chunk({"finish_reason": "tool_calls"})


@pytest.mark.parametrize(
    "pieces",
    [
        [
            *(BEGUN, piece("", index=0, id="call-1", type="function", name="add")),
            *(piece('{"a"', index=0), piece(": 1}", index=0)),
            piece("{}", index=1, id="call-2", type="function", name="add"),
        ],
        [  # empty names and ids again, and both calls in turns
            *(piece('{"a"', index=0, id="call-1", name="add"), piece("{", index=1, id="call-2", name="add")),
            *(piece(": 1}", index=0, id="", name=""), piece("}", index=1, id=None, name=None)),
        ],
        [piece('{"a": 1}', id="call-1", name="add"), piece("{}", id="call-2", name="add")],  # without an index
        [piece('{"a"', id="call-1", name="add"), piece(": 1}"), piece("{}", id="call-2", name="add")],
    ],
)
def test_streamed_tool_calls_equal_whole_ones(one: HostileServer, pieces: list[bytes]) -> None:
    completion = answered(one, Events([*pieces, ENDS, COUNTED, DONE]), first_token_timeout_s=5)
    one._plans.clear()
    assert completion == answered(one, Json(CALLED))
    assert completion.tool_calls == ((CALL, OTHER_CALL),)


def test_streamed_logprobs_are_kept_for_each_sample(one: HostileServer) -> None:
    pieces = [chunk({"index": n, "content": "a", "logprobs": TOKENS}) for n in (0, 1, 1)]
    ends = [chunk({"index": n, "finish_reason": "stop"}) for n in (0, 1)]
    completion = answered(one, Events([*pieces, *ends, COUNTED, DONE]), n=2, temperature=1.0, first_token_timeout_s=5)
    assert [len(sample.logprobs["content"]) for sample in completion.samples] == [1, 2]


def test_tool_call_counts_as_first_token(one: HostileServer) -> None:
    pieces = [piece("", index=0, id="call-1", name="add"), 0.6, piece('{"a": 1}', index=0), END, COUNTED, DONE]
    completion = answered(one, Events(pieces), first_token_timeout_s=0.4)
    assert (completion.tool_calls, completion.num_tries) == (((CALL,),), 1)


def test_a_request_that_is_complete_stays_as_it_is() -> None:
    """Whoever asks fills it in, and the shared client must not do so again by settings of its own."""
    spec = ChatSpec(endpoints=["http://host"], model="m", max_tokens=100, extra_body={"max_completion_tokens": 200})  # type: ignore[list-item]
    complete = with_defaults(ChatRequest(MESSAGES), spec)
    assert with_defaults(complete, spec.place()) == complete
    assert orjson.loads(build_body("m", complete))["max_completion_tokens"] == 200
    assert orjson.loads(build_body("m", with_defaults(complete, spec)))["max_tokens"] == 100
    assert orjson.loads(orjson.dumps(complete))["messages"] == MESSAGES  # by which a request finds its actor
