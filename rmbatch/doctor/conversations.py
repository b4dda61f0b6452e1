"""Checks how a model's template writes conversations: a plain one, and those of the rows.

found, ids = check_template(model)        # findings, and the ids of a question and an answer
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Literal

import numpy as np
import pyarrow as pa

from connectors.errors import UserError
from rmbatch.doctor.findings import Finding
from rmbatch.doctor.model_files import NO_LIMIT, ModelFiles, max_positions
from rmbatch.reward_models.conversation import Encoded, Encoder
from rmbatch.rows.messages import MESSAGES, TEXT
from rmbatch.rows.roles import FlatView

_PROMPT, _ANSWER = "What is one and one?", "It is two"
_SHOWN_CHARACTERS = 60
_OTHER_TEMPLATE = "give the one that it was trained with as chat_template: FILE.jinja"
SAMPLE_CONVERSATIONS = 512
"""Conversations of the rows that are encoded and measured, from the first on."""
TOO_MANY = 0.5
"""Share of conversations without a score from which on the settings are at fault, not the rows."""


def check_template(model: ModelFiles) -> tuple[list[Finding], list[int] | None]:
    """The findings on template, BOS and end of turn of a plain conversation; and its ids, None where it has none."""
    found = [] if model.spec.steps is None else [_check_steps_tag(model, model.spec.steps.tag)]
    if any(each.level == "failure" for each in found):
        return found, None
    plain = Encoder(model.spec.model_copy(update={"max_length": NO_LIMIT}))
    plain.tokenizer = model.tokenizer  # it need not be loaded again
    prompt = [{"role": "user", "content": _PROMPT}]
    try:
        encoded = plain.encode(pa.array([prompt], MESSAGES), pa.array([_ANSWER], TEXT))
    except UserError as error:
        return [*found, Finding("failure", "chat_template", str(error))], None
    if encoded.ids[0].as_py() is None:
        message = f"it fails on a question and an answer ({encoded.error[0]}); {_OTHER_TEMPLATE}"
        return [*found, Finding("failure", "chat_template", message)], None
    ids: list[int] = encoded.ids[0].as_py()
    found.append(Finding("ok", "chat_template", f"it writes {_shorten(model.tokenizer.decode(ids))!r}"))
    return [*found, _check_bos(model, ids), _check_end_of_turn(model, ids)], ids


def _shorten(text: str) -> str:
    return text if len(text) <= 2 * _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]} ... {text[-_SHOWN_CHARACTERS:]}"


def _check_steps_tag(model: ModelFiles, tag: str) -> Finding:
    num = len(model.tokenizer(tag, add_special_tokens=False)["input_ids"])
    if num == 1:
        return Finding("ok", "steps_tag", f"{tag!r}, one token")
    cure = "set steps.tag to the one token that it was trained with"
    return Finding("failure", "steps_tag", f"{tag!r} is {num} tokens of this model; {cure}")


def _check_bos(model: ModelFiles, ids: list[int]) -> Finding:
    bos, bos_token = model.tokenizer.bos_token_id, model.tokenizer.bos_token
    if bos is None:
        return Finding("ok", "bos", "the tokenizer has none")
    if ids[:2] == [bos, bos]:
        cure = "give a chat_template without one of them"
        return Finding(
            "failure", "bos", f"conversations begin with {bos_token} twice, both by the chat template; {cure}"
        )
    if ids[0] == bos:
        return Finding("ok", "bos", f"{bos_token}, once")
    if model.tokenizer(_ANSWER, verbose=False)["input_ids"][0] == bos:
        message = f"the tokenizer begins a text with {bos_token}, and the chat template does not write it"
        cure = "if the model was trained with it, give a chat_template that begins with {{ bos_token }}"
        return Finding("warning", "bos", f"{message}; {cure}")
    return Finding("ok", "bos", f"none, and the tokenizer itself adds none ({bos_token})")


def _check_end_of_turn(model: ModelFiles, ids: list[int]) -> Finding:
    """The score is read at the end of the assistant's turn, so the template must end there."""
    text = model.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    start = text.lower().rfind(_ANSWER.lower())  # some tokenizers know only lower case
    if start < 0:
        message = f"the chat template leaves the assistant's text out ({_shorten(text)!r})"
        return Finding("failure", "end_of_turn", f"{message}, so all responses would score alike; {_OTHER_TEMPLATE}")
    if model.spec.steps is not None:
        return Finding("ok", "end_of_turn", f"scores are read at {model.spec.steps.tag!r} after each step")
    tail = text[start + len(_ANSWER) :]
    marks = _match_any(_special_tokens(model).values())
    ends, rest = marks.findall(tail), marks.sub("", tail).strip()
    read_at = f"the score is read at {model.tokenizer.decode(ids[-1:])!r}"
    if not ends:
        after = f"{rest!r} after" if rest else "no token that ends"
        message = f"the chat template writes {after} the assistant's turn; {read_at}"
        return Finding("warning", "end_of_turn", f"{message}; if the model was trained with one, {_OTHER_TEMPLATE}")
    if rest:
        message = f"the chat template goes on after the assistant's turn, with {_shorten(tail)!r}; {read_at}"
        return Finding("warning", "end_of_turn", f"{message}; {_OTHER_TEMPLATE}")
    own = model.tokenizer.eos_token
    differs = f" (the tokenizer's own end is {own})" if own is not None and own not in ends else ""
    return Finding("ok", "end_of_turn", f"{''.join(ends)}{differs}; {read_at}")


def _special_tokens(model: ModelFiles) -> dict[int, str]:
    """Added tokens that stand for no text; white space, which some tokenizers add too, counts as text."""
    added = {number: str(token) for number, token in model.tokenizer.added_tokens_decoder.items()}
    return {number: text for number, text in added.items() if text.strip()}


def _match_any(tokens: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) or r"(?!)")


def check_rows(model: ModelFiles, ids: list[int], view: FlatView) -> Iterator[Finding]:
    prompts, responses = (view.column(name).slice(0, SAMPLE_CONVERSATIONS) for name in ("prompt", "response"))
    if not len(responses):
        yield Finding("warning", "rows", "the sample holds no response")
        return
    encoded = model.reward.encoder.encode(prompts, responses)
    codes = Counter(str(error).split(":")[0] for error in encoded.error.drop_null())
    yield _check_lengths(model, encoded, codes)
    yield _check_malformed(encoded, codes)
    yield _check_marks_in_text(model, ids, prompts, responses)


def _check_lengths(model: ModelFiles, encoded: Encoded, codes: Counter[str]) -> Finding:
    lost, cut = codes["context_too_long"], len(encoded.reason.drop_null())
    limit, policy = model.reward.encoder.max_length, model.spec.truncation
    if not lost + cut:
        longest = np.asarray(encoded.ids.drop_null().value_lengths()).max(initial=0)
        return Finding("ok", "too_long", f"none is longer than {limit:,} tokens; the longest has {longest:,}")
    parts = [f"{_format_share(lost, encoded)} get no score"] * bool(lost) + [
        f"{_format_share(cut, encoded)} are cut"
    ] * bool(cut)
    example = _find_first(encoded.error, "context_too_long") or _find_first(encoded.reason, "truncated")
    cure = "raise max_length" if limit < (max_positions(model.config) or NO_LIMIT) else "leave long rows out"
    cure += ", or set truncation: drop_oldest_turns or truncate_prompt" if policy == "error" else ""
    message = f"{' and '.join(parts)} with truncation: {policy} (such as {example!r})"
    return Finding(_level(lost, len(encoded.ids)), "too_long", f"{message}; {cure}")


def _check_malformed(encoded: Encoded, codes: Counter[str]) -> Finding:
    others = {code: count for code, count in codes.items() if code != "context_too_long"}
    if not others:
        return Finding("ok", "malformed", f"none of {len(encoded.ids):,} conversations")
    message = f"{_format_share(sum(others.values()), encoded)} cannot be written and get no score"
    examples = ", ".join(f"{count} like {_find_first(encoded.error, code)!r}" for code, count in others.items())
    cure = "look at input.columns, or at chat_template where it is the template that refuses"
    return Finding(_level(sum(others.values()), len(encoded.ids)), "malformed", f"{message}: {examples}; {cure}")


def _level(count: int, of: int) -> Literal["warning", "failure"]:
    return "failure" if count >= TOO_MANY * of else "warning"


def _format_share(count: int, encoded: Encoded) -> str:
    return f"{count:,} of {len(encoded.ids):,} conversations ({count / len(encoded.ids):.1%})"


def _find_first(texts: pa.Array, code: str) -> str | None:
    return next((text for text in texts.to_pylist() if text is not None and text.startswith(code)), None)


def _check_marks_in_text(model: ModelFiles, ids: list[int], prompts: pa.Array, responses: pa.Array) -> Finding:
    """Special tokens in the rows' texts: the tokenizer takes them for real ones, so a text can end its own turn."""
    added = model.tokenizer.added_tokens_decoder
    marks = {text for number, text in _special_tokens(model).items() if added[number].special or number in ids}
    marks -= {model.spec.steps.tag} if model.spec.steps is not None else set()  # such rows are malformed already
    pattern = _match_any(marks)
    found: Counter[str] = Counter()
    num_rows = 0
    for prompt, response in zip(prompts.to_pylist(), responses.to_pylist(), strict=True):
        texts = [response or "", *(message["content"] or "" for message in prompt or ())]
        here = {mark for text in texts for mark in pattern.findall(text)}
        found.update(here)
        num_rows += bool(here)
    if not num_rows:
        return Finding("ok", "marks_in_text", f"none of {len(responses):,} texts holds a special token")
    listed = ", ".join(f"{mark} in {count}" for mark, count in found.most_common(5))
    message = f"{num_rows:,} of {len(responses):,} conversations ({num_rows / len(responses):.1%}) hold special tokens"
    why = "they are read as the real ones, so a text can close its own turn and speak for another"
    return Finding("warning", "marks_in_text", f"{message} as text ({listed}): {why}; leave such rows out")
