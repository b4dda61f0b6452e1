"""No form of an API key survives, and nothing else is touched."""

import html
import json
from urllib.parse import quote

import orjson
import pytest

from rmbatch.endpoints.masking import Mask

KEY = 'sk-a/b+c"d&e_1.2'


def escaped(text: str, form: str) -> str:
    """Each character as it is in that form."""
    return "".join(form.format(ord(each)) for each in text)


@pytest.mark.parametrize(
    "told",
    [
        KEY,
        json.dumps(KEY)[1:-1],
        json.dumps(json.dumps(KEY))[3:-3],
        KEY.replace("/", "\\/"),
        quote(KEY, safe=""),
        quote(KEY, safe="/"),
        quote(quote(KEY, safe=""), safe=""),
        quote(KEY, safe="").lower(),
        html.escape(KEY),
        html.escape(html.escape(KEY)),
        KEY.replace("_", "&lowbar;").replace(".", "&period;"),
        escaped(KEY, "&#{};"),
        escaped(KEY, "&#x{:x};"),
        escaped(KEY, "&#X{:04X}"),
        escaped(KEY, "\\u{:04x}"),
        escaped(KEY, "\\\\u{:04X}"),
        escaped(KEY, "\\x{:02x}"),
        escaped(KEY, "%{:02X}"),
        "sk%2Da&#47;b%2Bc\\u0022d&amp;e_1.2",
    ],
)
def test_a_key_is_found_in_every_form(told: str) -> None:
    mask = Mask([KEY])
    assert mask.mask_text(f"bad key {told}!") == "bad key ***!"
    assert mask.mask_raw(f"bad key {told}!".encode()) == b"bad key ***!"
    assert mask.has_key(told.encode())


def test_longer_of_two_overlapping_keys_is_masked() -> None:
    assert Mask(["sk-secret", "sk-secret-longer"]).mask_text("sk-secret-longer sk-secret") == "*** ***"


def test_short_placeholders_are_not_masked() -> None:
    for key in ("", "x", "none", "EMPTY"):
        assert Mask([key]).mask_text(f"{key} of them is none, or EMPTY") == f"{key} of them is none, or EMPTY"


def test_masked_json_keeps_its_structure() -> None:
    body = {"a": [f"1 {KEY} 2", 3, None, {"b": 0.5, KEY: True}], "c": "sk-a"}
    assert Mask([KEY]).mask_json(body) == {"a": ["1 *** 2", 3, None, {"b": 0.5, "***": True}], "c": "sk-a"}


@pytest.mark.parametrize("unit", ["s", "sk-", "%25", "\\", "&amp;", "&#0", "%2573"])
def test_long_texts_are_masked_fast(unit: str) -> None:
    Mask([KEY]).mask_raw(orjson.dumps(unit * (200_000 // len(unit))))
