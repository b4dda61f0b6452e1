"""The index of kept answers against a dict."""

import random

import numpy as np
import pytest

from rmbatch.stores import key_index
from rmbatch.stores.key_index import KeyIndex


def test_index_finds_the_same_as_a_dict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_index, "_DICT_KEYS", 20)
    rng, index, expected = random.Random(5), KeyIndex(), dict[bytes, tuple[str, int, int]]()
    keys = [rng.choice([b"\x00", b"\xff" * 8, b"same half"])[:8].ljust(8, b"\0") + rng.randbytes(8) for _ in range(300)]
    for step in range(400):
        place = (rng.choice("abcde"), rng.choice([step, 2**40 + step]), step)
        some = [rng.choice(keys) for _ in range(rng.choice([1, 1, 5, 50]))]  # with some of them twice
        if len(some) == 1:
            index.add(some[0], place)
        else:
            starts, sizes = np.full(len(some), place[1]), np.full(len(some), place[2])
            index.add_all(b"".join(some), place[0], starts, sizes)
        for each in some:
            expected.setdefault(each, place)
        if step % 7 == 0:
            index.forget(some[0])
            expected.pop(some[0])
        if step % 90 == 0:
            index.forget_segments({"b", "d"})
            expected = {each: place for each, place in expected.items() if place[0] not in "bd"}
        assert len(index) == len(expected)
    assert [index.find(each) for each in keys] == [expected.get(each) for each in keys]
    assert [each in index for each in keys] == [each in expected for each in keys]
