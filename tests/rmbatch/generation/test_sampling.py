"""Which candidates are asked for, when, and what becomes of each answer: the kernel, without a server."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmbatch.chat.client import ChatRequest
from rmbatch.chat.completion import Completion
from rmbatch.costs.prices import Usage
from rmbatch.endpoints.balancer import Failure
from rmbatch.generation.candidates import Candidate
from rmbatch.generation.requests import Prompt, RequestWriter
from rmbatch.generation.sampling import sample
from rmbatch.generation.spec import GenerateSpec
from rmbatch.rows.roles import flatten, guess_roles

MODEL = {"endpoint": "http://host:8000", "model": "m"}


class Model:
    """Answers by the seed, and remembers what it was asked."""

    def __init__(self, num_answers: int = 1 << 31) -> None:
        self.asked: list[tuple[int, ChatRequest]] = []
        self.waves: list[int] = []
        self._num_answers = num_answers

    def __call__(self, source: int, requests: Sequence[ChatRequest]) -> list[Completion]:
        self.asked += [(source, request) for request in requests]
        self.waves.append(len(requests))
        return [self.answer(request) for request in requests]

    def answer(self, request: ChatRequest) -> Completion:
        assert request.seed is not None
        return said(str(request.seed % self._num_answers))


def said(text: str | None, reason: str = "stop", reasoning: str = "") -> Completion:
    return Completion((text,), (reasoning,), (text,), (reason,), (None,), ((),), Usage(5, 2))


def generate(spec: Any, prompts: Sequence[Any], ask: Any, passes: Any = None) -> list[list[Candidate]]:
    parsed = GenerateSpec.model_validate(spec)
    table = pa.table({"prompt": prompts})
    view = flatten(table, guess_roles(table.schema))
    writers = [RequestWriter(source) for source in parsed.sources]
    return sample(parsed, writers, [writer.read(view) for writer in writers], ask, passes)


def test_candidates_have_own_seeds_and_stand_side_by_side() -> None:
    model = Model()
    found = generate({**MODEL, "n": 3}, ["a", "b"], model)
    seeds = [candidate.seed for row in found for candidate in row]
    assert len(set(seeds)) == 6
    assert [request.messages[0]["content"] for _, request in model.asked] == ["a", "a", "a", "b", "b", "b"]
    assert all(request.n == 1 for _, request in model.asked)


def test_seeds_depend_on_the_conversation_not_its_place() -> None:
    alone = generate({**MODEL, "n": 2}, ["b"], Model())
    among = generate({**MODEL, "n": 4}, ["a", "b", "c"], Model())
    assert alone[0] == among[1][:2]
    assert generate({**MODEL, "n": 2, "seed": 1}, ["b"], Model())[0] != alone[0]


def test_a_column_goes_into_the_seeds() -> None:
    spec = GenerateSpec.model_validate({**MODEL, "seed_by": "id"})
    table = pa.table({"prompt": ["a", "a"], "id": [1, 2]})
    writer = RequestWriter(spec.sources[0])
    first, second = writer.read(flatten(table, guess_roles(table.schema)))
    assert writer.seed(first, 0) != writer.seed(second, 0)


def test_sources_fill_their_candidates_one_after_the_other() -> None:
    model = Model()
    spec = [{**MODEL, "n": 2}, {**MODEL, "model": "other", "n": 1}]
    found = generate(spec, ["a"], model)
    assert [candidate.model for candidate in found[0]] == ["m", "m", "other"]
    assert Counter(source for source, _ in model.asked) == {0: 2, 1: 1}


def test_a_repeat_is_asked_for_anew_up_to_the_limit() -> None:
    few = Model(num_answers=2)
    found = generate({**MODEL, "n": 4, "retry_repeats": 3}, ["a"], few)
    assert len(found[0]) == 4  # only two different answers there are: the last ones stand
    assert 4 < len(few.asked) <= 4 + 3 * 3
    many = Model(num_answers=1000)
    texts = [candidate.text for candidate in generate({**MODEL, "n": 20, "retry_repeats": 9}, ["a"], many)[0]]
    assert len(set(texts)) == 20


@pytest.mark.parametrize(
    ("completion", "text", "error"),
    [
        (said("4"), "4", None),
        (said("4 because", "length"), "4 because", "cut_off: the answer ended at max_tokens: 9"),
        (said("", "length", "hm"), None, "cut_off: the thinking ended at max_tokens: 9"),
        (said(""), None, "empty_response: the model said nothing"),
        (said(" \n"), None, "empty_response: the model said nothing"),
        (Completion(failure=Failure("refused_by_filter", "no")), None, "refused_by_filter: no"),
    ],
)
def test_a_text_is_never_empty_and_a_null_has_a_code(completion: Completion, text: Any, error: Any) -> None:
    ((candidate,),) = generate({**MODEL, "max_tokens": 9}, ["a"], lambda source, requests: [completion])
    assert (candidate.text, candidate.error) == (text, error)


def test_tool_calls_are_kept_and_are_no_empty_answer() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    completion = Completion(("",), ("",), ("",), ("tool_calls",), (None,), ((call,),), Usage(5, 2))
    ((candidate,),) = generate(MODEL, ["a"], lambda source, requests: [completion])
    assert candidate.text is None
    assert candidate.error is None
    assert candidate.tool_calls is not None
    assert '"name":"add"' in candidate.tool_calls


def test_thinking_is_kept_apart_or_dropped() -> None:
    completion = said("4", reasoning="2 and 2")
    for thinking, kept in (("keep", "2 and 2"), ("drop", None)):
        ((candidate,),) = generate({**MODEL, "thinking": thinking}, ["a"], lambda source, requests: [completion])
        assert (candidate.text, candidate.reasoning) == ("4", kept)


@given(
    num_rows=st.integers(1, 6),
    n=st.integers(1, 9),
    count=st.integers(1, 3),
    wave=st.none() | st.integers(1, 4),
    modulus=st.integers(1, 6),
)
def test_a_prompt_stops_once_enough_have_passed_and_never_before(
    num_rows: int, n: int, count: int, wave: int | None, modulus: int
) -> None:
    def passes(rows: Sequence[int], texts: Sequence[str | None]) -> list[bool]:
        return [int(text or 1) % modulus == 0 for text in texts]

    model = Model()
    spec = {**MODEL, "n": n, "stop_when": {"math": 1.0, "count": count, "wave": wave}}
    rows = generate(spec, [f"p{row}" for row in range(num_rows)], model, passes)
    whole = generate({**MODEL, "n": n}, [f"p{row}" for row in range(num_rows)], Model())
    for row, full in zip(rows, whole, strict=True):
        assert row == full[: len(row)]  # waves change which candidates are asked for, not what they are
        passed = [passes([0], [candidate.text])[0] for candidate in row]
        assert len(row) == n or sum(passed) >= count
        last_wave = wave or max(len(row) // 2, 1)
        assert sum(passed[: max(len(row) - max(last_wave, count), 0)]) < count
    assert len(model.asked) == sum(map(len, rows))


def test_unaskable_row_is_null_with_a_code_and_costs_nothing() -> None:
    model = Model()
    prompts = [
        [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}],
        None,
        [{"role": "user", "content": None}],
        [{"role": "user", "content": "hi"}],
    ]
    found = generate(MODEL, prompts, model)
    codes = [str(row[0].error).partition(":")[0] for row in found]
    assert codes == ["answered_prompt", "missing_prompt", "malformed_conversation", "None"]
    assert len(model.asked) == 1


def test_a_conversation_is_answered_anew_where_that_is_wanted() -> None:
    model = Model()
    talk = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    generate({**MODEL, "regenerate": True}, [talk], model)
    assert [message["role"] for message in model.asked[0][1].messages] == ["user"]


def test_system_and_template_write_the_messages() -> None:
    spec = GenerateSpec.model_validate({**MODEL, "system": "Be short.", "template": "{{ prompt }}! {{ hint }}"})
    writer = RequestWriter(spec.sources[0])
    table = pa.table({"prompt": ["2 + 2?"], "hint": ["It is even."]})
    (prompt,) = writer.read(flatten(table, guess_roles(table.schema)))
    assert list(prompt.messages) == [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "2 + 2?! It is even."},
    ]


def test_tools_come_from_the_settings_or_from_the_row() -> None:
    tool = {"type": "function", "function": {"name": "add"}}
    table = pa.table({"prompt": ["a", "b"], "functions": ['[{"type": "function", "function": {"name": "f"}}]', None]})
    view = flatten(table, guess_roles(table.schema))
    given = RequestWriter(GenerateSpec.model_validate({**MODEL, "tools": [tool]}).sources[0]).read(view)
    assert [prompt.tools for prompt in given] == [[tool], [tool]]
    own = RequestWriter(GenerateSpec.model_validate({**MODEL, "tools": "functions"}).sources[0]).read(view)
    assert [prompt.tools for prompt in own] == [[{"type": "function", "function": {"name": "f"}}], None]


def test_requests_are_the_same_bytes_whenever_they_are_written() -> None:
    writer = RequestWriter(GenerateSpec.model_validate({**MODEL, "n": 2}).sources[0])
    prompt = Prompt([{"role": "user", "content": "a"}], key=b"a")
    assert writer.write(prompt, 1) == writer.write(prompt, 1)
    assert writer.write(prompt, 1) != writer.write(prompt, 0) != writer.write(prompt, 0, attempt=1)
