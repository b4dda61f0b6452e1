"""The loop with editors and rewards that are drawn at random: what must hold whatever they do."""

from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from rmbatch.chat.client import ChatRequest
from rmbatch.chat.completion import Completion
from rmbatch.correction.history import Assessment, Attempt, Row
from rmbatch.correction.loop import Calls, Corrector, Preference, correct_rows
from rmbatch.correction.spec import CorrectSpec
from rmbatch.costs.prices import Usage
from rmbatch.endpoints.balancer import Failure

SCORES = st.one_of(st.none(), st.integers(-3, 3).map(float))
CORRECTION = st.fixed_dictionaries(
    {
        "rounds": st.integers(1, 4),
        "gate": st.fixed_dictionaries({"below": st.one_of(st.none(), st.just(2.0))}),
        "accept": st.fixed_dictionaries(
            {"margin": st.sampled_from([0.0, 0.5, 1.0]), "never_lower": st.sampled_from([(), ("hard",)])}
        ),
        "stop": st.fixed_dictionaries(
            {"patience": st.integers(1, 3), "tokens_per_row": st.one_of(st.none(), st.integers(1, 300))}
        ),
        "critics": st.sampled_from([None, (), ("hard",)]),
        "edits": st.integers(1, 3),
        "rewrite": st.sampled_from(["missing", "after_failure", "always"]),
    }
)


class World:
    """An editor that answers from a list, and rewards that know each text; counts what it is asked."""

    def __init__(self, said: Sequence[tuple[str | None, int | None]], truth: dict[str, Any]) -> None:
        self.said, self.truth = list(said), truth
        self.tokens, self.asked = 0, 0
        self.is_told = True
        self.waves: list[int] = []

    def ask(self, requests: list[ChatRequest]) -> list[Completion]:
        self.waves.append(len(requests))
        return [self._answer() for _ in requests]

    def _answer(self) -> Completion:
        text, tokens = self.said[self.asked % len(self.said)]
        self.asked += 1
        if text is None:
            return Completion(failure=Failure("endpoint_timeout", "too late"))
        self.is_told &= tokens is not None
        self.tokens += tokens or 0
        usage = None if tokens is None else Usage(tokens, 0)
        return Completion((text,), ("",), (text,), ("stop",), (None,), ((),), usage, endpoint="here")

    def assess(self, text: str) -> Assessment:
        score, hard = self.truth.get(text, (None, None))
        return Assessment(score, {"score": score, "hard": hard}, {"score": None if score is not None else "no: none"})

    def score(self, rows: Sequence[Row], texts: Sequence[str]) -> list[Assessment]:
        return [self.assess(text) for text in texts]


TEXTS = [f"text number {n}" for n in range(8)]
TRUTH = st.fixed_dictionaries({text: st.tuples(SCORES, SCORES) for text in TEXTS})
SAID = st.lists(
    st.tuples(st.one_of(st.none(), st.sampled_from(["", *TEXTS])), st.one_of(st.none(), st.integers(1, 90))),
    min_size=1,
    max_size=12,
)


@settings(max_examples=300, deadline=None)
@given(CORRECTION, TRUTH, SAID, st.lists(st.sampled_from(TEXTS), min_size=1, max_size=4), st.integers(0, 3))
def test_whatever_editors_and_rewards_do_no_row_gets_worse(
    drawn: dict[str, Any], truth: dict[str, Any], said: list[Any], firsts: list[str], likes: int
) -> None:
    drawn = dict(drawn)
    editor = {
        "endpoint": "http://127.0.0.1:9",
        "model": "m",
        "edits": drawn.pop("edits"),
        "rewrite": drawn.pop("rewrite"),
    }
    spec = CorrectSpec.model_validate({**drawn, "editor": editor})
    world = World(said, truth)

    def prefer(rows: Sequence[Row], pairs: Sequence[tuple[str, str]]) -> list[Preference]:
        verdicts = (Preference(True), Preference(False), Preference(None), Preference(None, is_verdict=False))
        return [verdicts[(len(second) + place + likes) % 4] for place, (_, second) in enumerate(pairs)]

    rows = [
        Row(
            place,
            [{"role": "user", "content": f"Say it, {place}."}],
            Attempt("first", text, 0, world.assess(text), "first"),
        )
        for place, text in enumerate(firsts)
    ]
    calls = Calls(world.ask, world.score, prefer=prefer if likes else None, prefer_held_out=prefer)
    correct_rows(rows, Corrector(spec, spec.names_of_critics(["score", "hard"]), ()), calls)

    for row in rows:
        assert row.stopped is not None
        assert len(row.rounds) <= spec.rounds
        assert row.best.text in [each.text for each in row.attempts]  # the output is in the history
        assert all(each.decision for each in row.attempts)
        best, hard = row.first.score, truth[row.first.text][1]
        for each in row.rounds:
            assert len([attempt for attempt in each.attempts if attempt.code == "accepted"]) <= 1
            if each.accepted is None:
                continue
            assert each.accepted.score is not None
            if best is not None:  # it never falls, and rises by more than the margin
                assert each.accepted.score > best + spec.accept.margin
            if spec.accept.never_lower and hard is not None:
                assert truth[str(each.accepted.text)][1] >= hard
            best, hard = each.accepted.score, truth[str(each.accepted.text)][1]
        assert row.best.score == best
    num_attempts = sum(len(each.attempts) for row in rows for each in row.rounds)
    assert num_attempts == world.asked
    assert sum(world.waves) == sum(spec.editor.edits * len(row.rounds) for row in rows)
    if world.is_told:
        assert sum(row.tokens or 0 for row in rows) == world.tokens  # each is counted once


def test_a_resumed_loop_asks_the_same() -> None:
    spec = CorrectSpec.model_validate({"editor": {"endpoint": "http://127.0.0.1:9", "model": "m", "edits": 2}})
    truth = {text: (float(n), None) for n, text in enumerate(TEXTS)}

    def ask_all() -> list[Any]:
        world = World([(text, 5) for text in TEXTS[1:]], truth)
        asked: list[ChatRequest] = []

        def ask(requests: list[ChatRequest]) -> list[Completion]:
            asked.extend(requests)
            return world.ask(requests)

        messages = [{"role": "user", "content": "Say it."}]
        row = Row(0, messages, Attempt("first", TEXTS[0], 0, world.assess(TEXTS[0]), "first"))
        correct_rows([row], Corrector(spec, ["score"], ()), Calls(ask, world.score))
        return [(each.messages, each.seed) for each in asked]

    first = ask_all()
    assert first == ask_all()
    assert len({seed for _, seed in first}) == len(first) == 6


def test_the_control_gets_plain_answers_for_about_as_many_tokens() -> None:
    """A token is four bytes of prompt, and each answer has 50."""
    editor = {"endpoint": "http://127.0.0.1:9", "model": "m", "edits": 2}
    spec = CorrectSpec.model_validate(
        {"control": {"share": 0.3}, "rounds": 2, "stop": {"patience": 2}, "editor": editor}
    )
    asked: list[ChatRequest] = []

    def ask(requests: list[ChatRequest]) -> list[Completion]:
        asked.extend(requests)
        return [
            Completion(
                (f"new {request.seed}",),
                *((("",),) * 2),
                ("stop",),
                (None,),
                ((),),
                Usage(len(request.messages[-1]["content"]) // 4, 50),
                endpoint="x",
            )
            for request in requests
        ]

    def score(rows: Sequence[Row], texts: Sequence[str]) -> list[Assessment]:
        return [Assessment(0.0, {"score": 0.0}) for _ in texts]

    def rows_of(num_rows: int) -> list[Row]:
        first = Assessment(0.0, {"score": 0.0})
        said = [[{"role": "user", "content": f"Say it, {n}. " + "And so on. " * 20}] for n in range(num_rows)]
        rows = [Row(n, messages, Attempt("first", "old", 0, first, "first")) for n, messages in enumerate(said)]
        for row in rows[:3]:
            row.is_control = True
        return rows

    rows = rows_of(10)
    correct_rows(rows, Corrector(spec, ["score"], ()), Calls(ask, score))
    used = {
        is_control: [row.tokens or 0 for row in rows if row.is_control is is_control] for is_control in (True, False)
    }
    mean = {is_control: sum(some) / len(some) for is_control, some in used.items()}
    assert 0.8 < mean[True] / mean[False] < 1.2
    plain = [each for each in asked if "You correct" not in each.messages[-1]["content"]]
    assert len(plain) > 3 * 2 * 2 * 2
    assert len({(each.messages[-1]["content"], each.seed) for each in plain}) == len(plain)
    about = {(next(n for n in range(10) if f"Say it, {n}." in str(each.messages)), each.affinity) for each in asked}
    assert len(about) == len({affinity for _, affinity in about}) == 10  # of each row one, for all that is asked
    assert {each.kind for row in rows[:3] for rnd in row.rounds for each in rnd.attempts} == {"sample"}
    alone = rows_of(1)
    correct_rows(alone, Corrector(spec, ["score"], ()), Calls(ask, score))
    assert alone[0].rounds == rows[0].rounds  # whatever other rows it meets


def test_the_control_of_answers_that_are_written_anew_costs_what_these_cost() -> None:
    """Whoever writes anew is not shown the old answer, however long that is."""
    editor = {"endpoint": "http://127.0.0.1:9", "model": "m", "rewrite": "always"}
    spec = CorrectSpec.model_validate({"control": {"share": 0.3}, "rounds": 1, "editor": editor})

    def ask(requests: list[ChatRequest]) -> list[Completion]:
        sizes = [len(request.messages[-1]["content"]) // 4 for request in requests]
        return [
            Completion((f"new {n}",), ("",), ("",), ("stop",), (None,), ((),), Usage(size, 50), endpoint="x")
            for n, size in enumerate(sizes)
        ]

    first = Attempt("first", "old " * 2000, 0, Assessment(0.0, {"score": 0.0}), "first")
    rows = [Row(n, [{"role": "user", "content": f"Say it, {n}. " + "And so on. " * 20}], first) for n in range(2)]
    rows[0].is_control = True
    correct_rows(rows, Corrector(spec, ["score"], ()), Calls(ask, lambda rows, texts: [Assessment(0.0)] * len(texts)))
    control, corrected = (row.tokens or 0 for row in rows)
    assert 0.6 < control / corrected < 1.4  # by whole samples
