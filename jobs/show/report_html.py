"""Pieces of the report's page: tables that sort, plots with captions, numbers and texts as people read them.

table("Scores", ["score", "mean"], [["math", 0.5]])
"""

from collections.abc import Collection, Mapping, Sequence
from html import escape
from typing import Any

Cell = Any
"""Text, a number, None, or an ``Html``."""


_SPACE = "\N{NO-BREAK SPACE}"


class Html(str):
    """Text that is HTML already."""


def table(
    caption: str, header: Sequence[str], rows: Sequence[Sequence[Cell]], chosen: Collection[int] = (), note: str = ""
) -> Html:
    """A table whose columns sort. chosen: the numbers of rows that stand out. Numbers are aligned to the right."""
    numeric = [any(_is_number(row[place]) for row in rows) for place in range(len(header))]
    heads = "".join(
        f'<th scope="col"{" class=n" if is_number else ""}><button type="button">{escape(name)}</button></th>'
        for name, is_number in zip(header, numeric)
    )
    body = "".join(
        f"<tr{' class=chosen' if place in chosen else ''}>"
        + "".join(
            _cell(cell, is_number, is_first=number == 0) for number, (cell, is_number) in enumerate(zip(row, numeric))
        )
        + "</tr>\n"
        for place, row in enumerate(rows)
    )
    hint = f'<p class="hint">{escape(note)}</p>' if note else ""
    return Html(
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(caption)}"><table>\n'
        f"<caption>{escape(caption)}</caption>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{body}</tbody></table></div>{hint}"
    )


def plot(plots: Mapping[str, str], name: str, title: str, caption: str = "") -> Html:
    """A plot with what it shows; nothing where it was not drawn."""
    if name not in plots:
        return Html("")
    svg = plots[name].replace("<svg", f'<svg role="img" aria-label="{escape(title)}"', 1)
    words = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return Html(f'<figure id="plot-{escape(name)}">{svg}{words}</figure>')


def paragraph(text: str, kind: str = "") -> Html:
    """A paragraph. kind: its class."""
    return Html(f"<p{f' class={kind}' if kind else ''}>{escape(text)}</p>")


def heading(text: str) -> Html:
    """A heading inside a section."""
    return Html(f"<h3>{escape(text)}</h3>")


def text_block(text: str | None) -> Html:
    """A text as it was written."""
    return Html(f'<div class="text" tabindex="0">{escape(text) if text is not None else "<i>no text</i>"}</div>')


def diff_block(parts: Sequence[Sequence[str]]) -> Html:
    """A diff: what is gone struck through, what is new underlined."""
    marks = {"same": "{}", "gone": "<del>{}</del>", "new": "<ins>{}</ins>"}
    return Html(
        f'<div class="text" tabindex="0">{"".join(marks[what].format(escape(text)) for what, text in parts)}</div>'
    )


def number(value: float | int | None) -> str:
    """A number with as many digits as tell something; a dash for none."""
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    if abs(value) < 1e15 and value == int(value):
        return f"{int(value):,}"
    size = abs(value)
    if 1e-4 <= size < 1e6:
        return f"{value:,.{1 if size >= 1000 else 2 if size >= 100 else 3 if size >= 10 else 4}f}"
    return f"{value:.3e}"


def share(value: float | None) -> Html:
    """A share as a percentage, which sorts as a number."""
    if value is None:
        return Html('<span data-value="">–</span>')
    return Html(f'<span data-value="{value!r}">{value:.1%}</span>')


def interval(mean: Mapping[str, Any]) -> str:
    """The ends of an interval, in one line."""
    return "–" if mean["low"] is None else f"{number(mean['low'])}{_SPACE}to{_SPACE}{number(mean['high'])}"


def _is_number(cell: Cell) -> bool:
    is_html = isinstance(cell, Html) and "data-value" in cell
    return is_html or (isinstance(cell, int | float) and not isinstance(cell, bool))


def _cell(cell: Cell, is_number: bool, *, is_first: bool) -> str:
    tag, scope = ("th", ' scope="row"') if is_first else ("td", "")
    kind = ' class="n"' if is_number else ""
    value = ""
    if isinstance(cell, Html):
        inside = str(cell)
        if inside.startswith("<span data-value="):
            value = f" data-value={inside.split('data-value=')[1].split('>')[0]}"
    elif isinstance(cell, int | float) and not isinstance(cell, bool):
        inside, value = number(cell), f' data-value="{cell!r}"'
    else:
        inside = "–" if cell is None else escape(str(cell))
    return f"<{tag}{scope}{kind}{value}>{inside}</{tag}>"
