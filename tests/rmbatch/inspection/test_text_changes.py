"""Word differences: both texts can be read back from the pieces, and only what changed is marked."""

from hypothesis import given
from hypothesis import strategies as st

from rmbatch.inspection.text_changes import MAX_WORDS, find_changes

TEXTS = st.text(st.sampled_from("ab .,\n4é語"), max_size=40)


@given(TEXTS, TEXTS)
def test_pieces_make_both_texts(before: str, after: str) -> None:
    pieces = find_changes(before, after)
    assert "".join(each.text for each in pieces if each.kind != "added") == before
    assert "".join(each.text for each in pieces if each.kind != "removed") == after


@given(TEXTS)
def test_equal_texts_have_no_changes(text: str) -> None:
    assert all(each.kind == "same" for each in find_changes(text, text))


def test_only_the_changed_word_is_marked() -> None:
    assert find_changes("It is 42.", "It is 43.") == [
        ("same", "It is "),
        ("removed", "42"),
        ("added", "43"),
        ("same", "."),
    ]


def test_long_texts_are_compared_by_lines() -> None:
    line = "word " * 100 + "\n"
    before = line * (MAX_WORDS // 100)
    pieces = find_changes(before, before + "one more\n")
    assert pieces == [("same", before), ("added", "one more\n")]
