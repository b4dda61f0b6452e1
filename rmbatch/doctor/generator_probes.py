"""What a source of candidates answers about a few rows, before it is paid for all of them: does it end, is it whole?

    generator_findings(RequestWriter(source), flatten(first_rows, roles))

A few requests are sent, and paid for. They are those that the job sends, so their answers are kept for it.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from connectors.errors import JobError
from rmbatch.doctor.findings import Finding
from rmbatch.generation.candidates import CUT_OFF, Candidate
from rmbatch.generation.requests import RequestWriter
from rmbatch.generation.sampling import ask_models, sample
from rmbatch.generation.spec import GenerateSpec
from rmbatch.rows.roles import FlatView

CANDIDATES = 4
"""Candidates of each row that are looked at."""
MOST_CUT_OFF = 0.2
"""Of candidates; with more, much of the price buys nothing that selection may keep."""
MOST_REPEATING = 0.1
"""Of texts that end in a loop."""
MOST_EQUAL = 0.5
"""Of the candidates after a prompt's first, those that are the same as an earlier one."""
_MARKS = re.compile(
    r"<\|(?:im_start|im_end|endoftext|eot_id|start_header_id|end_of_text|end|user|assistant|system)\|>"
    r"|</?s>|\[/?INST\]|<(?:start|end)_of_turn>|<｜[^｜>]{1,40}｜>"
)
"""Signs of chat templates, which no answer should hold."""
_NEXT_TURN = re.compile(r"(?:^|\n)\s*(?:###\s*)?(?:Human|User|Instruction|Question|Q)\s*:", re.IGNORECASE)
_LOOP = re.compile(r"(.{4,200}?)\1{4,}\s*\S{0,200}$", re.DOTALL)
_LOOKED_AT = 2000
"""Characters at the end of a text in which loops are looked for."""


def generator_findings(writer: RequestWriter, view: FlatView) -> list[Finding]:
    """What is found; failures are what would make the job's candidates useless."""
    source = writer.source
    if source.serve is not None:
        return [Finding("warning", "server", f"only the job itself serves {source.serve.model}; not asked")]
    spec = GenerateSpec(sources=(source.model_copy(update={"n": min(source.n, CANDIDATES), "retry_repeats": 0}),))
    try:
        rows = sample(spec, [writer], [writer.read(view)], ask_models([writer]))
    except JobError as error:
        return [Finding("failure", "server", str(error))]
    return [Finding("ok", "server", f"answers at {source.service_name}"), *_look_over(rows, source.max_tokens)]


def _look_over(rows: Sequence[Sequence[Candidate]], max_tokens: int | None) -> Iterator[Finding]:
    candidates = [candidate for row in rows for candidate in row]
    texts = [candidate.text for candidate in candidates if candidate.text is not None]
    yield _count_texts(candidates, len(texts))
    if not texts:
        return
    yield _check_length(candidates, max_tokens)
    yield _check_share(
        "chat_template",
        [text for text in texts if _MARKS.search(text) or _NEXT_TURN.search(text)],
        len(texts),
        0.0,
        "hold signs of a chat template or go on with the user's turn",
        "the chat template or the stop tokens do not fit the model; set stop: [...], or serve it with its template",
    )
    yield _check_share(
        "loops",
        [text for text in texts if _LOOP.search(text[-_LOOKED_AT:])],
        len(texts),
        MOST_REPEATING,
        "end in a loop",
        "set a higher temperature, a repetition_penalty in extra_body, or another model",
    )
    if all(len(row) > 1 for row in rows):
        repeats = [text for row in rows for text in _find_repeats([each.text for each in row])]
        cure = "a higher temperature, a longer answer or retry_repeats make them differ"
        others = sum(len(row) - 1 for row in rows)
        yield _check_share("repeats", repeats, others, MOST_EQUAL, "repeat another one of their prompt", cure)


def _count_texts(candidates: Sequence[Candidate], num_texts: int) -> Finding:
    codes = Counter(str(each.error) for each in candidates if each.text is None and each.tool_calls is None)
    if not codes:
        return Finding("ok", "texts", f"{num_texts} of {len(candidates)} candidates have a text")
    worst, _ = codes.most_common(1)[0]
    told = f"{codes.total()} of {len(candidates)} have no text, mostly {worst[:300]}"
    return Finding("warning" if num_texts else "failure", "texts", told)


def _check_length(candidates: Sequence[Candidate], max_tokens: int | None) -> Finding:
    num_cut = sum((each.error or "").startswith(f"{CUT_OFF}:") for each in candidates)
    lengths = sorted(each.tokens for each in candidates if each.tokens is not None)
    told = f"{num_cut} of {len(candidates)} are cut off"
    if lengths:
        told += f"; tokens: median {lengths[len(lengths) // 2]:,}, longest {lengths[-1]:,}"
    if num_cut > MOST_CUT_OFF * len(candidates):
        return Finding("warning", "cut_off", f"{told}; selection leaves them out: raise max_tokens")
    if max_tokens is None:
        return Finding("warning", "cut_off", f"{told}; max_tokens is not set, so the server decides where answers end")
    return Finding("ok", "cut_off", told)


def _check_share(check: str, found: Sequence[str], total: int, most: float, what: str, cure: str) -> Finding:
    told = f"{len(found)} of {total} texts {what}"
    if len(found) > most * total:
        return Finding("warning", check, f"{told}, such as …{found[0][-80:]!r}; {cure}")
    return Finding("ok", check, told)


def _find_repeats(texts: Sequence[str | None]) -> list[str]:
    """The texts that stand earlier in the list too."""
    return [text for place, text in enumerate(texts) if text is not None and text in texts[:place]]
