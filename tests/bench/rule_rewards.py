"""Responses a second of each rule's ``rm.score(table)`` in one process, beside another way to the same scores.

    python -m tests.bench.rule_rewards                      # all rules, beside the obvious Python of their formulas
    python -m tests.bench.rule_rewards rouge f1_score       # some
    python -m tests.bench.rule_rewards --rm-gallery FOLDER  # beside RM-Gallery's evaluate_batch, where it has the rule

Responses are words with some numbers, tags and Markdown, of 1,000 characters; eight responses share a reference. The
other way takes one row at a time, and is timed on the first rows only where it is slow. RM-Gallery is given ready
samples, and its "simple" tokenizer, which is ours; what it imports (loguru, tabulate, …) has to be installed. "equal"
says on how many of the rows that both saw the scores are equal. Processor time of one process, and polars gets one
thread, so that a busy machine does not count and a number is one core's.
"""

import os

os.environ.setdefault("POLARS_MAX_THREADS", "1")

import argparse
import difflib
import importlib
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable
from statistics import geometric_mean
from typing import Any

import pyarrow as pa

from rmbatch.rewards.function import Reward
from tests.rmbatch.rewards.every import made

pa.set_cpu_count(1)

COMMON = (
    "the of and a to in is you that it he was for on are as with his they at be this have from or one had by word "
    "but not what all were we when your can said there use an each which she do how their if will up other about "
    "out many then them these so some her would make like him into time has look two more write go see number no "
    "way could people my than first water been call who oil its now find long down day did get come made may part "
    "over new sound take only little work know place year live me back give most very after thing our just name "
    "good sentence man think say"
)
WORDS = COMMON.split()
NUM_RESPONSES, PER_REFERENCE, CHARACTERS = 24_000, 8, 1_000

Row = dict[str, Any]
Plain = Callable[[Row], float | None]


def text(draw: random.Random, characters: int) -> str:
    """Words, a number or punctuation now and then, a line break every few dozen."""
    made_words: list[str] = []
    size = 0
    while size < characters:
        word = draw.choice(WORDS)
        chance = draw.random()
        if chance < 0.02:
            word = str(draw.randint(1, 999))
        elif chance < 0.08:
            word += draw.choice([".", ",", ".\n", ".\n\n- "])
        made_words.append(word)
        size += len(word) + 1
    return " ".join(made_words)[:characters]


def tables() -> dict[str, pa.Table]:
    """The response of each form that rules read."""
    draw = random.Random(0)
    words = [text(draw, CHARACTERS) for _ in range(NUM_RESPONSES)]
    golds = [text(draw, 200) for _ in range(NUM_RESPONSES // PER_REFERENCE)]
    long_golds = [text(draw, CHARACTERS) for _ in range(NUM_RESPONSES // PER_REFERENCE)]

    def table(responses: list[str], references: list[str]) -> pa.Table:
        shared = [references[place // PER_REFERENCE % len(references)] for place in range(len(responses))]
        return pa.table({"response": responses, "reference": shared})

    tagged = [f"<think>{one[:900]}</think><answer>{one[900:]}</answer>" for one in words]
    calls = [
        f'{{"name": "find", "arguments": {{"what": "water", "n": {place % 5}}}}}' for place in range(NUM_RESPONSES)
    ]
    called = [f"<think>{one[:850]}</think><tool_call>{call}</tool_call>" for one, call in zip(words, calls)]
    code = [f"```python\n{source(draw)}\n```" for _ in range(NUM_RESPONSES)]
    answers = [f"{one[:950]} so the answer is ({draw.choice('ABCD')})." for one in words]
    boxed = [f"{one[:950]} so \\boxed{{{draw.randint(1, 9)}}}" for one in words]
    flat = [one[:900].replace("\n", " ") for one in words]
    objects = [f'{{"a": {place % 7}, "b": "{one}"}}' for place, one in enumerate(flat)]
    schema_text = '{"type": "object", "properties": {"a": {"maximum": 4}}, "required": ["a"]}'
    tokens = {"response_tokens": [draw.randint(1, 40_000) for _ in words]}
    return {
        "words": table(words, golds),
        "long": table(words, long_golds),
        "numbers": table(words, [str(draw.randint(1, 999)) for _ in range(100)]),
        "tagged": table(tagged, golds),
        "calls": table(called, calls[:5]),
        "code": table(code, [source(draw) for _ in range(100)]),
        "choices": table(answers, list("ABCD")),
        "boxed": table(boxed, [str(number) for number in range(1, 10)]),
        "json": table(objects, ['{"a": 3, "b": "x"}']),
        "schema": table(objects, [schema_text]),
        "tokens": pa.table(tokens),
    }


def source(draw: random.Random) -> str:
    """A thousand characters of Python."""
    lines = ["def find(words):"]
    while sum(map(len, lines)) < 900:
        lines.append(f"    {draw.choice(WORDS)}_{draw.randint(1, 99)} = {draw.randint(1, 999)} + len(words)")
    return "\n".join(lines)


def accuracy(row: Row) -> float:
    return 1.0 if row["response"].strip() == row["reference"].strip() else 0.0


def f1_score(row: Row) -> float:
    mine, theirs = (set(row[name].strip().lower().split()) for name in ("response", "reference"))
    common = len(mine & theirs)
    if not common:
        return float(not mine and not theirs)
    precision, recall = common / len(mine), common / len(theirs)
    return 2 * precision * recall / (precision + recall)


def longest(one: list[str], other: list[str]) -> int:
    above = [0] * (len(other) + 1)
    for word in one:
        here = [0]
        for place, right in enumerate(other):
            here.append(above[place] + 1 if word == right else max(above[place + 1], here[place]))
        above = here
    return above[-1]


def harmonic(common: int, num_mine: int, num_theirs: int) -> float:
    if not common:
        return 0.0
    precision, recall = common / num_mine, common / num_theirs
    return 2 * precision * recall / (precision + recall)


def rouge(row: Row) -> float:
    mine, theirs = (row[name].strip().lower().split() for name in ("response", "reference"))
    return harmonic(longest(mine, theirs), len(mine), len(theirs)) if mine or theirs else 1.0


def rouge_n(n: int) -> Plain:
    def score(row: Row) -> float:
        counts = []
        for name in ("response", "reference"):
            words = re.sub(r"[^a-z0-9]+", " ", row[name].lower()).split()
            counts.append(Counter(tuple(words[place : place + n]) for place in range(len(words) - n + 1)))
        common = sum((counts[0] & counts[1]).values())
        return harmonic(common, sum(counts[0].values()), sum(counts[1].values()))

    return score


def number_accuracy(row: Row) -> float:
    mine, theirs = ([float(one) for one in re.findall(r"-?\d+\.?\d*", row[name])] for name in ("response", "reference"))
    return sum(abs(one - other) <= 1e-6 for one, other in zip(mine, theirs)) / len(theirs)


def length_penalty(row: Row) -> float:
    length = len(row["response"])
    return -(10 - length) * 0.01 if length < 10 else -(length - 1000) * 0.01 if length > 1000 else 0.0


def reasoning_format(row: Row) -> float:
    tags = (rf"<{tag}>.*?</{tag}>" for tag in ("think", "answer"))
    return float(all(re.search(tag, row["response"], re.DOTALL) for tag in tags))


def ngrams(row: Row) -> float:
    words = row["response"].strip().lower().split()
    every = [tuple(words[place : place + 3]) for place in range(len(words) - 2)]
    rate = 1 - len(set(every)) / len(every)
    return -(rate - 0.3) if rate > 0.3 else 0.0


LEAKS = (
    r"\b[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Z|a-z]{2,}\b",
    r"\b(?:\+?1[-.\s]?)?\(?[0-9]{3}\)?[-.\s]?[0-9]{3}[-.\s]?[0-9]{4}\b",
    r"\b[1-9]\d{5}(18|19|20)\d{2}(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])\d{3}[0-9Xx]\b",
    r"\b(?:\d{4}[-\s]?){3}\d{4}\b",
    r"\b(?:[0-9]{1,3}\.){3}[0-9]{1,3}\b",
)


def privacy_leakage(row: Row) -> float:
    found = [match for leak in LEAKS for match in re.findall(leak, row["response"])]
    return len(found) * -0.5


def blocks(row: Row) -> list[str]:
    return re.findall(r"```(?:python)?\n(.*?)\n```", row["response"], re.DOTALL)


def code_syntax_check(row: Row) -> float:
    import ast

    valid = 0
    for block in blocks(row):
        try:
            ast.parse(block.strip())
            valid += 1
        except SyntaxError:
            pass
    return valid / len(blocks(row)) - 0.5 * (valid < len(blocks(row)))


def code_style(row: Row) -> float:
    total = 0.0
    for block in blocks(row):
        kinds = {line[0] for line in block.split("\n") if line.strip() and line[0] in " \t"}
        names = re.findall(r"def\s+([a-zA-Z_][a-zA-Z0-9_]*)\s*\(", block)
        names += re.findall(r"([a-zA-Z_][a-zA-Z0-9_]*)\s*=", block)
        good = sum(bool(re.match(r"^[a-z_][a-z0-9_]*$", name)) for name in names)
        total += 0.5 * (len(kinds) < 2) + 0.5 * (good / len(names) if names else 1.0)
    return total / len(blocks(row))


def patch(row: Row) -> float:
    return difflib.SequenceMatcher(None, row["response"].strip(), row["reference"].strip()).ratio()


def tool_form(row: Row) -> float:
    import json

    form = r"^\s*<think>.*?</think>\s*(?:<tool_call>.*?</tool_call>\s*)+$"
    if not re.match(form, row["response"], re.DOTALL):
        return 0.0
    bodies = re.findall(r"<tool_call>(.*?)</tool_call>", row["response"], re.DOTALL)
    return float(all({"name", "arguments"} <= set(json.loads(body)) for body in bodies))


def tool_match(row: Row) -> float:
    import json

    made_calls = [json.loads(body) for body in re.findall(r"<tool_call>(.*?)</tool_call>", row["response"], re.DOTALL)]
    return float(made_calls == [json.loads(row["reference"])])


def bleu(row: Row) -> float:
    import sacrebleu

    return sacrebleu.sentence_bleu(row["response"], [row["reference"]]).score / 100


def chrf(row: Row) -> float:
    import sacrebleu

    return sacrebleu.sentence_chrf(row["response"], [row["reference"]]).score / 100


def fuzzy(method: str) -> Plain:
    def score(row: Row) -> float:
        from rapidfuzz import fuzz

        return float(getattr(fuzz, method)(row["response"], row["reference"])) / 100

    return score


def edit(row: Row) -> float:
    from rapidfuzz.distance import Levenshtein

    return Levenshtein.normalized_similarity(row["response"], row["reference"])


def json_match(row: Row) -> float:
    import json

    return float(json.loads(row["response"]) == json.loads(row["reference"]))


def json_valid(row: Row) -> float:
    import json

    json.loads(row["response"])
    return 1.0


def schema(row: Row) -> float:
    import json

    import jsonschema

    validator = jsonschema.Draft202012Validator(json.loads(row["reference"]))
    return float(validator.is_valid(json.loads(row["response"])))


def choice(row: Row) -> float:
    return float(re.findall(r"(?i:answer is)\s*\(?([A-J])\b", row["response"])[-1] == row["reference"])


def boxed_math(row: Row) -> float:
    from math_verify import parse, verify

    return float(verify(parse(row["reference"]), parse(row["response"])))


def language(row: Row) -> float:
    import py3langid

    return float(py3langid.classify(row["response"])[0] == "en")


def overlong(row: Row) -> float:
    return -min(max(row["response_tokens"] - (20_480 - 4_096), 0), 4_096) / 4_096


def items(row: Row) -> float:
    lines = [line for line in row["response"].split("\n") if line.strip()]
    return sum(bool(re.match(r"[ \t]*(?:[-*+•]|\d{1,3}[.)])[ \t]+\S", line)) for line in lines) / len(lines)


RULES: dict[str, tuple[str, Plain]] = {
    "accuracy": ("words", accuracy),
    "length_penalty": ("words", length_penalty),
    "reasoning_format": ("tagged", reasoning_format),
    "privacy_leakage": ("words", privacy_leakage),
    "number_accuracy": ("numbers", number_accuracy),
    "f1_score": ("words", f1_score),
    "rouge": ("words", rouge),
    "rouge (1 KB reference)": ("long", rouge),
    "rouge1": ("words", rouge_n(1)),
    "rouge2": ("words", rouge_n(2)),
    "ngram_repetition_penalty": ("words", ngrams),
    "reasoning_tool_call_format": ("calls", tool_form),
    "tool_call_match": ("calls", tool_match),
    "code_syntax_check": ("code", code_syntax_check),
    "code_style": ("code", code_style),
    "code_patch_similarity": ("code", patch),
    "bleu": ("words", bleu),
    "chrf": ("words", chrf),
    "fuzzy_ratio": ("words", fuzzy("ratio")),
    "token_set_ratio": ("words", fuzzy("token_set_ratio")),
    "edit_similarity": ("words", edit),
    "contains": ("choices", lambda row: float(row["reference"] in row["response"])),
    "starts_with": ("words", lambda row: float(row["response"].strip().startswith(row["reference"].strip()))),
    "regex_match": ("choices", lambda row: float(bool(re.search(row["reference"], row["response"])))),
    "pattern_match": ("words", lambda row: float(bool(re.search("(a+)+$", row["response"])))),
    "multiple_choice": ("choices", choice),
    "json_valid": ("json", json_valid),
    "json_match": ("json", json_match),
    "json_schema_match": ("schema", schema),
    "list_density": ("words", items),
    "soft_overlong": ("tokens", overlong),
    "language_match": ("words", language),
    "math_verify_reward": ("boxed", boxed_math),
}
SLOW = ("bleu", "chrf", "math_verify_reward", "language_match", "code_patch_similarity")
IN_RM_GALLERY = {
    "general": ("accuracy", "f1_score", "rouge", "number_accuracy"),
    "format.format": (
        "length_penalty",
        "reasoning_format",
        "reasoning_tool_call_format",
        "ngram_repetition_penalty",
        "privacy_leakage",
    ),
    "code.code": ("code_syntax_check", "code_style", "code_patch_similarity"),
    "math.math": ("math_verify_reward",),
}
"""By the module of ``rm_gallery.gallery.rm`` that registers them."""
SECONDS = 2.0
Scored = tuple[float, list[float | None]]
"""Responses a second of processor time, and the scores of the first of them."""


def rate(rm: Reward, table: pa.Table) -> Scored:
    """The fastest of three runs; loading is paid before."""
    rm.score(table.slice(0, 50))
    best, scores = 0.0, pa.array([])
    for _ in range(3):
        started = time.process_time()
        scores = rm.score(table)[f"score.{rm.name}"]
        taken = time.process_time() - started
        best = max(best, table.num_rows / taken)
        if taken > 3:
            break
    return best, scores.to_pylist()


def plain_rate(plain: Plain, rows: list[Row]) -> Scored:
    """The same of the obvious Python, for some seconds."""
    plain(rows[0])
    scores = []
    started = time.process_time()
    for row in rows:
        scores.append(plain(row))
        if time.process_time() - started > SECONDS:
            break
    return len(scores) / (time.process_time() - started), scores


def rm_gallery_rate(name: str, rows: list[Row]) -> Scored:
    """The same of RM-Gallery's ``evaluate_batch``, on batches of growing size until one takes a second."""
    from rm_gallery.core.data.schema import DataOutput, DataSample, Step  # type: ignore[import-not-found]
    from rm_gallery.core.reward.registry import RewardRegistry  # type: ignore[import-not-found]

    def sample(row: Row) -> Any:
        answer = Step(role="assistant", content=row["response"], label={"reference": row["reference"]})
        return DataSample(unique_id="", input=[], output=[DataOutput(answer=answer)])

    knobs = {"tokenizer_type": "simple"} if name in ("f1_score", "ngram_repetition_penalty") else {}
    reward = RewardRegistry.get(name)(**knobs)
    scores: list[float | None] = []
    size = 25
    while True:
        samples = list(map(sample, rows[len(scores) : len(scores) + size]))  # rows that no cache of it knows
        started = time.process_time()
        scored = reward.evaluate_batch(samples)
        taken = time.process_time() - started
        scores += [each.output[0].answer.reward.score for each in scored]
        if taken > SECONDS / 2 or len(scores) + size > len(rows):
            return len(samples) / taken, scores
        size *= 3


def same(ours: float | None, theirs: float | None) -> bool:
    """Equal to 1e-12; no score equals no score, and never 0."""
    if ours is None or theirs is None:
        return ours is theirs
    return abs(ours - theirs) <= 1e-12


def load_rm_gallery(checkout: str) -> list[str]:
    """The names of the rules that it shares with us."""
    sys.path.insert(0, checkout)
    for module in IN_RM_GALLERY:
        importlib.import_module(f"rm_gallery.gallery.rm.{module}")
    return [name for names in IN_RM_GALLERY.values() for name in names]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("rules", nargs="*")
    parser.add_argument("--rm-gallery", metavar="FOLDER", help="folder that holds the package rm_gallery")
    asked = parser.parse_args()
    known = load_rm_gallery(asked.rm_gallery) if asked.rm_gallery else [title.split(" ")[0] for title in RULES]
    if unknown := set(asked.rules) - set(known):
        raise SystemExit(f"no such rule: {', '.join(sorted(unknown))}; there are {', '.join(sorted(known))}")
    of_form = tables()
    ratios = []
    other = "RM-Gallery" if asked.rm_gallery else "obvious Python"
    print(f"{'rule':28}{'responses/s':>14}{other:>16}{'ratio':>8}   equal")
    for title, (form, plain) in RULES.items():
        name = title.split(" ")[0]
        if name not in (asked.rules or known) or (asked.rm_gallery and title != name):
            continue
        table = of_form[form] if name not in SLOW else of_form[form].slice(0, 3_000)
        rows = table.to_pylist()
        theirs, expected = rm_gallery_rate(name, rows) if asked.rm_gallery else plain_rate(plain, rows)
        ours, scores = rate(made(name), table)
        num_equal = sum(map(same, scores, expected))
        if num_equal == len(expected):  # else they do not do the same work
            ratios.append(ours / theirs)
        print(
            f"{title:28}{ours:>14,.0f}{theirs:>16,.0f}{ours / theirs:>8.1f}   {num_equal} of {len(expected)}",
            flush=True,
        )
    print(f"{'geometric mean of the equal':58}{geometric_mean(ratios):>8.1f}")


if __name__ == "__main__":
    main()
