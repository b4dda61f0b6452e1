"""What is said of wrong settings where models stand in models; by key of a job file: tests/jobs/config."""

from typing import Annotated, Any

import pytest
from pydantic import Field, RootModel

from connectors.errors import UserError
from rmbatch.settings.base import Settings
from rmbatch.settings.mistakes import validate


class Leaf(Settings):
    colour: str = "green"


class Needle(Settings):
    length: Annotated[int, Field(gt=0)] = 1


class Wrapped(RootModel[Needle]):
    pass


class Tree(Settings):
    leaf: Leaf | None = None
    needle: Wrapped | None = None
    either: Leaf | Needle | None = None
    several: dict[str, list[Leaf]] = Field(default_factory=dict)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"leaf": {"color": 1}}, "leaf.color: unknown key; did you mean 'colour'?"),
        ({"needle": {"lenght": 1}}, "needle.lenght: unknown key; did you mean 'length'?"),
        ({"needle": {"length": 0}}, "needle.length: got 0; write more than 0"),
        ({"either": {"lenght": 1}}, "either.lenght: unknown key; known: colour."),
        ({"several": {"a": [{}, {"color": 1}]}}, "several.a.1.color: unknown key; did you mean 'colour'?"),
        ({"leaf": 3}, "leaf: got 3; write keys and values: colour"),
        (3, "got 3; write keys and values: leaf, needle, either, several"),
    ],
)
def test_a_mistake_names_its_place_the_value_and_the_cure(data: Any, message: str) -> None:
    with pytest.raises(UserError) as mistake:
        validate(Tree, data, where="FILE")
    assert str(mistake.value).startswith(f"FILE: {message}")


def test_the_word_for_a_field_may_be_given() -> None:
    with pytest.raises(UserError, match="F: x: unknown knob; known: colour"):
        validate(Leaf, {"x": 1}, where="F", noun="knob")
