"""Responses that are cut off, as a table of (response, reason)."""

import pytest

import rmbatch


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        ("All done.", None),
        ("42", None),
        ("# A title", None),
        ("これは長い文章です。終わりました。", None),
        ("- a list item that is rather long but has no full stop at all", None),
        ("```\nx\n```", None),
        ("and then we multiply the first number by the second one and", "the last line ends without punctuation"),
        ("```python\nx", "a code block is not closed"),
        ("<think>so.", "<think> is not closed"),
        ("so $$x + 1", "$$ is not closed"),
        (" \n", "empty"),
        ("", "empty"),
    ],
)
def test_not_truncated(response: str, reason: str | None) -> None:
    given = rmbatch.reward("not_truncated").evaluate({"response": response})
    assert (given.score, given.reason) == (float(reason is None), reason)
    assert rmbatch.reward("not_truncated").evaluate({"response": None}).score is None
