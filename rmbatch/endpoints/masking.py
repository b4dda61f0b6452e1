"""Takes API keys out of texts: servers repeat them in errors, and some models in answers.

    mask = Mask(["sk-secret-123"])
    mask.mask_text("bad key sk%2Dsecret%2D123")          # "bad key ***"
    mask.mask_json({"error": "bad key sk-secret-123"})

A key is found in percent, HTML and JSON escapes too, character by character. Mask before you cut: half a key is no key.
"""

import re
from collections.abc import Iterable
from html.entities import html5
from typing import Any

MASKED = "***"
SHORTEST = 6
"""Shorter keys are no secrets but words for servers that want none (``x``, ``none``, ``EMPTY``); answers hold those."""

_QUOTED = "\"'/\\"
"""Characters that a backslash may stand before."""


class Mask:
    """The keys that must not be seen."""

    def __init__(self, keys: Iterable[str]) -> None:
        by_length = sorted({key for key in keys if len(key) >= SHORTEST}, key=len, reverse=True)
        pattern = "|".join("".join(map(_match_any_form, key)) for key in by_length)
        self._pattern = re.compile(pattern) if pattern else None
        self._raw = re.compile(pattern.encode()) if pattern else None
        has_quotes = any(each in key for key in by_length for each in _QUOTED)
        self._signs = [*(key.encode() for key in by_length), b"%", b"&", b"\\" if has_quotes else b"\\u", b"\\x"]

    def mask_text(self, text: str) -> str:
        """The text with its keys masked."""
        return text if self._pattern is None else self._pattern.sub(MASKED, text)

    def mask_raw(self, raw: bytes) -> bytes:
        """As ``mask_text``, for bytes."""
        return self._raw.sub(MASKED.encode(), raw) if self._raw is not None and self.has_key(raw) else raw

    def has_key(self, raw: bytes) -> bool:
        """Whether the bytes hold a key."""
        if self._raw is None or not any(sign in raw for sign in self._signs):  # a search takes 30 µs a KB
            return False
        return self._raw.search(raw) is not None

    def mask_json(self, value: Any) -> Any:
        """JSON with the keys in its strings and names masked."""
        if isinstance(value, str):
            return self.mask_text(value)
        if isinstance(value, dict):
            return {self.mask_text(name): self.mask_json(inner) for name, inner in value.items()}
        return [self.mask_json(inner) for inner in value] if isinstance(value, list) else value


def _match_any_form(character: str) -> str:
    """A pattern of one character as it is, or escaped, once or again."""
    code = ord(character)
    names = "|".join(name for name, meant in html5.items() if meant == character and name.endswith(";"))
    forms = [
        (r"\\{0,8}" if character in _QUOTED else "") + re.escape(character),
        rf"%(?:25){{0,8}}(?i:{code:02x})",
        rf"\\{{1,8}}(?:u00|x)(?i:{code:02x})",
        rf"&(?:amp;){{0,8}}#(?:0{{0,8}}{code}|[xX]0{{0,8}}(?i:{code:x}));?",
        *([f"&(?:amp;){{0,8}}(?:{names})"] if names else []),
    ]
    return f"(?:{'|'.join(forms)})"
