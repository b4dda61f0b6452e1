"""How an adapter is found, fitted to columns, and held to what it promises."""

import pickle
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from connectors.errors import JobError, UserError
from connectors.schema import twin_field
from rmbatch.adapters.base import ADAPTERS, adapt, fitting_adapters, load_adapter, reads
from rmbatch.rows.roles import guess_roles
from tests.rmbatch.adapters.published import PUBLISHED, STARS, published

MINE = """
import pyarrow as pa
from rmbatch.adapters.base import reads

@reads("question", ("solution", "answer"), optional=("level",))
def declared(table):
    response = table["solution" if "solution" in table.column_names else "answer"]
    return pa.table({"prompt": table["question"], "response": response})

def plain(table):
    return pa.table({"response": table["answer"], "seen": pa.array([table.num_columns] * table.num_rows, pa.int8())})
def untyped(table): return pa.table({"seen": pa.array([1] * table.num_rows)})

def dropping(table): return table.slice(0, table.num_rows // 2)
def raising(table): raise KeyError("no")
def late(table): return raising(table) if table.num_rows else pa.table({"a": pa.array([], pa.int8())})
def listing(table): return table.to_pylist()
def moody(table): return pa.table({"a": pa.array(["x"]) if table.num_rows else pa.array([], pa.int8())})
number = 3
"""
TABLE = pa.table({"question": ["q"], "answer": ["a"], "mine": [1]})


@pytest.fixture
def mine(tmp_path: Path) -> str:
    (tmp_path / "mine.py").write_text(MINE)
    return str(tmp_path / "mine.py")


def test_own_function_with_declared_columns(mine: str) -> None:
    adapted = adapt(TABLE, f"{mine}:declared")
    assert adapted.to_pylist() == [{"prompt": "q", "response": "a", "mine": 1}]  # what it does not read stays


def test_own_function_without_declared_columns_sees_all(mine: str) -> None:
    assert adapt(TABLE, f"{mine}:plain").to_pylist() == [{"response": "a", "seen": 3}]


def test_adapter_of_a_module_by_its_name() -> None:
    found = load_adapter("rmbatch.adapters.hh:hh").fit(published("hh").schema)
    assert found(published("hh")) == adapt(published("hh"), "hh")


def test_fitted_adapter_travels_without_its_file(mine: str) -> None:
    fitted = load_adapter(f"{mine}:declared").fit(TABLE.schema)
    expected = fitted(TABLE)
    Path(mine).unlink()
    assert pickle.loads(pickle.dumps(fitted))(TABLE) == expected


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        (
            "helpster2",
            "no adapter 'helpster2'; did you mean 'helpsteer2' or 'helpsteer3' or 'helpsteer2_pairs'? Your own",
        ),
        ("nowhere.py:f", "no adapter file nowhere.py; "),
        ("rmbatch.nothing:f", "the adapter rmbatch.nothing:f: no module 'rmbatch.nothing'; is it on PYTHONPATH?"),
        ("rmbatch.adapters.hh:hhh", "no function 'hhh' there; did you mean 'hh'?"),
        ("os:system", "no adapter 'os:system'"),
    ],
)
def test_unknown_adapter_names_the_nearest(ref: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        load_adapter(ref)
    assert message in str(error.value)


def test_column_without_type_is_refused_before_any_work(mine: str) -> None:
    with pytest.raises(UserError, match="gives 'seen' no type where the table is empty"):
        load_adapter(f"{mine}:untyped").fit(TABLE.schema)


def test_wrong_function_in_own_file_names_the_nearest(mine: str) -> None:
    with pytest.raises(UserError, match="no function 'plane' there; did you mean 'plain'"):
        load_adapter(f"{mine}:plane")
    with pytest.raises(UserError, match="no function 'number'"):
        load_adapter(f"{mine}:number")


def test_own_file_that_cannot_be_loaded_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("import nothing_like_this")
    with pytest.raises(UserError, match=r"the adapter file .*bad.py cannot be loaded: ModuleNotFoundError"):
        load_adapter(f"{tmp_path}/bad.py:f")


def test_columns_of_another_dataset_name_the_adapter_that_fits() -> None:
    with pytest.raises(UserError) as error:
        adapt(published("helpsteer2_pairs"), "helpsteer2")
    assert str(error.value) == (
        "the adapter helpsteer2 reads prompt, response, helpfulness, correctness, coherence, complexity, verbosity, "
        "and the input has no 'response', 'helpfulness', 'correctness', 'coherence', 'complexity', 'verbosity' "
        "(it has split, prompt, response_1, response_2, preference_strength); these columns fit helpsteer2_pairs"
    )
    with pytest.raises(UserError, match="no other adapter fits these columns"):
        adapt(TABLE, "hh")


def test_columns_are_read_under_other_names(mine: str) -> None:
    with pytest.raises(
        UserError, match=r"reads question, solution or answer, and the input has no 'solution' or 'answer'"
    ):
        adapt(TABLE.drop_columns(["answer"]), f"{mine}:declared")
    other = TABLE.rename_columns({"answer": "solution"})
    assert adapt(other, f"{mine}:declared")["response"].to_pylist() == ["a"]


def test_every_adapter_is_on_the_page() -> None:
    page = (Path(__file__).parents[3] / "docs/datasets.md").read_text(encoding="utf-8")
    first_cells = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    named = {name for cell in first_cells for name in re.findall(r"`(\w+)`", cell)}
    assert not set(ADAPTERS) - named


@pytest.mark.parametrize("name", PUBLISHED)
def test_each_dataset_is_recognised_by_its_columns(name: str) -> None:
    found = fitting_adapters(published(name).schema)
    same_columns = {"hh": "pairs", "pku_safe_rlhf_safer": "pku_safe_rlhf"}  # whose rows tell them apart, or nobody
    assert name in found[:2] or same_columns.get(name) in found[:2]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dropping", "gave 1 rows for 3; give each row once, with null where it cannot be read"),
        ("late", "failed: KeyError: 'no'"),
        ("moody", "gives other types for some rows than for an empty table"),
    ],
)
def test_broken_promise_stops_the_job(mine: str, name: str, message: str) -> None:
    table = pa.concat_tables([TABLE] * 3) if name == "dropping" else TABLE
    with pytest.raises(JobError, match=message):
        load_adapter(f"{mine}:{name}").fit(TABLE.schema)(table)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("raising", "failed: KeyError: 'no', on a table without rows"),
        ("listing", r"gave a list; return a pyarrow.Table, on a table without rows"),
    ],
)
def test_function_that_fails_without_rows_is_refused(mine: str, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_adapter(f"{mine}:{name}").fit(TABLE.schema)


def test_rows_in_unit_are_projected_before_they_are_read() -> None:
    fitted = load_adapter("tulu3_preference").fit(
        pa.schema([*published("tulu3_preference").schema, ("big", pa.string())])
    )
    assert fitted.columns(["prompt"]) == ["id", "source", "prompt", "chosen", "rejected"]
    assert fitted.columns(["big"])[-1] == "big"


def test_odd_values_are_read_where_they_stand() -> None:
    rows = {"prompt": ["q", "r"], "response": ["a", None], **{name: [1, None] for name in STARS}}
    odd = pa.array([None, '"3.5"'], pa.string())
    table = pa.table(rows).append_column(twin_field("helpfulness"), odd)
    table = table.append_column(twin_field("response"), pa.array([None, "7"], pa.string()))
    adapted = adapt(table, "helpsteer2")
    assert adapted["label"].to_pylist() == [1.0, 3.5]
    assert adapted["response"].to_pylist() == ["a", "7"]
    assert not [name for name in adapted.column_names if name.startswith("odd.")]


def test_rating_is_not_taken_for_a_reference() -> None:
    assert guess_roles(adapt(published("helpsteer2"), "helpsteer2").schema).reference is None


def test_pairs_are_two_candidates() -> None:
    assert guess_roles(adapt(published("hh"), "hh").schema).responses == ("chosen", "rejected")
    assert guess_roles(adapt(published("helpsteer3"), "helpsteer3").schema).responses == "responses"
    conversations = pa.schema([("chosen", pa.list_(pa.string())), ("rejected", pa.string())])
    assert guess_roles(conversations).responses is None


def test_a_column_that_is_not_read_stays_as_it_is() -> None:
    @reads("a")
    def double(table: pa.Table) -> pa.Table:
        return pa.table({"a": pc.multiply(table["a"], 2)})

    assert double(pa.table({"a": [1], "b": [2]})).to_pylist() == [{"a": 2}]
