"""How work is cut into tasks, and what becomes of an error on its way through Ray; both without Ray."""

import pickle

import pyarrow as pa
import pytest
from ray.exceptions import RayTaskError

from connectors.dataset import InputDataset
from connectors.errors import JobError, UserError
from connectors.units import Range, Unit
from rmbatch.pipeline.on_ray import translate_ray_errors
from rmbatch.pipeline.task import MIN_SPLIT_ROWS, cut_tasks, gather_blocks

MIB = 1 << 20


def dataset(*rows_and_mib: tuple[int, float]) -> InputDataset:
    units = {i: Unit(i, 0, 0, rows, int(mib * MIB)) for i, (rows, mib) in enumerate(rows_and_mib)}
    return InputDataset("parquet", pa.schema([]), {}, units)


def whole(data: InputDataset) -> list[Range]:
    return [Range(unit.index, 0, unit.num_rows) for unit in data.units.values()]


@pytest.mark.parametrize(
    ("sizes", "splittable", "expected_tasks"),
    [
        ([(10_000, 1)], True, 8),  # one small file: all CPUs get a share
        ([(10_000, 1)], False, 1),  # its groups must stay whole
        ([(300, 1)], True, 1),  # too few rows to be worth it
        ([(600, 1)], True, 2),
        ([(100_000, 64)] * 40, True, 20),  # many units: two to a file of 128 MiB, none of them cut
        ([(100_000, 600)] * 2, True, 8),
        ([(1, 0.1)] * 1000, True, 8),
    ],
)
def test_tasks_keep_all_cpus_busy(sizes: list[tuple[int, float]], splittable: bool, expected_tasks: int) -> None:
    data = dataset(*sizes)
    tasks = cut_tasks(data, whole(data), 128 * MIB, num_cpus=2, splittable=splittable)
    assert expected_tasks <= len(tasks) <= expected_tasks * 1.3
    pieces = [piece for task in tasks for piece in task]
    covered = {unit.index: 0 for unit in data.units.values()}
    for piece in pieces:  # every row once, in order
        assert piece.start == covered[piece.unit]
        covered[piece.unit] = piece.stop
    assert covered == {unit.index: unit.num_rows for unit in data.units.values()}
    if len(pieces) > len(data.units):
        assert min(piece.num_rows for piece in pieces) >= MIN_SPLIT_ROWS


def test_scattered_rows_are_put_together_where_servers_are_asked() -> None:
    data = dataset((10_000, 10))
    pieces = [Range(0, row, row + 1) for row in range(0, 10_000, 100)]
    assert len(cut_tasks(data, pieces, 128 * MIB, num_cpus=2, splittable=True)) >= 8
    (task,) = cut_tasks(data, pieces, 128 * MIB, num_cpus=2, splittable=True, min_rows=MIN_SPLIT_ROWS)
    assert task == pieces
    some = cut_tasks(data, whole(data), 128 * MIB, num_cpus=2, splittable=True)
    assert cut_tasks(data, whole(data), 128 * MIB, num_cpus=2, splittable=True, min_rows=MIN_SPLIT_ROWS) == some


def test_blocks_of_scattered_rows_are_gathered() -> None:
    blocks = [pa.table({"row": list(range(start, start + 2))}) for start in range(0, 14, 2)]
    gathered = gather_blocks(blocks, 4)
    assert [block["row"].to_pylist() for block in gathered] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13]]


def annotated(error: Exception) -> RayTaskError:
    """An error as it comes out of a worker: pickled, its arguments added to by Ray, wrapped."""
    error.args = (f"{error.args[0]}\nFailed to apply UDF transform after 1/1 attempts.",)
    return RayTaskError("stages", "traceback", pickle.loads(pickle.dumps(error))).as_instanceof_cause()


@pytest.mark.parametrize(
    ("raised", "kind", "message"),
    [
        (annotated(JobError("reward 'a' raised\n it")), JobError, "reward 'a' raised it"),
        (annotated(UserError("no column 'b'")), UserError, "no column 'b'"),
        (annotated(OSError("disk full")), JobError, "a task of the job failed: OSError: disk full"),
    ],
)
def test_an_error_of_a_worker_is_one_line_of_ours(raised: Exception, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as told, translate_ray_errors():
        raise raised
    assert str(told.value) == message


def test_a_bug_of_our_own_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError), translate_ray_errors():
        print(1 // 0)
