"""Judges the responses of a prompt two at a time, in both orders, and scores each by its games.

Each pair is asked once in each order, none with itself; equal responses tie without a question. A judge that prefers a
place contradicts itself, which is a tie: the part ``consistency`` says how often that was not so.
Source: Zheng et al., "Judging LLM-as-a-Judge", arXiv 2306.05685, on swapping places.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rmbatch.judges import form
from rmbatch.judges.asking import Question, Vote
from rmbatch.judges.games import Game, schedule, strengths
from rmbatch.judges.judged import Judge, Outcome, Parts, Plan, Responses, enough
from rmbatch.judges.listwise import ALONE, shuffled
from rmbatch.judges.spec import PairwiseSpec

CONSISTENCY = "consistency"
_VALUES = {"A": 1.0, "tie": 0.5, "B": 0.0}
_WORDS = {1.0: "won", 0.5: "tied", 0.0: "lost"}


@dataclass(frozen=True)
class _Pair:
    """Two responses of a prompt, by their places in the batch, and who is A in which order."""

    first: int
    second: int
    orders: tuple[bool, ...] = ()
    """For each time that it is asked: whether ``first`` is A. Empty: the texts are equal."""


@dataclass(frozen=True)
class _Played:
    """What a pair came to, as the first response sees it."""

    pair: _Pair
    result: float | None
    """None: it could not be judged."""
    agrees: bool | None
    """Whether both orders say the same; None where only one was asked, or one could not be read."""
    error: str | None = None
    said: tuple[str, ...] = ()
    """Of each order, what the judge said."""


def plan(judge: Judge, responses: Responses) -> Plan:
    """A question for each pair and order."""
    spec = judge.spec
    assert isinstance(spec, PairwiseSpec)
    asked = form.better_of_two(ties=spec.ties, critique=spec.critique)
    missing = [responses.missing(place) for place in range(len(responses))]
    groups: list[tuple[range, list[int], list[_Pair]]] = []
    questions: list[Question] = []
    for group in responses.groups():
        players = [place for place in group if missing[place] is None]
        if len(players) < 2:
            continue
        seen = responses.seen(players[0])
        games = schedule(len(players), spec.max_games, f"{spec.shuffle_seed} {seen['prompt']}")
        pairs = [_pair(spec, responses, players[one], players[other]) for one, other in games]
        for pair in pairs:
            seen = responses.seen(pair.first)
            for first_is_a in pair.orders:
                a, b = (pair.first, pair.second) if first_is_a else (pair.second, pair.first)
                shown = {"response_a": responses.responses[a], "response_b": responses.responses[b]}
                questions.append(judge.question(asked, seen, spec.n, **shown))
        groups.append((group, players, pairs))

    def outcomes(votes: list[list[Vote]]) -> Parts:
        scores, agreed = [why or ALONE for why in missing], [why or ALONE for why in missing]
        flat = iter(votes)
        for group, players, pairs in groups:
            played = [_played(spec, pair, [next(flat) for _ in pair.orders]) for pair in pairs]
            for place, score, consistency in _of_players(spec, group.start, players, played):
                scores[place], agreed[place] = score, consistency
        return {"": scores, CONSISTENCY: agreed}

    return Plan(questions, outcomes)


def _pair(spec: PairwiseSpec, responses: Responses, first: int, second: int) -> _Pair:
    one, other = str(responses.responses[first]), str(responses.responses[second])
    if one == other:
        return _Pair(first, second)
    if spec.orders == "both":
        return _Pair(first, second, (True, False))
    prompt = responses.seen(first)["prompt"]
    return _Pair(first, second, (shuffled([one, other], prompt, spec.shuffle_seed, 0)[0] == one,))


def _played(spec: PairwiseSpec, pair: _Pair, votes: Sequence[list[Vote]]) -> _Played:
    if not pair.orders:
        return _Played(pair, 0.5, None, said=("the responses are equal",))
    results: list[float] = []
    said: list[str] = []
    for first_is_a, some in zip(pair.orders, votes, strict=True):
        good, too_few = enough(some, spec.quorum)
        if too_few is not None:
            return _Played(pair, None, None, too_few.error, (*said, too_few.reason or ""))
        values = [_VALUES[vote.value] for vote in good]
        mean = sum(values) / len(values)
        result = 0.5 if mean == 0.5 else float(mean > 0.5)  # the majority, in which ties are half a vote for each
        results.append(result if first_is_a else 1 - result)
        said.append("\n".join(vote.said for vote in good))
    agrees = len(set(results)) == 1
    result = results[0] if agrees else 0.5
    return _Played(pair, result, agrees if len(results) > 1 else None, None, tuple(said))


def _of_players(
    spec: PairwiseSpec, start: int, players: Sequence[int], played: Sequence[_Played]
) -> list[tuple[int, Outcome, Outcome]]:
    """Place, score and consistency of each response of a prompt, whose responses begin at ``start``."""
    seats = {place: seat for seat, place in enumerate(players)}
    games = [
        Game(seats[each.pair.first], seats[each.pair.second], each.result) for each in played if each.result is not None
    ]
    outcomes = []
    for place, score in zip(players, strengths(games, len(players), spec.score)):
        mine = [each for each in played if place in (each.pair.first, each.pair.second)]
        reason = "\n\n".join(_told(place, start, each) for each in mine) or None
        if score is None:
            failed = next((each.error for each in mine if each.error), None)
            why = failed or "no_game: no pair with this response was played; raise max_games"
            outcomes.append((place, Outcome(error=why, reason=reason), Outcome(error=why)))
            continue
        twice = [each.agrees for each in mine if each.agrees is not None]
        once = Outcome(error="asked_once: no pair of this response was judged in both orders")
        outcomes.append((place, Outcome(score, reason=reason), Outcome(sum(twice) / len(twice)) if twice else once))
    return outcomes


def _told(place: int, start: int, game: _Played) -> str:
    """How a game went for one of its players, in words; responses of a prompt count from 0."""
    pair = game.pair
    is_first = place == pair.first
    other = (pair.second if is_first else pair.first) - start
    said = [
        f"[as {'A' if first_is_a == is_first else 'B'}] {text}" for first_is_a, text in zip(pair.orders, game.said)
    ] or list(game.said)
    if game.result is None:
        return "\n".join([f"against response {other} not judged: {game.error}", *said])
    result = game.result if is_first else 1 - game.result
    contradicted = "; the two orders contradict each other" if game.agrees is False else ""
    return "\n".join([f"{_WORDS[result]} against response {other}{contradicted}", *said])
