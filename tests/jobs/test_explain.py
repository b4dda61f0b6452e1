"""rmbatch explain: each row of real outputs is found in every way to name it, and its story is complete."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.editing import Told, correct_by_math, editor_server
from tests.jobs.commands import Command, mistake_of, write_jsonl
from tests.jobs.running import rows, run
from tests.servers.hostile import HostileServer

pytestmark = [pytest.mark.usefixtures("here"), pytest.mark.timeout(180)]

NESTED = [
    {"uid": "a", "question": "2+2", "candidates": ["It is 4", "It is 5", None], "answer": "4", "note": "easy"},
    {"uid": "b", "question": "1+2", "candidates": ["1", "2"], "answer": "3", "note": "hard"},
    {"uid": "c", "question": "9+2", "candidates": ["11"], "answer": "11", "note": None},
]
FLAT = [
    {"uid": f"{row['uid']}{place}", "group": row["uid"], "question": row["question"], "response": text}
    | {"answer": row["answer"]}
    for place in range(3)
    for row in NESTED
    for text in row["candidates"][place : place + 1]  # type: ignore[index]
]


def best_of_n(tmp_path: Path, **more: Any) -> str:
    """The output of a best-of-N job over the nested rows and a broken line."""
    write_jsonl(tmp_path / "in/a.jsonl", NESTED)
    with (tmp_path / "in/a.jsonl").open("a") as file:
        file.write('{"uid": "broken\n')
    job = {
        "job": "best_of_n",
        "input": {"path": str(tmp_path / "in")},
        "rewards": {"math": {"reward": "math_verify"}},
        "select": {"keep": 1, "min_score": 0.5},
        "output": {"path": str(tmp_path / "out")},
    }
    run(job | more)
    return str(tmp_path / "out")


def tell(rmbatch: Command, output: str, row: str, *options: str) -> dict[str, Any]:
    """The one row that a command tells."""
    outcome = rmbatch("explain", output, row, *options, "--json")
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out)
    assert found["num_found"] == 1
    told: dict[str, Any] = found["rows"][0]
    return told


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_a_row_has_one_story_however_it_is_named(tmp_path: Path, rmbatch: Command, form: str) -> None:
    output = best_of_n(tmp_path, output={"path": str(tmp_path / "out"), "format": form})
    told = tell(rmbatch, output, "a")
    assert told["origin"]["file"] == str(tmp_path / "in/a.jsonl")
    assert (told["origin"]["row"], told["origin"]["address"], told["part"]) == (0, "0:0", "data")
    for name in ("0:0", "a.jsonl#0", f"{tmp_path}/in/a.jsonl:0", f"{told['path']}#{told['index']}"):
        assert tell(rmbatch, output, name) == told
    assert tell(rmbatch, output, "a", "--id", "uid") == told
    story = told["story"]
    assert story["why"] == "response 0 of 3 has rank 1"
    assert (story["id"], story["prompt"], story["reference"]) == ("a", [{"role": "user", "content": "2+2"}], "4")
    first, second, third = story["candidates"]
    assert (first["text"], first["rank"], first["scores"]["math"]["score"]) == ("It is 4", 1, 1.0)
    assert second["reason"] == "below_min_score"
    assert second["meaning"] == "its score is under the limit (select.min_score: 0.5)"
    assert third["text"] is None
    assert third["scores"]["math"]["score"] is None
    assert third["scores"]["math"]["error"].startswith("missing_response")
    assert story["others"] == {"note": "easy"}


def test_a_rejected_row_says_why(tmp_path: Path, rmbatch: Command) -> None:
    told = tell(rmbatch, best_of_n(tmp_path), "b")
    assert (told["part"], told["story"]["outcome"]) == ("rejected", "rejected")
    assert told["story"]["why"] == "below_min_score: its score is under the limit (select.min_score: 0.5)"


def test_a_dead_letter_is_found_by_place_and_by_its_bytes(tmp_path: Path, rmbatch: Command) -> None:
    output = best_of_n(tmp_path)
    told = tell(rmbatch, output, "a.jsonl#3")
    assert told == tell(rmbatch, output, "0:3") == tell(rmbatch, output, "broken")
    assert (told["part"], told["story"]["others"]["line"]) == ("dead_letters", 4)
    assert told["story"]["why"].startswith(f"{told['story']['others']['code']}: ")
    assert told["story"]["others"]["raw"] == '{"uid": "broken'


def test_a_rejected_row_in_no_file_is_known_by_its_address(tmp_path: Path, rmbatch: Command) -> None:
    output = best_of_n(tmp_path, output={"path": str(tmp_path / "out"), "rejected": "drop"})
    told = tell(rmbatch, output, "0:1")
    assert (told["part"], told["path"]) == ("rejected", None)
    assert "output.rejected: drop" in told["story"]["why"]


def test_an_unknown_row_is_one_line_with_near_ids(tmp_path: Path, rmbatch: Command) -> None:
    output = best_of_n(tmp_path)
    write_jsonl(tmp_path / "in2/a.jsonl", [row | {"uid": f"problem-{n}"} for n, row in enumerate(NESTED)])
    other = best_of_n(tmp_path, input={"path": str(tmp_path / "in2")}, output={"path": str(tmp_path / "out2")})
    del other
    assert "near ones: problem-" in mistake_of(rmbatch("explain", str(tmp_path / "out2"), "problem-9"))
    assert "the first ids are" in mistake_of(rmbatch("explain", output, "zzzzzz"))
    assert "--id nope: the output has uid," in mistake_of(rmbatch("explain", output, "a", "--id", "nope"))
    assert "a.jsonl has no row 17" in mistake_of(rmbatch("explain", output, "a.jsonl#17"))
    assert "is no output with rows" in mistake_of(rmbatch("explain", str(tmp_path / "in"), "a"))
    assert "is a file" in mistake_of(rmbatch("explain", str(tmp_path / "in/a.jsonl"), "a"))


def test_flat_rows_show_all_responses_to_their_prompt(tmp_path: Path, rmbatch: Command) -> None:
    write_jsonl(tmp_path / "flat.jsonl", FLAT)
    output = best_of_n(tmp_path, input={"path": str(tmp_path / "flat.jsonl"), "group": {"by": "group"}})
    told = tell(rmbatch, output, "a1")
    assert (told["part"], told["story"]["candidates"][0]["reason"]) == ("rejected", "below_min_score")
    assert [(each["id"], each["rank"]) for each in told["siblings"]] == [("a0", 1), ("a1", None), ("a2", None)]
    assert tell(rmbatch, output, "a0")["story"]["why"] == "it has rank 1"
    assert told["origin"]["file"] is None  # its address is one of shuffled rows
    assert tell(rmbatch, output, told["origin"]["address"]) == told
    assert "were shuffled" in mistake_of(rmbatch("explain", output, "flat.jsonl#0"))
    shown = rmbatch("explain", output, "a1").out
    assert "all 3 responses to this prompt" in shown
    assert "a1  below_min_score; math 0 (this one)" in shown


def test_rows_are_followed_back_through_outputs(tmp_path: Path, rmbatch: Command) -> None:
    output = best_of_n(tmp_path)
    chosen = str(tmp_path / "chosen")
    run({"job": "select", "input": {"path": output}, "select": {"by": "math"}, "output": {"path": chosen}})
    told = tell(rmbatch, chosen, "c")
    assert told["origin"]["file"].startswith(f"{output}/data/")
    assert told["origin"]["before"] == tell(rmbatch, output, "c")["origin"]
    assert told["origin"]["before"]["file"] == str(tmp_path / "in/a.jsonl")


def test_many_rows_of_one_id_are_counted(tmp_path: Path, rmbatch: Command) -> None:
    write_jsonl(tmp_path / "many.jsonl", [NESTED[0]] * 12)
    output = best_of_n(tmp_path, input={"path": str(tmp_path / "many.jsonl")})
    found = json.loads(rmbatch("explain", output, "a", "--json").out)
    assert (found["num_found"], len(found["rows"])) == (12, 10)
    assert "12 rows match; the first 10 are shown" in rmbatch("explain", output, "a").out


def test_an_unfinished_output_tells_its_committed_rows(tmp_path: Path, rmbatch: Command) -> None:
    output = best_of_n(tmp_path)
    finished = tell(rmbatch, output, "a")
    (tmp_path / "out/_rmbatch/manifest.json").unlink()
    assert tell(rmbatch, output, "a") == finished
    for record in (tmp_path / "out/_rmbatch/commits").iterdir():
        record.unlink()
    assert "has no finished rows yet" in mistake_of(rmbatch("explain", output, "a"))
    assert "row 0:0 is not finished" in mistake_of(rmbatch("explain", output, "0:0"))


def test_the_terminal_has_80_columns_and_short_texts(
    tmp_path: Path, rmbatch: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = NESTED[0] | {"uid": "long", "candidates": ["It is 4. " * 200], "note": "[bold]no markup[/bold]"}
    write_jsonl(tmp_path / "long.jsonl", [long])
    output = best_of_n(tmp_path, input={"path": str(tmp_path / "long.jsonl")})
    monkeypatch.setenv("COLUMNS", "80")
    short, full = rmbatch("explain", output, "long").out, rmbatch("explain", output, "long", "--full").out
    assert max(len(line) for line in short.splitlines() if "/" not in line) <= 80
    assert "characters, --full shows them" in short
    assert short.count("It is 4.") < 60
    assert " ".join(full.split()).count("It is 4") == 200
    assert "[bold]no markup[/bold]" in short


def test_a_correction_shows_critiques_edits_and_their_changes(tmp_path: Path, rmbatch: Command) -> None:
    rows_in = [
        {"id": 0, "prompt": "Add 20 and 23.", "response": "The sum is 42", "answer": "43"},
        {"id": 1, "prompt": "Add 1 and 1.", "response": "It is 2", "answer": "2"},
    ]
    write_jsonl(tmp_path / "in.jsonl", rows_in)
    output = str(tmp_path / "out")

    def edit(told: Told) -> str:
        return "The sum is 43" if "44" in told.text else "The sum is 44"

    with editor_server(edit) as server:
        correct_by_math(tmp_path / "in.jsonl", output, server, stop={"patience": 2})
    told = tell(rmbatch, output, "0")
    assert told["story"]["why"] == "target: an edit was found that is good enough; stopped by target"
    assert told["story"]["correction"]["history"][2]["edits"][0]["decision"] == "accepted"
    shown = rmbatch("explain", output, "0").out
    assert "correction: target, score 0 -> 1" in shown
    first, second = shown.index("round 1"), shown.index("round 2")
    assert "not_better" in shown[first:second]
    assert "The sum is [-42-]{+44+}" in shown[first:second]
    assert "The sum is [-42-]{+43+}" in shown[second:]
    assert tell(rmbatch, output, "1")["story"]["why"] == "untouched: it was good enough, so it was not edited"


def test_generated_candidates_say_how_they_came_about(tmp_path: Path, rmbatch: Command) -> None:
    def answer(path: str, body: Any) -> Any:
        if body is None:
            return {"data": [{"id": "m"}]}
        message = {"role": "assistant", "content": "4"}
        usage = {"prompt_tokens": 12, "completion_tokens": 3}
        return {"choices": [{"index": 0, "message": message, "finish_reason": "length"}], "usage": usage}

    write_jsonl(tmp_path / "in.jsonl", [{"id": "g", "prompt": "2+2?"}])
    output = str(tmp_path / "out")
    with HostileServer(answer, lambda path, body: path) as server:
        generate = {"endpoint": server.url, "model": "m", "n": 2}
        job = {"job": "generate", "input": {"path": str(tmp_path / "in.jsonl")}, "generate": generate}
        run(job | {"output": {"path": output}})
    story = tell(rmbatch, output, "g")["story"]
    assert story["why"] == "a job of the kind generate keeps each row"
    assert [each["text"] for each in story["candidates"]] == ["4", "4"]
    assert story["candidates"][0]["generation"]["finish_reason"] == "length"
    assert rows(output)[0]["generation"][1]["seed"] == story["candidates"][1]["generation"]["seed"]
