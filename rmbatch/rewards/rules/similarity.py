"""Rewards for the likeness of a response and its reference as text: shared sequences and n-grams, edits, sets of words.

``rouge`` is RM-Gallery's; ``rouge1`` to ``rouge5`` and ``rougeL`` count as the rouge-score package does; BLEU and chrF
are sacrebleu's, the fuzzy ratios RapidFuzz's. ``general.py`` compares whole texts, ``match.py`` looks for strings.
"""

import inspect
import re
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rmbatch.rewards.contract import Scores, reward
from rmbatch.rewards.rules.texts import (
    Memo,
    RowScore,
    both_valid,
    map_different_pairs,
    map_pairs,
    score_too_long,
    series,
    to_scores,
)
from rmbatch.rewards.rules.words import (
    Measure,
    Numbers,
    Splitter,
    count_shared,
    f_measure,
    letter_words,
    pair_words,
    score_in_chunks,
    white_space_words,
)
from rmbatch.rows.messages import TEXT
from rmbatch.settings.extras import require

Fuzzy = Literal["ratio", "partial_ratio", "token_sort_ratio", "token_set_ratio", "WRatio"]

MAX_PRODUCT = 20_000_000_000
"""Words times words, or characters times characters, that one comparison may take: a second of bit-parallel work."""
MAX_CHARACTERS = 100_000
"""Characters of a text whose n-grams are counted in Python."""
_WORDS = re.compile(r"\w+")


@reward("rouge", writes_reason=False)
def rouge(response: pa.Array, reference: pa.Array) -> Scores:
    """ROUGE-L: F1 of the longest sequence of words, not necessarily adjacent, that both texts hold in the same order.

    response[n] text, reference[n] text -> score[n] float64 in [0, 1]. Words are lower-cased and split at white space.
    Both without words: 1.0; one without: 0.0.
    Null response or reference: null. Null with a code: ``too_long``, over 2e10 words times words.
    Source: RM-Gallery, ``rouge``, https://github.com/modelscope/RM-Gallery.
    Deviation: a missing reference is null; RM-Gallery compares with "".
    """
    return _mask_scores(response, reference, *_score_rouge_l(response, reference, white_space_words, "f1"))


def _declare_rouge_n(n: int) -> Callable[..., Scores]:
    """The reward ``rouge<n>``."""

    def rouge_n(response: pa.Array, reference: pa.Array, *, measure: Measure = "f1") -> Scores:
        def score(text: pa.Array, gold: pa.Array) -> Numbers:
            ours, theirs = pair_words(text, gold, letter_words, n)
            common = count_shared(ours, theirs, repeats=True)[2]
            return f_measure(common, ours.num_words, theirs.num_words, measure)

        return _mask_scores(response, reference, score_in_chunks(score, response, reference), _find_wordless(reference))

    counted = "words" if n == 1 else f"runs of {n} adjacent words"
    note = f" OpenJudge's ``rouge{n}`` cuts words by jieba and drops stop words." if n > 2 else ""
    rouge_n.__name__ = rouge_n.__qualname__ = f"rouge{n}"
    rouge_n.__doc__ = f"""ROUGE-{n} as the rouge-score package counts it: {counted} that both texts hold.

    response[n] text, reference[n] text -> score[n] float64 in [0, 1]. Words are runs of the letters a to z and digits,
    lower-cased, without stemming; other scripts have none. A text of too few words scores 0.0;
    a repeated one counts as often as both texts hold it.
    Null response or reference: null. Null with a code: ``unparsable_reference``, it holds no such word (0.0 there).
    Source: Lin, "ROUGE", https://aclanthology.org/W04-1013; https://github.com/google-research/google-research
    (rouge).{note}
    """
    return reward(f"rouge{n}", writes_reason=False)(rouge_n)


rouge1, rouge2, rouge3, rouge4, rouge5 = map(_declare_rouge_n, range(1, 6))


@reward("word_overlap")
def word_overlap(response: pa.Array, reference: pa.Array, *, ignore_case: bool = True) -> Scores:
    """Share of the reference's different words that the response has.

    response[n] text, reference[n] text -> score[n] float64 in [0, 1]; words are runs of letters, digits and ``_`` of
    any script, and each counts once.
    Null response or reference: null. Null with a code: ``unparsable_reference``, it holds no word.
    Source: OpenJudge, ``word_overlap``, https://github.com/agentscope-ai/OpenJudge, which cuts words by jieba, drops
    Chinese stop words, and gives 0.0 where the reference has no word.
    """
    return _score_overlap(response, reference, ignore_case, lambda text: set(_WORDS.findall(text)), "word")


@reward("char_overlap")
def char_overlap(response: pa.Array, reference: pa.Array, *, ignore_case: bool = True) -> Scores:
    """Share of the reference's different characters that the response has.

    response[n] text, reference[n] text -> score[n] float64 in [0, 1]; characters are Unicode code points, white space
    among them, and each counts once.
    Null response or reference: null. Null with a code: ``unparsable_reference``, it is empty (0.0 in OpenJudge).
    Source: OpenJudge, ``char_overlap``, https://github.com/agentscope-ai/OpenJudge.
    """
    return _score_overlap(response, reference, ignore_case, set, "character")


@reward("rougeL", writes_reason=False)
def rouge_l(response: pa.Array, reference: pa.Array, *, measure: Measure = "f1") -> Scores:
    """ROUGE-L as the rouge-score package counts it: the longest common sequence of words.

    response[n] text, reference[n] text -> score[n] float64 in [0, 1]. Words as in ``rouge1``, where ``rouge`` splits at
    white space.
    Null response or reference: null. Null with a code: ``unparsable_reference``, it holds no such word (0.0 there);
    ``too_long``, over 2e10 words times words.
    Source: Lin, "ROUGE", https://aclanthology.org/W04-1013; https://github.com/google-research/google-research
    (rouge).
    """
    score, too_long_error = _score_rouge_l(response, reference, letter_words, measure)
    return _mask_scores(response, reference, score, pc.coalesce(_find_wordless(reference), too_long_error))


@reward("bleu")
class Bleu:
    """Sentence BLEU of the response against its reference, from sacrebleu, divided by 100.

    response[n] text, reference[n] text -> score[n] float64 in [0, 1]: n-grams up to four words, exponential smoothing,
    effective order for short texts, as sacrebleu's ``sentence_bleu``. ``tokenize="zh"`` for Chinese, ``"char"`` or
    ``"intl"`` for other scripts.
    Null response or reference: null. Null with a code: ``too_long``, over 100,000 characters. UserError where
    sacrebleu is not installed.
    Source: Post, "A Call for Clarity in Reporting BLEU Scores", https://aclanthology.org/W18-6319.
    """

    def __init__(self, *, tokenize: Literal["13a", "intl", "zh", "char", "none"] = "13a", lowercase: bool = False):
        bleu = _load_sacrebleu().BLEU
        self._metric = partial(bleu, tokenize=tokenize, lowercase=lowercase, effective_order=True)

    def __call__(self, response: pa.Array, reference: pa.Array) -> pa.Array:
        return _score_by_sacrebleu(response, reference, self._metric)


@reward("chrf")
class ChrF:
    """chrF of the response against its reference, from sacrebleu, divided by 100: F-score of character n-grams.

    response[n] text, reference[n] text -> score[n] float64 in [0, 1]: n-grams up to six characters, recall weighs twice
    (``beta``). ``word_order=2`` is chrF++.
    Null response or reference: null. Null with a code: ``too_long``, over 100,000 characters. UserError where
    sacrebleu is not installed.
    Source: Popović, "chrF: character n-gram F-score for automatic MT evaluation", https://aclanthology.org/W15-3049.
    """

    def __init__(self, *, word_order: Literal[0, 1, 2] = 0, beta: int = 2, lowercase: bool = False):
        chrf = _load_sacrebleu().CHRF
        self._metric = partial(chrf, word_order=word_order, beta=beta, lowercase=lowercase)

    def __call__(self, response: pa.Array, reference: pa.Array) -> pa.Array:
        return _score_by_sacrebleu(response, reference, self._metric)


@reward("fuzzy_ratio", writes_reason=False)
def fuzzy_ratio(response: pa.Array, reference: pa.Array, *, method: Fuzzy = "ratio", normalise: bool = False) -> Scores:
    """How alike two texts are by RapidFuzz: 1.0 equal, 0.0 with nothing in common.

    response[n] text, reference[n] text -> score[n] float64 in [0, 1], RapidFuzz's 0 to 100 divided by 100. ``ratio``
    counts insertions and deletions; ``partial_ratio`` takes the best stretch of the longer text; ``token_…`` compare
    words whatever their order. ``normalise`` lower-cases and reads all but letters and digits as spaces.
    Null response or reference: null. Null with a code: ``too_long``, over 2e10 characters times characters.
    Source: RapidFuzz, https://rapidfuzz.github.io/RapidFuzz.
    """
    from rapidfuzz import fuzz

    return _score_fuzzy(response, reference, getattr(fuzz, method), normalise, 100.0)


@reward("token_set_ratio", writes_reason=False)
def token_set_ratio(response: pa.Array, reference: pa.Array, *, normalise: bool = False) -> Scores:
    """How alike two texts are as sets of words, by RapidFuzz: 1.0 also where one holds all words of the other.

    response[n] text, reference[n] text -> score[n] float64 in [0, 1]; the same as ``fuzzy_ratio`` with that method. A
    text without words: 0.0.
    Null response or reference: null. Null with a code: ``too_long``, over 2e10 characters times characters.
    Source: RapidFuzz, ``fuzz.token_set_ratio``, https://rapidfuzz.github.io/RapidFuzz.
    """
    return fuzzy_ratio(response, reference, method="token_set_ratio", normalise=normalise)


@reward("edit_similarity", writes_reason=False)
def edit_similarity(response: pa.Array, reference: pa.Array, *, normalise: bool = False) -> Scores:
    """1 - Levenshtein distance / length of the longer text; two empty texts: 1.0.

    response[n] text, reference[n] text -> score[n] float64 in [0, 1]; characters are Unicode code points.
    Null response or reference: null. Null with a code: ``too_long``, over 2e10 characters times characters.
    Source: RapidFuzz, ``Levenshtein.normalized_similarity``, https://rapidfuzz.github.io/RapidFuzz.
    """
    from rapidfuzz.distance import Levenshtein

    return _score_fuzzy(response, reference, Levenshtein.normalized_similarity, normalise, 1.0)


def _score_rouge_l(
    response: pa.Array, reference: pa.Array, split: Splitter, measure: Measure
) -> tuple[Numbers, pa.Array]:
    """The scores, 1.0 where neither has a word, and the errors of the pairs that are too long."""

    def score(text: pa.Array, gold: pa.Array) -> Numbers:
        ours, theirs = pair_words(text, gold, split)
        product = ours.num_words * theirs.num_words
        asked = np.flatnonzero((product > 0) & (product <= MAX_PRODUCT))
        common = np.zeros(len(text), np.int64)
        lines = (words.take(asked).as_strings() for words in (ours, theirs))
        common[asked] = cpdist(*lines, scorer=LCSseq.similarity, dtype=np.int64)
        measured = f_measure(common, ours.num_words, theirs.num_words, measure)
        return np.stack([np.where(ours.num_words + theirs.num_words > 0, measured, 1.0), product])

    from rapidfuzz.distance import LCSseq
    from rapidfuzz.process import cpdist

    scored, product = score_in_chunks(score, response, reference)
    errors = pa.nulls(len(product), TEXT)
    over = product > MAX_PRODUCT
    if over.any():
        said = [score_too_long("words times words", int(size), MAX_PRODUCT)[1] for size in product[over]]
        errors = pc.replace_with_mask(errors, pa.array(over), pa.array(said, TEXT))
    return scored, errors


def _find_wordless(reference: pa.Array) -> pa.Array:
    has_word = series(reference).str.to_lowercase().str.contains("[a-z0-9]").to_arrow()
    said = pa.scalar("unparsable_reference: no word of the letters a to z or digits in it", TEXT)
    return pc.if_else(has_word, pa.scalar(None, TEXT), said)


def _mask_scores(response: pa.Array, reference: pa.Array, score: Numbers, error: pa.Array) -> Scores:
    """The scores of the pairs without an error; null, for the contract to explain, where either text is null."""
    error = pc.if_else(both_valid(response, reference), error, None)
    asked = pc.and_(both_valid(response, reference), error.is_null())
    return Scores(pc.if_else(asked, pa.array(score), None), error)


def _score_overlap(
    response: pa.Array, reference: pa.Array, ignore_case: bool, items: Callable[[str], set[str]], kind: str
) -> Scores:
    def find_items(text: str) -> set[str]:
        return items(text.lower() if ignore_case else text)

    golds = Memo(find_items)

    def score_row(text: str, gold: str) -> RowScore:
        right = golds[gold]
        if not right:
            return None, f"unparsable_reference: no {kind} in it", None
        num_common = len(right & find_items(text))
        return num_common / len(right), None, f"{num_common} of {len(right)} {kind}s"

    return to_scores(map_pairs(response, reference, score_row))


def _load_sacrebleu() -> Any:
    require("rules", "bleu or chrf", "sacrebleu")
    from sacrebleu import metrics

    return metrics


def _score_by_sacrebleu(response: pa.Array, reference: pa.Array, metric: Callable[..., Any]) -> Scores:
    # A metric of one reference keeps that reference's n-grams, so the candidates of a prompt count them once.
    golds: Memo[str, Any] = Memo(lambda gold: metric(references=[[gold]]))

    def score_row(text: str, gold: str) -> RowScore:
        if (longest := max(len(text), len(gold))) > MAX_CHARACTERS:
            return score_too_long("characters", longest, MAX_CHARACTERS)
        return min(1.0, golds[gold].corpus_score([text], None).score / 100), None, None

    try:
        return to_scores(map_different_pairs(response, reference, score_row), reasons=False)
    finally:
        _clear_sacrebleu_caches()


def _clear_sacrebleu_caches() -> None:
    """Empty the caches of sacrebleu's tokenizers: each keeps 65,536 texts for ever, gigabytes where they are long."""
    for name in [name for name in sys.modules if name.startswith("sacrebleu.tokenizers.")]:
        for kind in filter(inspect.isclass, vars(sys.modules[name]).values()):
            for method in vars(kind).values():
                if hasattr(method, "cache_clear"):
                    method.cache_clear()


def _score_fuzzy(response: pa.Array, reference: pa.Array, scorer: Any, normalise: bool, full: float) -> Scores:
    from rapidfuzz.process import cpdist
    from rapidfuzz.utils import default_process

    sizes = [pc.cast(pc.fill_null(pc.utf8_length(column), 0), pa.int64()) for column in (response, reference)]
    product = pc.multiply(*sizes)
    short = pc.less_equal(product, MAX_PRODUCT)
    asked = pc.and_(short, pc.and_(pc.is_valid(response), pc.is_valid(reference)))
    scored = cpdist(
        response.filter(asked).to_pylist(),
        reference.filter(asked).to_pylist(),
        scorer=scorer,
        processor=default_process if normalise else None,
        dtype=np.float64,
    )
    score = pc.replace_with_mask(pa.nulls(len(response), pa.float64()), asked, pa.array(scored / full))
    over = score_too_long("characters times characters", pc.max(product).as_py() or 0, MAX_PRODUCT)[1]
    error = pc.if_else(short, pa.scalar(None, TEXT), pa.scalar(over, TEXT))
    return Scores(score, error)
