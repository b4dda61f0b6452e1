"""Principle files: what is read, what is refused and in which words, what is written."""

import pickle
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from connectors.errors import UserError
from rmbatch.judges.library import TOPICS
from rmbatch.judges.principles import Principle, PrincipleSet, load_principles, write_principles

ONE = "topic: tone\nabout: What counts is the tone.\n"


def of(**changed: object) -> PrincipleSet:
    """A set of two principles, with some keys changed."""
    principles = (Principle(name="polite", text="It is polite."), Principle(name="short", text="It is short."))
    return PrincipleSet(**{"topic": "tone", "about": "What counts is the tone.", "principles": principles} | changed)


@pytest.fixture
def written(tmp_path: Path):
    def write(content: str | bytes) -> str:
        path = tmp_path / "mine.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


def test_principles_are_a_topic_a_file_sentences_or_themselves(written) -> None:
    assert load_principles("helpfulness").topic == "helpfulness"
    mine = load_principles(written(ONE + "principles: [{name: polite, text: ' It is polite. '}]"))
    assert mine.principles == (Principle(name="polite", text="It is polite."),)
    listed = load_principles(["It is polite.", "It is short."])
    assert [each.text for each in listed.principles] == ["It is polite.", "It is short."]
    assert listed == load_principles(("It is polite.", "It is short."))
    assert load_principles(listed) is listed


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "got null; write keys and values: topic, about, version, principles, provenance"),
        ("- It is polite.", "got ['It is polite.']; write keys and values"),
        (ONE, "principles: missing"),
        (ONE + "principles: []", "principles: got []; write at least 1 of them"),
        (ONE + "principles: It is polite.", "principles: got 'It is polite.'; write a list"),
        (ONE + "principles: [It is polite.]", "principles.0: got 'It is polite.'; write keys and values"),
        (ONE + "principles: [{text: ''}]", "principles.0.text: got ''; write some text"),
        (ONE + "principles: [{text: '  '}]", "mine.yaml: principles.0.text: got ' '; write some text"),
        (ONE + "principles: [{text: yes}]", "principles.0.text: got true; write text in quotes"),  # YAML 1.1
        (ONE + "principles: [{text: A, txet: B}]", "principles.0.txet: unknown key; did you mean 'text'?"),
        (ONE + "principle: [{text: A}]", "mine.yaml: principle: unknown key; did you mean 'principles' or "),
        (ONE + "principles: [{text: A, name: x}, {text: B, name: X}]", "principles.1.name: the same as principles.0's"),
        (ONE + "principles: [{text: A}, {text: B}, {text: A}]", "principles.2.text: the same as principles.0's, 'A'"),
        (ONE + "principles: [{text: A, name: 'two\n\n  lines'}]", "principles.0.name: got "),
        (ONE + "version: 0\nprinciples: [{text: A}]", "version: got 0"),
        (ONE + "provenance: {date: 2026-01-01}\nprinciples: [{text: A}]", "provenance.date: got "),  # is no JSON
        ("topic: two words\nabout: A.\nprinciples: [{text: A}]", "topic: got 'two words'"),
        (ONE + "principles:\n- text: A\n  text: B", ": line 5: the key 'text' occurs twice; keep one"),
        (ONE + "about: Another.\nprinciples: [{text: A}]", ": line 3: the key 'about' occurs twice; keep one"),
        ("about: It is: polite", ":1:13: not YAML: mapping values are not allowed here; text with `: ` in it"),
        ("topic: [", ":1:9: not YAML: "),
        ("topic: 2026-13-01", ": a value is not YAML: month must be in"),  # a date that is none: no YAMLError
        ("? [a, b]\n: c", ": line 1: ['a', 'b'] cannot be a key; a key is text"),  # a key that cannot be one
        ("1: a", ": line 1: the key '1' reads as 1 in YAML; put it in quotes"),
        ("version: 1", "topic: missing; it has no default; "),
        ("[" * 600, ": line 1: nested more than 64 deep"),
        ("topic: \x07", ": not YAML: "),
        (b"topic: \xff", ": not UTF-8 text"),
        ("!!python/object:os.system x", ": not YAML: could not determine a constructor"),
    ],
)
def test_a_bad_file_is_refused_with_its_name_the_key_and_the_cure(written, content: str | bytes, told: str) -> None:
    path = written(content)
    with pytest.raises(UserError) as refused:
        load_principles(path)
    assert str(refused.value).startswith(path)
    assert told in str(refused.value)


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("helpfullness", "no principles 'helpfullness'; did you mean 'helpfulness'"),
        ("base_helpfulness_pointwise", "'base_helpfulness_pointwise' is a judge; its principles are 'helpfulness'"),
        ("", "no principles ''; known: brainstorming, "),
        ("no/such.yaml", "no principle file no/such.yaml"),
        ([], "a list: principles: got []; write at least 1 of them"),
        (["It is polite.", " "], "a list: principles.1.text: got ' '; write some text"),
        (["It is polite.", "It is polite."], "a list: principles.1.text: the same as principles.0's"),
        (["It is polite.", None], "a list: principles.1.text: got null; write text in quotes"),
    ],
)
def test_what_names_no_principles_is_refused(what: str | list[str], told: str) -> None:
    with pytest.raises(UserError) as refused:
        load_principles(what)
    assert told in str(refused.value)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    folder = tmp_path / "folder.yaml"
    folder.mkdir()
    with pytest.raises(UserError, match=f"no principle file {folder}"):
        load_principles(str(folder))
    with pytest.raises(UserError, match=f"{folder}: cannot be written"):
        write_principles(str(folder), of())
    with pytest.raises(UserError, match=r"ends in \.yaml"):
        write_principles(str(tmp_path / "mine.json"), of())


def test_the_digest_is_of_what_a_judge_is_shown() -> None:
    digest = of().digest
    assert digest == "1926ec186c8e3c26"  # kept between versions, processes and machines
    assert digest == of(topic="other", version=7, provenance={"model": "m"}).digest
    assert (
        digest
        == of(
            principles=[
                {"name": "polite", "text": "It is polite.", "source": "Knigge"},
                {"name": "short", "text": "It is short."},
            ]
        ).digest
    )
    different = [
        of(about="What counts is the length."),
        of(principles=of().principles[:1]),
        of(principles=of().principles[::-1]),
        of(principles=[{"name": "polite", "text": "It is kind."}, of().principles[1]]),
        of(principles=[{"name": "kind", "text": "It is polite."}, of().principles[1]]),
        of(principles=[{"text": "polite\nIt is polite."}, of().principles[1]]),  # where name and text meet
    ]
    assert len({digest, *(each.digest for each in different)}) == 1 + len(different)


def test_a_set_is_frozen_and_travels() -> None:
    with pytest.raises(ValidationError):
        of().about = "Another."
    assert pickle.loads(pickle.dumps(of())) == of()


TEXT = st.text(min_size=1, max_size=60).filter(str.strip)
TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(
    about=TEXT,
    texts=st.lists(TEXT, min_size=1, max_size=4, unique_by=lambda text: text.strip().casefold()),
    source=st.none() | TEXT,
    provenance=st.dictionaries(st.text(), TREES, max_size=3),
)
def test_what_is_written_is_read_as_the_same(tmp_path_factory, about, texts, source, provenance) -> None:
    try:
        mine = of(about=about, principles=[{"text": text, "source": source} for text in texts], provenance=provenance)
    except ValidationError:
        return  # pydantic strips more than Python does
    path = str(tmp_path_factory.getbasetemp() / "round.yaml")
    write_principles(path, mine)
    assert load_principles(path) == mine
    assert load_principles(path).digest == mine.digest


def test_a_written_file_is_readable(tmp_path: Path) -> None:
    path = tmp_path / "new" / "tone.yaml"
    long = "It greets the user by name: 'Grüß Gott', " + "or in the way that is usual where the user lives, " * 3
    write_principles(str(path), of(principles=[{"text": long}], provenance={"precision": 0.9}))
    text = path.read_text(encoding="utf-8")
    assert text.startswith("topic: tone\nabout: What counts is the tone.\nprinciples:\n- text: ")
    assert "Grüß" in text
    assert "null" not in text
    assert max(map(len, text.splitlines())) <= 120
    assert load_principles(str(path)).principles[0].text == long.strip()


@pytest.mark.parametrize("topic", TOPICS)
def test_a_topic_survives_being_written(tmp_path: Path, topic: str) -> None:
    path = str(tmp_path / "copy.yaml")
    write_principles(path, load_principles(topic))
    assert load_principles(path) == load_principles(topic)
