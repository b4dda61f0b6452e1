"""``rmbatch doctor`` on real job files and small models: what is printed, what fails, what stops a run."""

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from connectors.errors import UserError
from jobs.config.job_types import parse_job
from jobs.config.sections import JobConfig as Job
from jobs.run.doctor import cheap_findings, check_models, examine_job, read_conversations
from jobs.run.input import list_job_input, plan_job_input
from jobs.show.display import Display
from rmbatch.rows.roles import guess_roles
from tests.jobs.running import fit_job
from tests.tiny_models import make_model

pytest.importorskip("transformers")
pytest.importorskip("torch")
pytestmark = pytest.mark.served

HELD = {"engine": "transformers", "gpus": 0, "dtype": "float32"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("models")
    return {family: make_model(root / family, family) for family in ("scalar", "causal")}  # type: ignore[arg-type]


@pytest.fixture
def answers(tmp_path: Path) -> Path:
    """Nested rows in JSONL, one of whose lines is broken."""
    path = tmp_path / "in"
    path.mkdir()
    lines = [json.dumps({"prompt": f"question {n}", "responses": [f"a{n}", f"b{n} " + "x" * n]}) for n in range(80)]
    (path / "a.jsonl").write_text("\n".join(["{broken", *lines]))
    return path


def job(path: Path, rewards: dict[str, Any], **settings: Any) -> Job:
    whole = {"job": "score", "input": {"path": str(path)}, "output": {"path": "nowhere"}, "rewards": rewards}
    return parse_job({**whole, **settings}, "test")


def shown(asked: Job) -> tuple[bool, str]:
    out = io.StringIO()
    good = examine_job(asked, Display(Console(file=out, width=400)))
    return good, out.getvalue()


def line(out: str, start: str) -> str:
    return next(line for line in out.splitlines() if " ".join(line.split()).startswith(start))


def test_usable_model_passes(models: dict[str, str], answers: Path) -> None:
    good, out = shown(job(answers, {"rm": {"model": models["scalar"], **HELD}, "words": "no_refusal"}))
    assert good
    assert line(out, f"rm: {models['scalar']}")
    assert line(out, "ok end_of_turn")
    assert "none is longer than 2,048 tokens" in line(out, "ok too_long")
    assert "32 conversations of the rows" in line(out, "ok scores")
    assert "16 pairs within prompts" in line(out, "ok batching")
    assert out.rstrip().endswith("no failures, no warnings")
    assert not Path("nowhere").exists()


def test_models_inside_compositions_are_examined(models: dict[str, str], answers: Path) -> None:
    """Each is looked over, and what cannot work is not loaded."""
    gate = {"require": {"model": models["causal"], **HELD}, "then": {"model": models["scalar"], **HELD}}
    good, out = shown(job(answers, {"both": {"gate": gate}}))
    assert not good
    assert f"both.require: {models['causal']}" in out
    assert "has no score head" in line(out, "failure score_head")
    assert line(out, "warning engine not loaded")
    assert line(out, "ok scores")  # of the other
    assert out.rstrip().endswith("1 failure, 1 warning")


def test_square_brackets_are_text(models: dict[str, str], answers: Path) -> None:
    """A template's marks look like rich's markup."""
    template = "{% for m in messages %}[bold]{{ m['content'] }}<|im_end|>{% endfor %}"
    _, out = shown(job(answers, {"rm": {"model": models["causal"], **HELD, "chat_template": template}}))
    assert "[bold]It is two" in out


def test_shared_engine_is_loaded_once(models: dict[str, str], answers: Path) -> None:
    rm = {"model": models["scalar"], **HELD}
    _, out = shown(job(answers, {"a": rm, "between": "no_refusal", "b": {**rm, "activation": "sigmoid"}}))
    assert [name for name in ("a", "b") if f"\n{name}: {models['scalar']}" in "\n" + out] == ["a", "b"]
    loaded = [line for line in out.splitlines() if "loaded it in" in line]
    assert len(loaded) == 2
    assert "loaded it in 0 s" in loaded[1]


def test_job_without_models(answers: Path) -> None:
    good, out = shown(job(answers, {"words": "no_refusal"}))
    assert good
    assert "there is nothing to examine" in out


def test_mistake_in_job_is_one_line(models: dict[str, str], answers: Path) -> None:
    wrong = job(answers, {"rm": {"model": models["scalar"]}}, input={"path": str(answers), "columns": {"prompt": "q"}})
    with pytest.raises(UserError, match="no column 'q'"):
        shown(wrong)


# --- before a run -----------------------------------------------------------------------------------------------------


def checked(asked: Job) -> str:
    """What a run would say of its models."""
    dataset = plan_job_input(asked, list_job_input(asked), limit=None)
    prepared = fit_job(asked, dataset.schema)
    out = io.StringIO()
    check_models(prepared.needs.models, dataset, prepared.roles, Display(Console(file=out, width=400)))
    return out.getvalue()


def test_failed_check_stops_run_before_its_engines(models: dict[str, str], answers: Path) -> None:
    rewards = {
        "rm": {"model": models["scalar"], **HELD, "max_length": 99_999},
        "judge": {"model": models["causal"], **HELD, "outputs": ["score"]},
    }
    with pytest.raises(UserError) as refused:
        checked(job(answers, rewards))
    assert "model rm: max_length: 99,999 tokens" in str(refused.value)
    assert ". model judge: score_head: Qwen2ForCausalLM" in str(refused.value)


def test_run_names_warnings(models: dict[str, str], answers: Path) -> None:
    rm = {"model": models["scalar"], **HELD, "activation": "sigmoid"}
    assert checked(job(answers, {"rm": rm})) == "warning: model rm: activation; `rmbatch doctor` says more\n"
    assert checked(job(answers, {"words": "no_refusal"})) == ""


def test_too_long_rows_only_warn(models: dict[str, str], answers: Path) -> None:
    """The first rows may be others than those that reach a model behind a gate: they stop no run."""
    told = checked(job(answers, {"rm": {"model": models["scalar"], **HELD, "max_length": 8}}))
    assert told == "warning: model rm: too_long; `rmbatch doctor` says more\n"


def test_first_rows_come_from_several_files(tmp_path: Path) -> None:
    for number in range(5):
        path = tmp_path / "in" / f"{number}.parquet"
        path.parent.mkdir(exist_ok=True)
        rows = {"id": list(range(20)), "prompt": ["q"] * 20, "response": [f"{number}-{n}" for n in range(20)]}
        pq.write_table(pa.table(rows), path)
    asked = job(tmp_path / "in", {"words": "no_refusal"})
    dataset = plan_job_input(asked, list_job_input(asked), limit=None)
    view = read_conversations(dataset, guess_roles(dataset.schema))
    assert view.num_candidates == 64
    assert view.column("response")[-1].as_py() == "3-3"
    assert not view.has("id")  # only what conversations are made of is read
    assert read_conversations(dataset, guess_roles(dataset.schema), num_rows=1000).num_candidates == 100


def test_input_without_rows(models: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    table = pa.table({"prompt": pa.array([], pa.string()), "response": pa.array([], pa.string())})
    pq.write_table(table, tmp_path / "in" / "a.parquet")
    asked = job(tmp_path / "in", {"rm": {"model": models["scalar"], **HELD}})
    dataset = plan_job_input(asked, list_job_input(asked), limit=None)
    prepared = fit_job(asked, dataset.schema)
    found = cheap_findings(prepared.needs.models, dataset, prepared.roles)["rm"]
    assert [each.check for each in found if each.level != "ok"] == ["rows"]
    good, out = shown(asked)
    assert good
    assert "6 conversations of our own" in out
