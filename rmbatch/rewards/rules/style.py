"""Rewards that measure the style of a response: emoji, Markdown, lists. For filters, and against a bias for style.

They say how much there is, not whether that is good; give them a negative weight where it is not.
"""

import polars as pl
import pyarrow as pa

from rmbatch.rewards.contract import reward
from rmbatch.rewards.rules.texts import series

_EMOJI = (
    r"(?:\p{RI}\p{RI}|\p{Emoji_Presentation}|\p{Extended_Pictographic}\x{FE0F})"
    r"(?:\p{Emoji_Modifier}|\x{FE0F}|\x{200D}\p{Extended_Pictographic})*"
)
_ITEM = r"(?m)^[ \t]*(?:[-*+•]|\d{1,3}[.)])[ \t]+\S"
_HEADER = r"(?m)^ {0,3}#{1,6}[ \t]+\S"
_BOLD = r"\*\*[^*\n]+\*\*|__[^_\n]+__"
_LINE = r"(?m)^[^\n]*\S"


@reward("emoji_density")
def emoji_density(response: pa.Array) -> pa.Array:
    """Emoji per 1,000 characters of the response.

    response[n] text -> score[n] float64 in [0, 1000]. A flag, a family and a hand with a skin tone are one emoji each;
    digits and ©, which are emoji only by a mark after them, are none without it. Empty text: 0.0.
    Null response: null.
    Source: Unicode Technical Standard 51, https://unicode.org/reports/tr51.
    """
    text = series(response)
    return _per_thousand(text.str.count_matches(_EMOJI), text)


@reward("markdown_density")
def markdown_density(response: pa.Array) -> pa.Array:
    """Headers, bold stretches and list items of Markdown per 1,000 characters of the response.

    response[n] text -> score[n] float64 in [0, 1000]. Empty text: 0.0.
    Null response: null.
    Source: the elements that LMArena's style control counts, https://lmsys.org/blog/2024-08-28-style-control.
    """
    text = series(response)
    headers, bold, items = (text.str.count_matches(form) for form in (_HEADER, _BOLD, _ITEM))
    return _per_thousand(headers + bold + items, text)


@reward("list_density")
def list_density(response: pa.Array) -> pa.Array:
    """Share of the response's lines that are list items, blank lines aside.

    response[n] text -> score[n] float64 in [0, 1]. Items begin with ``-``, ``*``, ``+``, ``•`` or a number with a full
    stop or bracket, and a space. Empty text: 0.0.
    Null response: null.
    Source: the list count of LMArena's style control, https://lmsys.org/blog/2024-08-28-style-control, per line.
    """
    text = series(response)
    num_lines = text.str.count_matches(_LINE)
    share = text.str.count_matches(_ITEM).cast(pl.Float64) / num_lines.clip(lower_bound=1)
    return share.to_arrow()


def _per_thousand(number: pl.Series, text: pl.Series) -> pa.Array:
    return (number.cast(pl.Float64) * 1000 / text.str.len_chars().clip(lower_bound=1)).to_arrow()
