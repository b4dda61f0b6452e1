"""A reward is found by name, file, module or entry point; a wrong name is one line with the nearest."""

import importlib.metadata
import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import rmbatch
from connectors.errors import UserError
from rmbatch.rewards import registry
from rmbatch.rewards.registry import BUILTIN, describe, list_rewards, load_source, resolve
from tests.rmbatch.rewards.every import NEEDED

POLITE = """
import pyarrow as pa, pyarrow.compute as pc
from rmbatch.rewards import reward

@reward("polite")
def polite(response: pa.Array, *, word: str = "please") -> pa.Array:
    "Says the word."
    return pc.cast(pc.match_substring(response, word), pa.float64())

def plain(response):
    return pc.utf8_length(response)
"""


@pytest.mark.parametrize("name", sorted(BUILTIN))
def test_every_builtin_is_found_documented_and_ships(name: str) -> None:
    spec = resolve(name)
    assert spec.name == spec.ref == name
    assert spec.doc.splitlines()[0].endswith(".")
    assert "null" in spec.doc
    assert "Source:" in spec.doc
    rm = rmbatch.reward(name, **NEEDED.get(name, {}))
    sample = {"responses": [None if name == "detoxify_reward" else "a b"], "reference": "4"}
    assert pickle.loads(pickle.dumps(rm)).evaluate(sample) == rm.evaluate(sample)


def test_math_verify_is_another_name() -> None:
    assert resolve("math_verify").name == "math_verify_reward"


def test_the_list_of_rewards_holds_the_alignment_names() -> None:
    assert {"f1_score", "base_helpfulness_pointwise", "safety_listwise_reward"} <= set(rmbatch.list_rewards())


def test_a_file_is_loaded_from_its_path_and_ships_as_text(tmp_path: Path) -> None:
    path = tmp_path / "my_rewards.py"
    path.write_text(POLITE)
    rm = rmbatch.reward(f"{path}:polite", word="thanks")
    assert rm.evaluate({"response": "thanks!"}).score == 1.0
    shipped = pickle.dumps(rm)
    path.unlink()  # a worker has no such file
    assert pickle.loads(shipped).evaluate({"response": "thanks!"}).score == 1.0
    assert resolve("nowhere/else.py:polite", POLITE).name == "polite"


def test_a_plain_function_will_do(tmp_path: Path) -> None:
    spec = resolve("r.py:plain", POLITE)
    assert (spec.name, spec.kind, spec.columns) == ("plain", "pointwise", ("response",))
    assert rmbatch.reward(lambda response: pa.array([2.0] * len(response))).evaluate({"response": "x"}).score == 2.0


def test_the_same_text_is_loaded_once() -> None:
    assert load_source(POLITE, "a.py") is load_source(POLITE, "a.py")
    assert load_source(POLITE, "a.py") is not load_source(POLITE + "\n", "a.py")


def test_a_module_and_an_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve("rmbatch.rewards.rules.general:accuracy").name == "accuracy"
    point = importlib.metadata.EntryPoint(
        "theirs", "rmbatch.rewards.rules.general:accuracy", registry.ENTRY_POINT_GROUP
    )
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])
    assert resolve("theirs").name == "accuracy"
    assert "theirs" in list_rewards()


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ("f1_scor", r"no reward 'f1_scor': did you mean 'f1_score'\?"),
        ("rmbatch.rewards.genral:accuracy", "no module 'rmbatch.rewards.genral'"),
        ("rmbatch.rewards.rules.general:acuracy", r"no function 'acuracy' there; did you mean 'accuracy'"),
        ("no/such/file.py:polite", "no reward file no/such/file.py"),
        ("os:system", r"os is a part of Python and has no reward; write a function whose parameter is `response`"),
        ("os.path:exists", "os.path is a part of Python and has no reward"),
        ("numpy:where", "'where' declares no reward: write `def where"),
        ("pyarrow.parquet:write_table", "name neither columns nor knobs"),
        ("rmbatch.rewards.registry:resolve", "'resolve'"),
    ],
)
def test_a_wrong_name_is_one_line(ref: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        resolve(ref)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [("import nothing_of_the_kind", "ModuleNotFoundError"), ("def it(:", "SyntaxError"), ("1/0", "ZeroDivisionError")],
)
def test_a_file_that_cannot_be_loaded_says_why(text: str, message: str) -> None:
    with pytest.raises(UserError, match=rf"the reward file bad\.py cannot be loaded: {message}"):
        resolve("bad.py:it", text)


@pytest.mark.parametrize("name", ["system", "rmtree"])
def test_imported_functions_are_no_rewards_of_a_file(name: str) -> None:
    with pytest.raises(UserError, match=f"{name}.* declares no reward"):
        resolve(f"mine.py:{name}", "from os import system\nfrom shutil import rmtree\n")


def test_module_that_exits_is_a_one_line_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ends_at_once.py").write_text("import sys\nsys.exit(3)\n")
    monkeypatch.syspath_prepend(tmp_path)
    for ref in ("ends_at_once:it", f"{tmp_path}/ends_at_once.py:it"):
        with pytest.raises(UserError, match="cannot be loaded: SystemExit: 3"):
            resolve(ref)


def test_package_function_with_a_response_is_a_reward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "our_rewards.py").write_text("def polite(response, *, word='please'): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert resolve("our_rewards:polite").columns == ("response",)


def test_describe_shows_all_one_can_set() -> None:
    shown = describe("ngram_repetition_penalty")
    for part in (
        "kind     pointwise",
        "columns  response",
        "n: int >= 1 = 3",
        "'words' | 'jieba' | 'tiktoken' = 'words'",
    ):
        assert part in shown
    assert shown.startswith("ngram_repetition_penalty(response, *, n=3, ")
    assert "Null response: null." in shown
    names: list[Any] = list_rewards()
    assert names == sorted(names)
