"""YAML that people write: keys and values as they are meant. Mistakes in files: tests/jobs/config/test_file.py."""

import pytest

from connectors.errors import UserError
from rmbatch.settings.yaml_file import YamlSyntaxError, parse_yaml


@pytest.mark.parametrize("word", ["on", "off", "yes", "no", "On", "NO"])
def test_yes_and_no_are_text_as_keys_and_booleans_as_values(word: str) -> None:
    truth = word.lower() in ("on", "yes")
    assert parse_yaml(f"{word}: {word}", "F") == {word: truth}  # a route by a column whose values are yes and no


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1_000", 1000),
        ("1e3", "1e3"),
        ("1.0e+3", 1000.0),
        ("010", 8),
        ("~", None),
        ("'no'", "no"),
        (".inf", float("inf")),
    ],
)
def test_values_keep_the_meaning_of_yaml_1_1(written: str, value: object) -> None:
    assert parse_yaml(f"a: {written}", "F") == {"a": value}


def test_a_key_twice_is_refused_however_it_is_written() -> None:
    with pytest.raises(UserError, match="F: line 2: the key 'no' occurs twice; keep one"):
        parse_yaml("no: 1\n'no': 2\n", "F")


def test_a_syntax_error_can_be_told_from_other_mistakes() -> None:
    with pytest.raises(YamlSyntaxError):
        parse_yaml("[", "F")
    with pytest.raises(UserError) as refused:
        parse_yaml("{a: 1, a: 1}", "F")
    assert not isinstance(refused.value, YamlSyntaxError)
