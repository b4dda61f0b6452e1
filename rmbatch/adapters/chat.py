"""Conversations to learn from: chat messages, ShareGPT, Alpaca. The last answer is the response.

Sources: TRL and LLaMA-Factory, their pages of dataset formats; Stanford Alpaca (hf://datasets/tatsu-lab/alpaca).
"""

from typing import Any

import pyarrow as pa

from rmbatch.adapters.base import reads
from rmbatch.adapters.columns import read_text, read_values
from rmbatch.adapters.split import prompt_ids
from rmbatch.rows.messages import MESSAGES, TEXT, messages_of, text_of

Messages = list[dict[str, str | None]]

_SPEAKERS = {
    **{"human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant"},
    **{"bard": "assistant", "assistant": "assistant", "function_call": "assistant", "observation": "tool"},
}
"""Who speaks in ShareGPT's conversations; other names stay as they are."""


@reads("messages")
def chat(table: pa.Table) -> pa.Table:
    """Chat messages ({role, content}): the last message of the assistant is the response, all before it the prompt.

    A conversation that ends with somebody else has no response. Messages that are no list have no prompt.
    """
    return _answer_table([_read_messages(value) for value in read_values(table, "messages")])


@reads("conversations", optional=("system",))
def sharegpt(table: pa.Table) -> pa.Table:
    """ShareGPT's conversations ({from, value}); a column ``system`` becomes the first message. Else as ``chat``."""
    found: list[Messages | None] = []
    for value, system in zip(read_values(table, "conversations"), read_text(table, "system").to_pylist()):
        messages = _read_messages(value)
        if messages is not None and system and not (messages and messages[0]["role"] == "system"):
            messages = [{"role": "system", "content": system}, *messages]
        found.append(messages)
    return _answer_table(found)


@reads("instruction", "output", optional=("input", "system", "history"))
def alpaca(table: pa.Table) -> pa.Table:
    """Alpaca's instructions: the prompt is the instruction and, on a new line, the input; the output is the response.

    ``system`` and ``history`` (pairs of question and answer), which LLaMA-Factory adds, come before it.
    """
    columns = [read_text(table, name).to_pylist() for name in ("instruction", "input", "output", "system")]
    found: list[Messages | None] = []
    for instruction, given, output, system, history in zip(*columns, read_values(table, "history")):
        if instruction is None:
            found.append(None)
            continue
        messages: Messages = [{"role": "system", "content": system}] if system else []
        for turn in history if isinstance(history, list) else []:
            if isinstance(turn, list) and len(turn) == 2:
                messages += [{"role": who, "content": text_of(said)} for who, said in zip(("user", "assistant"), turn)]
        asked = "\n".join(each for each in (instruction, given) if each)
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": output}]
        found.append(messages)
    return _answer_table(found)


def _read_messages(value: Any) -> Messages | None:
    if not isinstance(value, list) or not value or not all(isinstance(each, dict) for each in value):
        return None
    messages = messages_of(value) or []
    return [{**each, "role": _SPEAKERS.get(str(each["role"]), each["role"])} for each in messages]


def _answer_table(conversations: list[Messages | None]) -> pa.Table:
    prompts, responses = [], []
    for messages in conversations:
        is_answered = messages is not None and messages[-1]["role"] == "assistant"
        prompts.append(messages[:-1] or None if messages is not None and is_answered else messages)
        responses.append(messages[-1]["content"] if messages is not None and is_answered else None)
    table = pa.array(prompts, MESSAGES)
    return pa.table({"prompt": table, "prompt_id": prompt_ids(table), "response": pa.array(responses, TEXT)})
