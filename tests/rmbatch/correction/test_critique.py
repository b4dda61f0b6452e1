"""What the editor is shown: facts before opinions, and no reference that it could copy."""

import pytest

from rmbatch.correction.critique import HIDDEN_REFERENCE, MOST_REASON, hide_reference, write_findings
from rmbatch.correction.history import Assessment

FOUND = Assessment(
    1.0,
    {"help": 4.0, "math": 0.0, "code": None, "tidy": 0.0, "tidy.then": None, "other": 1.0, "total": 0.4},
    {"code": "timeout: it ran for 5 s", "tidy.then": "not_reached: another part decided"},
    {"help": "It is curt.", "math": "found 42; the reference is 43"},
)


def test_rules_come_first_and_judges_after_them() -> None:
    said = write_findings(FOUND, ["help", "math", "code", "tidy"], judges={"help"}, hidden="43")
    assert said == (
        "Checks:\n"
        "- math: scored 0; found 42; the reference is [reference]\n"
        "- code: no score, timeout: it ran for 5 s\n"
        "- tidy: scored 0\n\n"
        "Judges:\n"
        "- help: scored 4; It is curt."
    )
    shown = write_findings(FOUND, ["math"], judges=set(), hidden=None)
    assert shown == "Checks:\n- math: scored 0; found 42; the reference is 43"
    assert write_findings(FOUND, [], judges=set(), hidden=None) is None
    assert write_findings(FOUND, ["tidy.then"], judges=set(), hidden=None) is None  # it was not asked


def test_long_reasons_keep_their_beginning_and_their_end() -> None:
    found = Assessment(0.0, {"code": 0.0}, {}, {"code": "first" + "x" * 9999 + "AssertionError: last"})
    said = write_findings(found, ["code"], judges=set(), hidden=None) or ""
    assert "first" in said
    assert said.endswith("AssertionError: last")
    assert len(said) < MOST_REASON + 100


@pytest.mark.parametrize(
    ("text", "reference", "hidden"),
    [
        ("found 5; the reference is 4", "4", "found 5; the reference is [reference]"),
        ("found 54, 4.5, 14 and 4", "4", "found 54, 4.5, 14 and [reference]"),
        (r"the reference is \frac{1}{3}", "1/3", "the reference is [reference]"),
        ("nothing of it", "", "nothing of it"),
        ("a.b and aXb", "a.b", "[reference] and aXb"),
        ("", "4", ""),
    ],
)
def test_the_reference_is_hidden_where_it_stands_as_it_is(text: str, reference: str, hidden: str) -> None:
    assert hide_reference(text, reference) == hidden
    assert HIDDEN_REFERENCE == "[reference]"
