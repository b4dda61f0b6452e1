"""What guards throw away, and what they let through although it looks odd."""

import pytest

from rmbatch.correction.guards import Guards, find_forms, find_script, normalize
from rmbatch.correction.spec import GuardSpec

ENGLISH = "This is a whole sentence in plain English, long enough to tell."
GERMAN = "Das hier ist ein ganzer Satz auf Deutsch, lang genug, um ihn zu erkennen."
CHINESE = "这是一个完整的中文句子，足够长，可以看出它是用哪种文字写的，没有任何疑问。"
JAPANESE = "これは日本語で書かれた十分に長い文章ですので、どの言語かはすぐに分かります。"


def code_of(text: str, best: str, prompt: str = "Say it.", **settings: object) -> str | None:
    guards = Guards(GuardSpec.model_validate(settings))
    refusals = guards.find_refusals([text, best])
    found = guards.find_fault(text, is_cut_off=False, best=best, prompt=prompt, tried=set(), refusals=refusals)
    return found and found.partition(":")[0]


@pytest.mark.parametrize(
    ("text", "best", "prompt", "code"),
    [
        (CHINESE, ENGLISH, "Say it.", "language_changed"),
        (CHINESE, ENGLISH, "用中文说。", None),  # the prompt asks for it
        (JAPANESE, CHINESE, "说吧。", "language_changed"),
        (JAPANESE, JAPANESE + "。。", "言って。", None),
        (GERMAN, ENGLISH, "Say it.", None),  # the same letters
        ("中文", ENGLISH, "Say it.", None),  # too short to tell
        (ENGLISH + r" $\alpha + \beta = \gamma$ ```привет мир привет мир```", ENGLISH + " ```x```", "Say it.", None),
        ("I'm sorry, but I can't help with that.", ENGLISH, "Say it.", "refusal"),
        ("I cannot help with that, sorry.", "I'm sorry, but I can't help with that.", "Say it.", None),  # as before
        ("x = -5", "x = 5", "Solve it.", None),  # a sign may be all that was wrong
        ("if a:\n        b", "if a:\n    b", "Indent it.", None),  # and so may white space at the beginning
        ("if a:\n    b  \n\n", "if a:\n    b", "Say it.", "copy"),
        ("a" * 1001, "b" * 100, "Say it.", "too_long"),
        ("a" * 999, "b" * 100, "Say it.", None),  # a short text counts as 200 characters
        ("4", "four" * 20, "Say it.", None),
        ("4", "four" * 60, "Say it.", "too_short"),
    ],
)
def test_guards_by_text(text: str, best: str, prompt: str, code: str | None) -> None:
    assert code_of(text, best, prompt) == code


def test_languages_are_told_by_words_where_that_is_asked() -> None:
    pytest.importorskip("py3langid")
    assert code_of(GERMAN, ENGLISH, language="words") == "language_changed"
    assert (
        code_of(GERMAN, ENGLISH, "Sag es bitte auf Deutsch, und zwar in einem ganzen Satz.", language="words") is None
    )


@pytest.mark.parametrize(
    ("text", "forms"),
    [
        ('{"a": 1}', {"JSON"}),
        ("[not json", set()),
        ("```python\nx\n```", {"a code block"}),
        (r"so \boxed{4}", {r"\boxed{}"}),
        ("<think>a</think><answer>4</answer>", {"<think>", "<answer>"}),
        ("<b>bold</b> and 1 < 2 > 0", set()),  # markup that carries no answer
        ("", set()),
    ],
)
def test_forms_that_an_edit_must_keep(text: str, forms: set[str]) -> None:
    assert find_forms(text) == forms


def test_scripts_and_normal_forms() -> None:
    assert [find_script(text) for text in (ENGLISH, CHINESE, JAPANESE, "", "42")] == [
        "LATIN",
        "CJK",
        "JAPANESE",
        None,
        None,
    ]
    assert normalize(" a \n\n b\t\n") == "a\n b"
