"""Rewards that compare a response with its reference as text: ``accuracy`` and ``f1_score``.

They know nothing of mathematics (``math.py``) or of form (``format.py``).
"""

import pyarrow as pa
import pyarrow.compute as pc

from rmbatch.rewards.contract import reward
from rmbatch.rewards.tokenizers import TokenizerName
from rmbatch.rewards.tokenizers import tokenizer as load_tokenizer


@reward("accuracy")
def accuracy(response: pa.Array, reference: pa.Array) -> pa.Array:
    """1.0 where the response is the reference, character for character, white space at both ends aside; else 0.0.

    response[n] text, reference[n] text -> score[n] float64 in {0, 1}. Case counts; two empty texts are equal.
    Null response or reference: null.
    Source: RM-Gallery, ``accuracy``, https://github.com/modelscope/RM-Gallery (there a missing reference is "").
    """
    equal = pc.equal(pc.utf8_trim_whitespace(response), pc.utf8_trim_whitespace(reference))
    return pc.cast(equal, pa.float64())


@reward("f1_score")
class F1Score:
    """F1 of the sets of tokens of response and reference, both lower-cased.

    response[n] text, reference[n] text -> score[n] float64 in [0, 1]. Sets: a word said twice counts once. Both without
    tokens: 1.0; one without: 0.0.
    Null response or reference: null. UserError where the tokenizer cannot be loaded.
    Source: RM-Gallery, ``f1_score``, https://github.com/modelscope/RM-Gallery (``words`` is its "simple"; the default
    there is tiktoken, which falls back to words in silence).
    """

    def __init__(
        self, *, tokenizer: TokenizerName = "words", encoding_name: str = "cl100k_base", chinese_only: bool = False
    ) -> None:
        self._tokenize = load_tokenizer(tokenizer, encoding_name=encoding_name, chinese_only=chinese_only)

    def __call__(self, response: pa.Array, reference: pa.Array) -> pa.Array:
        references: dict[str, frozenset[str]] = {}  # the candidates of one prompt share a reference
        scores: list[float | None] = []
        for text, gold in zip(response.to_pylist(), reference.to_pylist()):
            if text is None or gold is None:
                scores.append(None)
                continue
            if gold not in references:
                references[gold] = self._tokens(gold)
            scores.append(_f1(self._tokens(text), references[gold]))
        return pa.array(scores, pa.float64())

    def _tokens(self, text: str) -> frozenset[str]:
        return frozenset(self._tokenize(text.strip().lower()))


def _f1(response: frozenset[str], reference: frozenset[str]) -> float:
    if not response and not reference:
        return 1.0
    common = len(response & reference)
    if not common:
        return 0.0
    precision, recall = common / len(response), common / len(reference)
    return 2 * precision * recall / (precision + recall)
