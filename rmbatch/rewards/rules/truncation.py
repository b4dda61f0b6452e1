r"""The reward that finds responses cut off before their end: ``not_truncated``. It looks at the text alone.

Where the generator's finish reason is known, that tells more.
"""

import polars as pl
import pyarrow as pa

from rmbatch.rewards.contract import Scores, reward
from rmbatch.rewards.rules.texts import series

_END = r"""[.!?…。！？｡۔؟।:;）)\]}»”’"'`*_~|>\$\p{So}\p{Emoji_Presentation}]\s*$"""
_FREE_LINE = r"(?:^|\n)(?:[^\n]{0,40}|[ \t]*(?:[-*+•#|]|\d{1,3}[.)])[^\n]*)\s*$"


@reward("not_truncated")
def not_truncated(response: pa.Array) -> Scores:
    r"""1.0 where the response looks finished, 0.0 where it looks cut off.

    response[n] text -> score[n] float64 in {0, 1}; the reason says by what. Cut off is: an odd number of code fences; a
    ``<think>``, ``<answer>`` or ``<tool_call>`` that is not closed; an odd number of ``$$``; a last line of over 40
    characters that ends on no punctuation, bracket, quote or symbol; nothing at all. A short last line may end as it
    likes, and so may a list item, a header or a line of a table.
    Null response: null.
    Source: the usual checks of data cleaning, e.g. terminal punctuation as in C4, arXiv 1910.10683.
    """
    text = pl.col("response").str
    signs = [
        (text.strip_chars() == "", "empty"),
        (text.count_matches("```", literal=True) % 2 == 1, "a code block is not closed"),
        *(
            (
                text.count_matches(f"<{tag}>", literal=True) > text.count_matches(f"</{tag}>", literal=True),
                f"<{tag}> is not closed",
            )
            for tag in ("think", "answer", "tool_call")
        ),
        (text.count_matches("$$", literal=True) % 2 == 1, "$$ is not closed"),
        (~text.contains(_END) & ~text.contains(_FREE_LINE), "the last line ends without punctuation"),
    ]
    reason = pl.coalesce(*(pl.when(sign).then(pl.lit(said)) for sign, said in signs))
    result = pl.DataFrame({"response": series(response)}).select(
        score=pl.when(pl.col("response").is_not_null()).then(reason.is_null().cast(pl.Float64)), reason=reason
    )
    return Scores(result["score"].to_arrow(), reason=result["reason"].to_arrow())
