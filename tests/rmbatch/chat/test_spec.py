"""The settings of a chat model: what reaches the server, what is refused, what decides answers."""

import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from rmbatch.chat.client import ChatRequest, ChatSpec
from tests.rmbatch.chat.completing import KEY, asked, chats, completed, content
from tests.servers.hostile import HostileServer
from tests.servers.s3 import REPOSITORY


def test_every_option_reaches_the_server(one: HostileServer) -> None:
    options: dict[str, Any] = {
        **{"temperature": 0.7, "top_p": 0.9, "max_tokens": 64, "seed": 3, "n": 2, "presence_penalty": 0.5},
        **{"frequency_penalty": -0.5, "reasoning_effort": "low"},
    }
    schema = {"type": "object", "properties": {"b": {}, "a": {}}}
    request = ChatRequest([{"role": "system", "content": "s"}, {"role": "user", "content": "q"}], schema=schema)
    extra = {"top_k": 5, "chat_template_kwargs": {"enable_thinking": False}}
    completed(one, requests=[request], **options, stop=["END"], logprobs=4, extra_body=extra)
    (body,) = chats(one)
    assert body == {
        **options,
        **extra,
        "model": "judge",
        "messages": list(request.messages),
        "stop": ["END"],
        "logprobs": True,
        "top_logprobs": 4,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "verdict", "schema": schema, "strict": True},
        },
    }
    path, _, headers = one.asked[-1]
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert headers["Content-Type"] == "application/json"


def test_unset_options_are_not_sent_but_zeros_are(one: HostileServer) -> None:
    completed(one, requests=asked("q"), seed=0, logprobs=0)
    (body,) = chats(one)
    assert body == {
        **{"model": "judge", "messages": [{"role": "user", "content": "q"}], "temperature": 0.0, "n": 1},
        **{"seed": 0, "logprobs": True},
    }


@pytest.mark.parametrize(("structured", "sent"), [("json_object", {"type": "json_object"}), ("text", None)])
def test_schema_is_not_sent_where_structured_says_so(one: HostileServer, structured: str, sent: Any) -> None:
    requests = [ChatRequest(asked("q")[0].messages, schema={"type": "object"}), *asked("r")]
    completed(one, requests=requests, structured=structured)
    assert {content(body): body.get("response_format") for body in chats(one)} == {"q": sent, "r": None}


def test_no_key_is_sent_where_none_is_set(one: HostileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTHER", "sk-other")
    completed(one, requests=asked("q"), api_key_env="OTHER")
    completed(one, requests=asked("r"), api_key_env="NOT_SET")
    headers = [headers.get("Authorization") for _, body, headers in one.asked if body is not None]
    assert headers == ["Bearer sk-other", None]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"extra_body": {"temperature": 1}}, "temperature has a key of its own"),
        ({"extra_body": {"stream": True}}, "stream has a key of its own"),
        ({"n": 4}, "samples of temperature 0 are the same"),
        ({"endpoints": []}, "write endpoint: URL of a server, or serve"),
        ({"endpoints": ["http://user:pw@host"]}, "holds credentials"),
        ({"endpoints": ["host:8000"]}, "is no URL of a server"),
        ({"endpoints": ["http://host/v1?key=1"]}, "holds credentials or a query"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temprature": 1}, "temprature"),
        ({"api_key": KEY}, "api_key"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ChatSpec(**{"endpoints": ["http://host"], "model": "m", **settings})


@pytest.mark.parametrize(
    ("url", "service"),
    [
        ("http://host:8000", "host:8000"),
        ("http://host:8000/v1/", "host:8000"),
        ("https://api.openai.com/v1", "api.openai.com"),
        ("https://open.bigmodel.cn/api/paas/v4", "open.bigmodel.cn/api/paas/v4"),
        ("https://x.com/compatible-mode/v1", "x.com/compatible-mode"),
    ],
)
def test_service_name_is_host_and_path(url: str, service: str) -> None:
    assert ChatSpec(endpoints=[url], model="m").service_name == service


def test_identity_holds_only_what_decides_answers() -> None:
    one = ChatSpec(endpoints=["http://a"], model="m", service="s")
    assert one.identity() == ChatSpec(endpoints=["http://b"], model="m", service="s", attempts=1).identity()
    assert one.identity() != ChatSpec(endpoints=["http://a"], model="m", service="s", seed=1).identity()


def test_a_path_below_a_gateway_is_kept(one: HostileServer) -> None:
    url = f"{one.url}/api/paas/v4"
    (completion,) = completed(requests=asked("q"), endpoints=[url])
    assert completion.endpoint == url
    assert {path for path, _, _ in one.asked} == {"/api/paas/v4/models", "/api/paas/v4/chat/completions"}


def test_spec_imports_no_http_client() -> None:
    script = "import sys, rmbatch.chat.spec as spec; spec.ChatSpec; print({'openai', 'aiohttp'} & {*sys.modules})"
    run = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert run.stdout == "set()\n"
