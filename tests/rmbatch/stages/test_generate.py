"""The stage that generates, without a job: what it adds to rows, and the same for a notebook."""

from typing import Any

import pyarrow as pa
import pytest

import rmbatch
from connectors.errors import UserError
from rmbatch.endpoints.connections import close_all
from rmbatch.generation.spec import GenerateSpec
from rmbatch.rows.roles import guess_roles
from rmbatch.stages.generate import GenerateStage
from tests.servers.hostile import HostileServer

CALL = {"id": "1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
TALK = [
    {"role": "user", "content": "2 + 2?", "tool_calls": None, "tool_call_id": None},
    {"role": "assistant", "content": "", "tool_calls": [CALL], "tool_call_id": None},
    {"role": "tool", "content": "4", "tool_calls": None, "tool_call_id": "1"},
]


def answer(path: str, body: Any) -> Any:
    if body is None:
        return {"data": [{"id": "m"}]}
    message = {"role": "assistant", "content": f"{body['seed']}"}
    return {
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 1},
    }


def test_a_notebook_asks_what_a_job_asks_tool_calls_included() -> None:
    with HostileServer(answer, lambda path, body: path) as server:
        by = {"endpoint": server.url, "model": "m"}
        rows = rmbatch.generate([TALK], by=by, n=2)
        table = pa.Table.from_pylist([{"prompt": TALK}])
        stage = GenerateStage(GenerateSpec.model_validate({**by, "n": 2}), guess_roles(table.schema))
        assert stage(table).to_pylist()[0]["responses"] == rows[0]["responses"]
        close_all()
        sent = [body["messages"] for _, body, _ in server.asked if body is not None]
    assert len({str(each) for each in sent}) == 1
    assert sent[0][1]["tool_calls"] == [CALL]
    assert sent[0][2] == {"role": "tool", "content": "4", "tool_call_id": "1"}


def test_no_prompts_no_candidates() -> None:
    assert rmbatch.generate([], by={"endpoint": "http://127.0.0.1:9", "model": "m"}) == []


@pytest.mark.parametrize(
    ("prompts", "settings", "words"),
    [
        ("one", {}, "prompts are a list or a table"),
        (7, {}, "a table is needed"),
        ([{"text": "hi"}], {}, "no column holds the prompt"),
        ([{"prompt": "hi", "responses": ["a"]}], {}, "has a column 'responses' already"),
        (["hi"], {"stop_when": {"math": 1.0}}, "stop_when needs rewards"),
        (["hi"], {"tempeature": 1.0}, "unknown setting; did you mean 'temperature'[^;]*$"),  # and no other mistake
    ],
)
def test_a_mistake_in_a_notebook_is_one_line(prompts: Any, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        rmbatch.generate(prompts, by={"endpoint": "http://127.0.0.1:9", "model": "m"}, **settings)
    assert "\n" not in str(caught.value)
