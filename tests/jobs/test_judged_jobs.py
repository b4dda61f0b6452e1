"""Jobs whose judges are real servers that misbehave: no row lost, no default verdict, no answer paid for twice."""

import json
import random
import time
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import rmbatch
from connectors.errors import JobError, UserError
from jobs.config.job_types import parse_job
from rmbatch.endpoints.connections import close_all
from tests.chaos.victim import Victim
from tests.jobs.running import by, make_plan, rows, run
from tests.judging import Seen, answering, honest, judge_server, questions
from tests.servers.batch import BatchServer
from tests.servers.hostile import Cut, Deed, HostileServer, Json, Late, Reset, Stall, Status, Truncated

pytestmark = [pytest.mark.timeout(180), pytest.mark.usefixtures("no_client_stays")]
FILTERED = Json({"choices": [{"index": 0, "message": {"content": None}, "finish_reason": "content_filter"}]})


@pytest.fixture
def server() -> Iterator[HostileServer]:
    with judge_server(honest) as server:
        yield server


def samples(num_rows: int, candidates: int = 3) -> list[dict[str, Any]]:
    draw = random.Random(5)
    return [
        {"id": n, "prompt": f"Count {n}.", "responses": [f"is {draw.randrange(1, 10)}" for _ in range(candidates)]}
        for n in range(num_rows)
    ]


def job(tmp_path: Path, found: list[dict[str, Any]], judges: dict[str, Any], **others: Any) -> dict[str, Any]:
    path = tmp_path / "in.jsonl"
    if not path.exists():  # a changed input would be refused
        path.write_text("".join(json.dumps(sample) + "\n" for sample in found))
    return {
        "job": "score",
        "input": {"path": str(path)},
        "rewards": judges,
        "output": {"path": str(tmp_path / "out")},
        **others,
    }


def asks(server: HostileServer, kind: str = "pointwise", **settings: Any) -> dict[str, Any]:
    return {"judge": kind, "endpoint": server.url, "model": "judge", **settings}


def right(found: list[dict[str, Any]], name: str = "kind") -> bool:
    """Whether every response has the score that the honest judge gives, or none."""
    return all(
        score is None or score == int(response.rsplit(" ", 1)[-1])
        for row in found
        for score, response in zip(row[f"score.{name}"], row["responses"], strict=True)
    )


def test_every_kind_scores_in_job_as_by_itself(anywhere: str, server: HostileServer, tmp_path: Path) -> None:
    kinds = {
        "alone": asks(server),
        "pairs": asks(server, "pairwise", score="bradley_terry"),
        "list": asks(server, "listwise", score="ranking", n=2, temperature=0.5),
        "steps": asks(server, "stepwise"),
        "help": asks(server, "base_honesty_pointwise", reference=False),
    }
    found = samples(40)
    summary = run(job(tmp_path, found, kinds))
    written = by("id", rows(tmp_path / "out"))
    asked = len(questions(server))
    for name, settings in kinds.items():
        given = {key: value for key, value in settings.items() if key != "judge"}
        singly = rmbatch.judge(settings["judge"], **given).evaluate_batch(found)
        for row, results in zip(written, singly, strict=True):
            assert row[f"score.{name}"] == [result.score for result in results]  # type: ignore[union-attr]
            assert row[f"reason.{name}"] == [result.reason for result in results]  # type: ignore[union-attr]
    assert written[0]["score.pairs.consistency"] == [1.0] * 3
    assert written[0]["steps.steps"] == [[1.0]] * 3
    assert sum(told["answers"] for told in summary.judged.values()) == asked
    assert summary.judged["alone"]["prompt_tokens"] == 100 * summary.judged["alone"]["answers"]


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.chaos)])
def test_answered_requests_are_not_sent_again(anywhere: str, server: HostileServer, tmp_path: Path, seed: int) -> None:
    found = samples(120)
    texts = planned(server, found)
    draw = random.Random(seed)
    deeds: list[Deed] = [
        *(Status(429), Status(429, {"Retry-After": "1"}), Status(500), Status(503), Reset(), Cut(), Truncated()),
        *(Late(0.3), Stall(), Json({"choices": []}), Json({"hello": "world"}), Json(7), Status(408)),
    ]
    for text in texts:
        server.plan(text, *draw.choices(deeds, k=draw.choice([0, 0, 1, 1, 2])))
    filtered, refused = draw.sample(texts, 2)
    server._plans[filtered], server._plans[refused] = [FILTERED], [Status(400, body={"error": {"message": "too long"}})]
    run(job(tmp_path, found, {"kind": asks(server, timeout_s=3.0, give_up_s=60.0)}))
    written = by("id", rows(tmp_path / "out"))
    assert [row["id"] for row in written] == list(range(120))
    assert right(written)
    errors = [error for row in written for error in row["error.kind"] if error]
    codes = {error.split(":")[0] for error in errors}
    assert codes == {"refused_by_filter", "endpoint_refused"}
    assert all(
        (score is None) == bool(error) for row in written for score, error in zip(row["score.kind"], row["error.kind"])
    )
    for text in texts:
        assert server.seen[text].count("200") <= 1
        assert "200" not in server.seen[text][:-1]


def planned(server: HostileServer, found: list[dict[str, Any]]) -> list[str]:
    """The texts of all distinct questions that a job over these samples asks."""
    rmbatch.judge("pointwise", endpoint=server.url, model="judge").evaluate_batch(found)
    texts = list(dict.fromkeys(seen.text for seen in questions(server)))
    server.asked.clear()
    server.seen.clear()
    close_all()
    return texts


def test_one_of_two_servers_dies(anywhere: str, server: HostileServer, tmp_path: Path) -> None:
    with judge_server(honest) as other:
        other.always = Late(0.05)
        server.always = Late(0.05)
        settings = asks(server, in_flight=16)
        settings["endpoints"] = [settings.pop("endpoint"), other.url]
        found = samples(200)

        def dying(path: str, body: Any) -> Any:
            if len(questions(other)) == 100:
                other.always = Reset()
            return answering(honest)(path, body)

        other._answer = dying
        run(job(tmp_path, found, {"kind": settings}))
    written = rows(tmp_path / "out")
    assert len(written) == 200
    assert right(written)
    assert all(error is None for row in written for error in row["error.kind"])
    twice = [text for text in server.seen if server.seen[text].count("200") + other.seen[text].count("200") > 1]
    assert not [text for text in twice if not text.startswith("/")]


def test_job_stops_at_budget_and_continues_with_more(anywhere: str, server: HostileServer, tmp_path: Path) -> None:
    found = samples(100, candidates=1)
    price = {"input": 1000.0, "output": 1000.0}
    for row in found:
        row["responses"][0] = f"row {row['id']} is 5"
    poor = asks(server, budget={"requests": 40}, price=price, max_tokens=20)
    with pytest.raises(JobError, match=r"budget"):
        run(job(tmp_path, found, {"kind": poor}))
    assert len(questions(server)) == 40
    with pytest.raises(JobError, match=r"budget"):
        run(job(tmp_path, found, {"kind": poor}))  # the same command buys nothing more
    assert len(questions(server)) == 40
    run(job(tmp_path, found, {"kind": {**poor, "budget": {"requests": 1000}}}))
    texts = [seen.text for seen in questions(server)]
    assert len(texts) == len(set(texts)) == 100
    assert right(rows(tmp_path / "out"))


def test_equal_questions_are_asked_once(anywhere: str, server: HostileServer, tmp_path: Path) -> None:
    found = samples(30)
    kept = {"kind": asks(server, cache=str(tmp_path / "answers"))}
    run(job(tmp_path, found, kept))
    asked = len(questions(server))
    assert asked == len({seen.text for seen in questions(server)})
    again = job(tmp_path, found, kept)
    again["output"] = {"path": str(tmp_path / "other")}
    summary = run(again)
    assert len(questions(server)) == asked
    assert summary.judged["kind"]["answers"] == 0
    assert summary.judged["kind"]["saved_answers"] > 0
    assert right(rows(tmp_path / "other"))


def test_killed_job_asks_nothing_again(server: HostileServer, tmp_path: Path) -> None:
    """The whole command is killed, its Ray too; the same command then goes on."""
    server.always = Late(0.1)
    found = samples(300)
    for row in found:
        row["responses"] = [f"row {row['id']} {n} is {n + 1}" for n in range(3)]
    settings = {"run": {"cpus": 2, "block_rows": 20}, "job": "score"}
    file = tmp_path / "job.yaml"
    file.write_text(json.dumps({**job(tmp_path, found, {"kind": asks(server, in_flight=16)}), **settings}))
    with Victim(file) as victim:
        killed_when(victim, lambda: len(questions(server)) >= 250)
        assert len(questions(server)) < 900
        answered = {text for text, got in server.seen.items() if "200" in got and not text.startswith("/")}
        server.asked.clear()
        victim.start()
        assert victim.wait() == 0, victim.said()
    asked_again = {each.text for each in questions(server)} & answered
    assert len(asked_again) <= 16  # answered, but the process died before it had read them
    assert right(rows(tmp_path / "out"))
    assert len(rows(tmp_path / "out")) == 300


def killed_when(victim: Victim, is_time: Callable[[], object], timeout_s: float = 90) -> None:
    """A first run of a job that is killed in the middle, with all that it has started."""
    victim.start()
    deadline = time.monotonic() + timeout_s
    while not is_time() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert victim.kill_driver(), victim.said()
    for process in victim.processes():
        process.kill()
    victim.left_behind_s()
    assert is_time(), victim.said()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"judge": "pointwize"}, "did you mean 'pointwise'"),
        ({"scal": [1, 5]}, "scal: unknown key; did you mean 'scale'"),
        ({"orders": "both"}, "orders: unknown key; "),
        ({"scale": [5, 1]}, "scale: must begin below its end"),
        ({"principles": "helpfulnes"}, "did you mean 'helpfulness'"),
        ({"score": "violations"}, "needs principles that can be violated"),
        ({"template": "{{ response }}"}, "never shows {{ answer_format }}"),
        ({"template": "{{ response }} {{ tone }} {{ answer_format }}"}, "tone"),
        ({"budget": {"usd": 5}}, "write price"),
        ({"judge": "pairwise", "n": 3}, "3 samples of temperature 0 are the same"),
        ({"endpoint": "http://127.0.0.1:9"}, "no endpoint answers"),
        ({"reference": True}, "reference"),
    ],
)
def test_mistake_is_one_line_before_any_work(
    anywhere: str, server: HostileServer, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as error:
        run(job(tmp_path, samples(3), {"kind": {**asks(server), **settings}}))
    assert "\n" not in str(error.value)
    assert not questions(server)
    run(job(tmp_path, samples(3), {"kind": asks(server)}))  # the output is free for the mended job


@pytest.mark.parametrize(
    ("deed", "message"),
    [
        (Status(401, body={"error": {"message": "invalid token"}}), "401 invalid token"),
        (Status(403, body={"error": {"code": "insufficient_user_quota", "message": "用户额度不足"}}), "quota"),
        (Status(404, body={"error": {"message": "no such model"}}), "404 no such model"),
    ],
)
def test_error_of_every_request_stops_job(
    anywhere: str, server: HostileServer, tmp_path: Path, deed: Status, message: str
) -> None:
    found = samples(3)
    for text in planned(server, found):
        server.plan(text, deed)
    with pytest.raises(JobError, match=message):
        run(job(tmp_path, found, {"kind": asks(server)}))
    for plan in server._plans.values():
        plan.clear()
    run(job(tmp_path, found, {"kind": asks(server)}))
    assert right(rows(tmp_path / "out"))


def test_judge_behind_gate_gets_only_passing_rows(anywhere: str, server: HostileServer, tmp_path: Path) -> None:
    gate = {"gate": {"require": {"reward": "pattern_match", "pattern": "row"}, "then": asks(server), "otherwise": 0.0}}
    found = [{"id": 0, "prompt": "q", "responses": ["row is 4", "is 5"]}]
    run(job(tmp_path, found, {"kind": gate}))
    (row,) = rows(tmp_path / "out")
    assert row["score.kind"] == [4.0, 0.0]
    assert row["error.kind.then"][1].startswith("not_reached")
    assert len(questions(server)) == 1


def test_best_of_n_by_games(anywhere: str, server: HostileServer, tmp_path: Path) -> None:
    found = samples(10)
    asked = job(tmp_path, found, {"games": asks(server, "pairwise")}, select={"keep": 1})
    run({**asked, "job": "best_of_n"})
    for row in rows(tmp_path / "out"):
        best = max(int(text.split()[-1]) for text in row["responses"])
        assert int(row["select.response"].split()[-1]) == best
    with pytest.raises(
        UserError, match=r"select.by: no score is called 'games.consistence'; did you mean 'games.consist"
    ):
        run(
            {
                **asked,
                "job": "best_of_n",
                "select": {"by": "games.consistence"},
                "output": {"path": str(tmp_path / "o")},
            }
        )
    run({**asked, "job": "best_of_n", "select": {"by": "games.consistency"}, "output": {"path": str(tmp_path / "o")}})
    assert len(rows(tmp_path / "o")) > 0


def test_flat_rows_are_compared_within_group(anywhere: str, server: HostileServer, tmp_path: Path) -> None:
    flat = [
        {"key": sample["id"], "prompt": sample["prompt"], "response": response}
        for response_number in range(3)
        for sample in samples(12)
        for response in [sample["responses"][response_number]]
    ]
    asked = job(tmp_path, flat, {"games": asks(server, "listwise", score="ranking")})
    asked["input"]["group"] = {"by": "key"}
    run(asked)
    assert len(rows(tmp_path / "out")) == 36
    assert all(row["score.games"] is not None or "nothing" in row["error.games"] for row in rows(tmp_path / "out"))


def test_plan_of_flat_rows_knows_groups(server: HostileServer, tmp_path: Path) -> None:
    flat = [{"key": n % 4, "prompt": f"q {n % 4}", "response": f"is {n}"} for n in range(12)]
    asked = job(tmp_path, flat, {"games": asks(server, "pairwise")})
    asked["input"]["group"] = {"by": "key"}
    told = StringIO()
    make_plan(parse_job(asked, "test")).show(Console(file=told, width=200))
    assert "at least 24, 24 answers" in told.getvalue()


def test_failing_template_names_row_or_is_null(anywhere: str, server: HostileServer, tmp_path: Path) -> None:
    found = [{"id": n, "prompt": "q", "response": f"is {n}", "meta": {"k": n} if n else None} for n in range(3)]
    shown = "{{ meta.k + 1 }} <response-abcdef01>\n{{ response }}\n</response-abcdef01> {{ answer_format }}"
    kind = asks(server, template=shown)
    with pytest.raises(JobError, match=r"reward 'kind' raised TemplateFailed: UndefinedError.* on row 0 of"):
        run(job(tmp_path, found, {"kind": kind}))
    run(job(tmp_path, found, {"kind": kind}, run={"on_error": "null"}))
    written = by("id", rows(tmp_path / "out"))
    assert [row["score.kind"] for row in written] == [None, 1.0, 2.0]
    assert written[0]["error.kind"].startswith("reward_raised: TemplateFailed")


def test_changed_principles_are_named(anywhere: str, server: HostileServer, tmp_path: Path) -> None:
    principles = tmp_path / "mine.yaml"
    text = "topic: mine\nabout: What counts is tone.\nprinciples: [{text: Be kind.}]\n"
    principles.write_text(text)
    asked = job(tmp_path, samples(3), {"kind": asks(server, principles=f"file://{principles}")})
    run(asked)
    principles.write_text(text.replace("kind", "brief"))
    told = StringIO()
    run(asked, told)
    assert "warning: the principles of kind has changed" in told.getvalue()
    principles.unlink()
    run(asked)  # it is finished, and needs them no more


def test_plan_shows_first_question_and_asks_nothing(server: HostileServer, tmp_path: Path) -> None:
    told = StringIO()
    asked = job(tmp_path, samples(50), {"kind": asks(server, price={"input": 1.0, "output": 2.0}, max_tokens=100)})
    make_plan(parse_job(asked, "test")).show(Console(file=told, width=200))
    assert not server.asked
    assert "asks kind" in told.getvalue()
    assert "about 150" in told.getvalue()
    assert "You judge the last response" in told.getvalue()
    assert "not_asked" not in told.getvalue()  # columns of judges are left out of the first rows


def test_settings_of_requests_may_change_but_not_questions(
    anywhere: str, server: HostileServer, tmp_path: Path
) -> None:
    found = samples(5)
    run(job(tmp_path, found, {"kind": asks(server)}))
    run(job(tmp_path, found, {"kind": asks(server, in_flight=3, timeout_s=5.0)}))
    with pytest.raises(UserError, match=r"rewards\.kind\.temperature: 0\.0 -> 1\.0"):
        run(job(tmp_path, found, {"kind": asks(server, temperature=1.0)}))


def test_batches_of_killed_job_are_collected(tmp_path: Path) -> None:
    def answer(body: Any) -> Any:
        return answering(honest)("", body)

    with BatchServer(answer, lambda body: Seen(body).text) as server:
        server.is_held = True
        found = samples(60)
        settings = asks(server, batch={"poll_s": 0.2})
        file = tmp_path / "job.yaml"
        file.write_text(json.dumps({**job(tmp_path, found, {"kind": settings}), "run": {"cpus": 2}}))
        with Victim(file) as victim:
            killed_when(victim, lambda: server.batches)
            server.is_held = False
            victim.start()
            assert victim.wait() == 0, victim.said()
        assert set(server.computed.values()) == {1}
    assert right(rows(tmp_path / "out"))
