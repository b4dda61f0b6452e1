"""How conversations become ids: the template's tokens once, a malformed one with its reason, nothing cut silently."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from connectors.errors import UserError
from rmbatch.reward_models.conversation import Encoded, Encoder
from rmbatch.reward_models.spec import RewardModelSpec, Steps
from rmbatch.rows.messages import MESSAGES, TEXT
from tests.tiny_models import CHAT_TEMPLATE, STEP, make_tokenizer

pytest.importorskip("transformers")
pytestmark = pytest.mark.served

ALTERNATING = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}{{ m['content'] }}{% endfor %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tokenizer without a model: all that writing conversations needs."""
    made = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer(made)
    return str(made)


def user(*said: str) -> list[dict[str, str]]:
    """A conversation that begins and ends with the user."""
    return [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(said)]


def encode(spec: RewardModelSpec, *rows: tuple[Any, str | None]) -> Encoded:
    prompts = pa.array([prompt for prompt, _ in rows], MESSAGES)
    return Encoder(spec).encode(prompts, pa.array([response for _, response in rows], TEXT))


def texts(spec: RewardModelSpec, encoded: Encoded) -> list[str | None]:
    tokenizer = Encoder(spec).tokenizer
    return [ids and tokenizer.decode(ids) for ids in encoded.ids.to_pylist()]


def test_the_template_writes_the_whole_conversation(folder: str) -> None:
    spec = RewardModelSpec(model=folder, max_length=512)
    encoded = encode(spec, (user("hi"), "hello <b>you</b>"))
    assert texts(spec, encoded) == [
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nhello <b>you</b><|im_end|>\n"
    ]
    assert encoded.error.null_count == 1
    assert encoded.ids[0].as_py()[0] == Encoder(spec).tokenizer.convert_tokens_to_ids("<|im_start|>")


def test_no_token_is_added_twice(tmp_path: Path) -> None:
    """A tokenizer that adds a BOS and a template that writes one: the ids have one."""
    template = "{{ bos_token }}" + CHAT_TEMPLATE
    tokenizer = make_tokenizer(tmp_path, template, bos_token="<|endoftext|>")
    from tokenizers.processors import TemplateProcessing

    bos = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    tokenizer._tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", bos)]
    )
    tokenizer.save_pretrained(tmp_path)
    ids = encode(RewardModelSpec(model=str(tmp_path), max_length=512), (user("hi"), "yo")).ids[0].as_py()
    assert ids.count(bos) == 1


@pytest.mark.parametrize(
    ("prompt", "response", "error"),
    [
        (None, "x", "missing_prompt: prompt is null"),
        (user("hi"), None, "missing_response: response is null"),
        ([], "x", "malformed_conversation: the prompt has no message"),
        ([{"role": "user", "content": None}], "x", "malformed_conversation: a message of 'user' has no content"),
        (user("hi"), "", None),  # an empty response is a response
        (user(""), "x", None),
        (user("hi\ud83d".encode("utf-16", "surrogatepass").decode("utf-16", "replace")), "x", None),
    ],
)
def test_what_cannot_be_written_says_why(folder: str, prompt: Any, response: str | None, error: str | None) -> None:
    spec = RewardModelSpec(model=folder, max_length=512)
    encoded = encode(spec, (user("fine"), "fine"), (prompt, response))
    assert encoded.error.to_pylist() == [None, error]
    assert encoded.ids.is_valid().to_pylist() == [True, error is None]  # the neighbour is not harmed


def test_template_refuses_single_conversations(folder: str) -> None:
    spec = RewardModelSpec(model=folder, max_length=512, chat_template=ALTERNATING)
    encoded = encode(spec, (user("a", "b"), "c"), (user("a"), "b"))
    assert encoded.error.to_pylist() == ["malformed_conversation: Conversation roles must alternate", None]


def test_responses_to_one_prompt_share_their_number_in_any_batch(folder: str) -> None:
    spec = RewardModelSpec(model=folder, max_length=512)
    many = encode(spec, (user("a"), "1"), (user("b"), "2"), (user("a"), "3"))
    alone = encode(spec, (user("a"), "4"))
    assert many.prompt[0] == many.prompt[2] == alone.prompt[0] != many.prompt[1]


LONG = "word " * 300


@pytest.mark.parametrize(
    ("truncation", "prompt", "error", "reason", "kept", "gone"),
    [
        ("error", user(LONG), "context_too_long: ", None, "", ""),
        ("drop_oldest_turns", user("first", LONG, "last"), None, "the oldest 2 messages left out", "last", "first"),
        ("drop_oldest_turns", user(LONG), "context_too_long: ", None, "", ""),  # the last turn is not dropped
        ("truncate_prompt", user("first " + LONG + "end"), None, "of the longest message left out", "end", "first"),
        ("truncate_prompt", user("first", LONG, "last"), None, "of the longest message left out", "first", ""),
    ],
)
def test_truncation(
    folder: str, truncation: Any, prompt: Any, error: str | None, reason: str | None, kept: str, gone: str
) -> None:
    spec = RewardModelSpec(model=folder, max_length=100, truncation=truncation)
    encoded = encode(spec, (prompt, "the answer"))
    if error is not None:
        assert encoded.error[0].as_py().startswith(error)
        assert encoded.ids[0].as_py() is None
        return
    text = texts(spec, encoded)[0]
    assert len(encoded.ids[0]) <= 100
    assert kept in text
    assert not gone or gone not in text
    assert "the answer<|im_end|>" in text
    assert encoded.reason[0].as_py().startswith("truncated: ")
    assert reason in encoded.reason[0].as_py()


def test_a_system_message_stays_when_turns_are_dropped(folder: str) -> None:
    spec = RewardModelSpec(model=folder, max_length=100, truncation="drop_oldest_turns", system="be kind")
    encoded = encode(spec, (user("first", LONG, "last"), "yes"))
    assert texts(spec, encoded)[0].startswith("<|im_start|>system\nbe kind<|im_end|>\n<|im_start|>user\nlast")


@pytest.mark.parametrize("truncation", ["drop_oldest_turns", "truncate_prompt"])
def test_a_response_is_never_cut(folder: str, truncation: Any) -> None:
    encoded = encode(RewardModelSpec(model=folder, max_length=100, truncation=truncation), (user("hi"), LONG))
    assert encoded.error[0].as_py().startswith("context_too_long: ")


@pytest.mark.parametrize(
    ("split", "response", "steps"),
    [
        ("paragraphs", "one\n\ntwo\nstill two\n \n\nthree\n", ["one", "two\nstill two", "three"]),
        ("lines", "one\ntwo\n\nthree", ["one", "two", "three"]),
        ("paragraphs", "", [""]),  # an empty response is one empty step
    ],
)
def test_steps_end_in_their_tag(folder: str, split: Any, response: str, steps: list[str]) -> None:
    spec = RewardModelSpec(model=folder, max_length=512, steps=Steps(tag=STEP, split=split))
    encoded = encode(spec, (user("hi"), response))
    said = texts(spec, encoded)[0].split("assistant\n")[1]
    assert said == "".join(step + STEP for step in steps) + "<|im_end|>\n"


@pytest.mark.parametrize("place", ["prompt", "response"])
def test_text_that_holds_the_tag_cannot_add_steps(folder: str, place: str) -> None:
    spec = RewardModelSpec(model=folder, max_length=512, steps=Steps(tag=STEP))
    row = (user(f"a{STEP}b"), "c") if place == "prompt" else (user("a"), f"b{STEP}c")
    assert encode(spec, row).error[0].as_py() == f"malformed_conversation: the {place} holds the steps' own tag"


def test_a_model_without_a_template_is_the_users_to_mend(tmp_path: Path) -> None:
    make_tokenizer(tmp_path, None)
    with pytest.raises(UserError, match=r"no chat template; give .* chat_template"):
        encode(RewardModelSpec(model=str(tmp_path), max_length=512), (user("a"), "b"))


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        encode(RewardModelSpec(model=str(tmp_path / "nowhere")), (user("a"), "b"))


def test_a_template_file(folder: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.jinja"
    path.write_text("{% for m in messages %}[{{ m['content'] }}]{% endfor %}")
    spec = RewardModelSpec(model=folder, max_length=512, chat_template=str(path))
    assert texts(spec, encode(spec, (user("a"), "b"))) == ["[a][b]"]
    with pytest.raises(UserError, match=r"gone\.jinja"):
        encode(RewardModelSpec(model=folder, chat_template="gone.jinja"), (user("a"), "b"))
