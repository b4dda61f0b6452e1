"""The tokenizers that text rewards share: ``words``, ``jieba``, ``tiktoken``.

Where a tokenizer cannot be loaded, making the reward is an error. Another tokenizer never takes its place: the scores
of two runs would differ without a trace.

    split = load_tokenizer("words")
    split(pa.array(["the cat", "the dog"])).ids    # [0, 1, 0, 2]
"""

import logging
import re
from collections.abc import Callable
from typing import Literal

import pyarrow as pa

from connectors.errors import UserError
from rmbatch.rewards.rules.words import Splitter, Words, number_words, white_space_words
from rmbatch.settings.extras import require

TokenizerName = Literal["words", "jieba", "tiktoken"]
Tokenize = Callable[[str], list[str]]

_NOT_CHINESE = re.compile(r"[^\u4e00-\u9fff]+")


def load_tokenizer(
    name: TokenizerName, *, encoding_name: str = "cl100k_base", chinese_only: bool = False, lower: bool = True
) -> Splitter:
    """A function from texts to their tokens; the texts are lower-cased and white space at both ends is dropped.

    ``words`` splits at white space; ``jieba`` cuts Chinese words (white space is no token); ``tiktoken`` gives the text
    of each token of ``encoding_name``. ``chinese_only`` first drops all but the characters U+4E00 to U+9FFF. ``lower``
    False: the case stays, and counts.
    Raises UserError where the package or the encoding cannot be loaded.
    """
    if name == "words" and lower and not chinese_only:
        return white_space_words
    tokenize: Tokenize = str.split
    if name == "jieba":
        tokenize = _load_jieba()
    elif name == "tiktoken":
        tokenize = _load_tiktoken(encoding_name)

    def tokens(text: str) -> list[str]:
        text = text.strip().lower() if lower else text.strip()
        return tokenize(_NOT_CHINESE.sub("", text) if chinese_only else text)

    def split(texts: pa.Array) -> Words:
        return number_words([tokens(text) for text in texts.to_pylist()])

    return split


def _load_jieba() -> Tokenize:
    require("tokenizers", "tokenizer='jieba'", "jieba")
    import jieba

    jieba.setLogLevel(logging.WARNING)
    jieba.initialize()
    return lambda text: [word for word in jieba.cut(text) if not word.isspace()]


def _load_tiktoken(encoding_name: str) -> Tokenize:
    require("tokenizers", "tokenizer='tiktoken'", "tiktoken")
    import tiktoken

    try:
        encoding = tiktoken.get_encoding(encoding_name)
    except Exception as fault:  # an unknown name is a ValueError; offline it is whatever requests raises
        cure = "it is downloaded once: set TIKTOKEN_CACHE_DIR to a folder that holds it, or use tokenizer='words'"
        raise UserError(
            f"tiktoken cannot load encoding_name={encoding_name!r} ({type(fault).__name__}); {cure}"
        ) from None

    def tokenize(text: str) -> list[str]:
        # A prompt may spell a special token out; it is text here, not control.
        return [encoding.decode([token]) for token in encoding.encode(text, disallowed_special=())]

    return tokenize
