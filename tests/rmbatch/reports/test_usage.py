"""What a job's models have used over all its runs: sums, curves that go on from run to run, money that is not known."""

import pytest

from rmbatch.costs.series import ModelUsage, UsageSeries
from rmbatch.reports.usage import ALL, MOST_CURVES, MOST_POINTS, OTHERS, describe_usage


def chat(answers: int, usd: float | None = None, **counts: int) -> ModelUsage:
    return ModelUsage("chat", "model", {"answers": answers, "prompt_tokens": 10 * answers, **counts}, usd)


def run_at(began: float, *points: tuple[float, dict[str, ModelUsage]]) -> UsageSeries:
    series = UsageSeries(began)
    for seconds, used in points:
        series.add(seconds, used)
    return series


def test_runs_add_up_and_curves_go_on_after_a_gap() -> None:
    first = run_at(1000.0, (10.0, {"judge": chat(1, 0.5)}), (20.0, {"judge": chat(3, 1.5)}))
    second = run_at(1100.0, (5.0, {"judge": chat(2, 1.0, saved_answers=3)}))
    found = describe_usage([second, first])  # files may be listed in any order
    assert found is not None
    assert (found["begun"], found["runs"], found["usd"]) == (1000.0, [[0.0, 20.0], [100.0, 105.0]], 2.5)
    judge = found["users"]["judge"]
    assert [judge[key] for key in ("answers", "saved_answers", "prompt_tokens", "usd")] == [5, 3, 50, 2.5]
    (curve,) = found["curves"]
    assert (curve["name"], curve["unit"]) == ("judge", "usd")
    assert curve["runs"] == [[[0.0, 0.0], [10.0, 0.5], [20.0, 1.5]], [[100.0, 1.5], [105.0, 2.5]]]


def test_user_without_a_price_has_a_curve_of_tokens_or_requests() -> None:
    silent = ModelUsage("chat", "model", {"answers": 4, "untold_answers": 4}, None)
    scorer = ModelUsage("reward_model", "rm", {"requests": 7, "tokens": 70, "stored": 2, "repeated": 1}, None)
    found = describe_usage(
        [run_at(0.0, (1.0, {"paid": chat(1, 0.5), "free": chat(2), "rm": scorer, "silent": silent}))]
    )
    assert found is not None
    ends = {each["name"]: (each["unit"], each["runs"][-1][-1][1]) for each in found["curves"]}
    assert ends == {"paid": ("usd", 0.5), "rm": ("tokens", 70), "free": ("tokens", 20), "silent": ("requests", 4)}
    assert found["usd"] == 0.5
    assert found["users"]["free"]["usd"] is None
    assert (found["users"]["rm"]["answers"], found["users"]["rm"]["saved_answers"]) == (7, 3)


def test_price_set_after_the_first_run_counts_what_it_missed() -> None:
    found = describe_usage([run_at(0.0, (1.0, {"judge": chat(2)})), run_at(9.0, (1.0, {"judge": chat(1, 0.5)}))])
    assert found is not None
    assert (found["usd"], found["users"]["judge"]["unpriced_tokens"]) == (0.5, 20)


def test_sum_and_small_users_are_curves_of_their_own() -> None:
    used = {f"judge{number}": chat(1, usd=float(number)) for number in range(1, 10)}
    found = describe_usage([run_at(0.0, (1.0, used)), run_at(5.0, (1.0, used))])
    assert found is not None
    ends = {each["name"]: each["runs"][-1][-1][1] for each in found["curves"]}
    assert list(ends) == [ALL, *(f"judge{number}" for number in range(9, 9 - MOST_CURVES, -1)), OTHERS]
    assert ends[ALL] == 2 * sum(range(1, 10))
    assert ends[OTHERS] == 2 * (1 + 2 + 3 + 4)


def test_curves_of_many_long_runs_have_few_points() -> None:
    runs = [run_at(1000.0 * n, *((float(s), {"judge": chat(s, s / 8)}) for s in range(1, 400))) for n in range(40)]
    found = describe_usage(runs)
    assert found is not None
    (curve,) = found["curves"]
    assert sum(len(piece) for piece in curve["runs"]) <= MOST_POINTS
    assert curve["runs"][-1][-1][1] == pytest.approx(40 * 399 / 8)


def test_no_usage_is_nothing() -> None:
    assert describe_usage([]) is None
    assert describe_usage([UsageSeries(0.0)]) is None
