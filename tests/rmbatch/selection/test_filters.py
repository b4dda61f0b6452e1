"""What two texts share: the same in blocks of any texts."""

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from rmbatch.selection.filters import text_keys

ASCII = st.text(st.characters(max_codepoint=127))


@given(st.lists(ASCII | st.none(), max_size=8), st.integers(0, 3))
def test_normalised_key_does_not_depend_on_the_other_texts(texts: list[str | None], first: int) -> None:
    alone = text_keys(pa.array(texts, pa.string())[first:], "normalised")
    among_others = text_keys(pa.array([*texts, "É"], pa.string())[first:], "normalised")
    assert alone.to_pylist() == among_others.to_pylist()[: len(alone)]


def test_every_ascii_sign_has_the_key_that_it_has_beside_other_signs() -> None:
    texts = [f"{a}{chr(code)}{b}" for code in range(128) for a, b in (("A", "b"), ("", "b"), ("a ", ""))]
    each = [text_keys(pa.array([text]), "normalised")[0].as_py() for text in texts]
    assert each == text_keys(pa.array([*texts, "É"]), "normalised").to_pylist()[:-1]
