"""Parts of a block side by side: what is done in turn is done on one thread, and an error ends all."""

import threading
import time
from typing import Any

import pytest

from rmbatch.stages.lanes import InTurn, run_in_lanes


@pytest.mark.parametrize("num_parts", [0, 1, 4])
def test_turns_are_taken_one_by_one_on_the_thread_that_calls(num_parts: int) -> None:
    done: list[tuple[int, int]] = []
    at_once: list[int] = []

    def turn(part: int, number: int) -> int:
        at_once.append(1)
        assert threading.current_thread() is threading.main_thread()
        assert len(at_once) == 1
        done.append((part, number))
        at_once.pop()
        return part + number

    def work(part: int, in_turn: InTurn) -> None:
        for number in range(20):
            assert in_turn(lambda number=number: turn(part, number)) == part + number

    run_in_lanes(list(range(num_parts)), work)
    assert sorted(done) == [(part, number) for part in range(num_parts) for number in range(20)]


def test_waiting_goes_on_side_by_side() -> None:
    began = time.monotonic()
    run_in_lanes([1, 2, 3, 4], lambda part, in_turn: time.sleep(1.0))
    assert time.monotonic() - began < 3


@pytest.mark.parametrize("where", ["lane", "turn"])
def test_an_error_of_one_part_ends_the_others(where: str) -> None:
    taken: list[int] = []

    def fail() -> Any:
        raise ValueError("broken")

    def work(part: int, in_turn: InTurn) -> None:
        if part == 0:
            in_turn(fail) if where == "turn" else fail()
        for _ in range(1000):
            in_turn(lambda: taken.append(part))
            time.sleep(0.01)

    with pytest.raises(ValueError, match="broken"):
        run_in_lanes([0, 1, 2], work)
    assert len(taken) < 1000
