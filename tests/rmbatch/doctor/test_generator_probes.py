"""What the doctor says of a source of candidates, by what a server on loopback answers."""

from typing import Any

import pyarrow as pa
import pytest

from rmbatch.doctor.generator_probes import generator_findings
from rmbatch.endpoints.connections import close_all
from rmbatch.generation.requests import RequestWriter
from rmbatch.generation.spec import GeneratorSpec
from rmbatch.rows.roles import flatten, guess_roles
from tests.servers.hostile import HostileServer


def look_over(say: Any, **settings: Any) -> dict[str, str]:
    """The level of each check, where the server says this to a seed."""

    def answer(path: str, body: Any) -> Any:
        if body is None:
            return {"data": [{"id": "m"}]}
        text, reason = say(body["seed"])
        message = {"role": "assistant", "content": text}
        return {
            "choices": [{"index": 0, "message": message, "finish_reason": reason}],
            "usage": {"prompt_tokens": 5, "completion_tokens": 7},
        }

    table = pa.table({"prompt": [f"question {row}" for row in range(8)]})
    with HostileServer(answer, lambda path, body: path) as server:
        source = GeneratorSpec.model_validate(
            {"endpoint": server.url, "model": "m", "n": 2, "max_tokens": 50, **settings}
        )
        try:
            found = generator_findings(RequestWriter(source), flatten(table, guess_roles(table.schema)))
        finally:
            close_all()
    return {finding.check: finding.level for finding in found}


GOOD = {"server": "ok", "texts": "ok", "cut_off": "ok", "chat_template": "ok", "loops": "ok", "repeats": "ok"}


def test_a_good_source_is_all_well() -> None:
    assert look_over(lambda seed: (f"The answer is {seed}.", "stop")) == GOOD


@pytest.mark.parametrize(
    ("say", "check"),
    [
        (lambda seed: (f"so {seed} and then", "length"), "cut_off"),
        (lambda seed: (f"{seed}<|im_end|>\n<|im_start|>user", "stop"), "chat_template"),
        (lambda seed: (f"{seed}\n\nHuman: and 3?", "stop"), "chat_template"),
        (lambda seed: (f"{seed} " + "and so on " * 30, "stop"), "loops"),
        (lambda seed: ("4", "stop"), "repeats"),
    ],
)
def test_what_is_wrong_with_a_source_is_a_warning_of_its_own(say: Any, check: str) -> None:
    assert look_over(say) == {**GOOD, check: "warning"}


def test_a_source_that_says_nothing_fails() -> None:
    assert look_over(lambda seed: ("", "stop")) == {"server": "ok", "texts": "failure"}


def test_no_max_tokens_is_a_warning() -> None:
    assert look_over(lambda seed: (f"The answer is {seed}.", "stop"), max_tokens=None)["cut_off"] == "warning"
