"""Judges the responses of a prompt two at a time, in both orders, and scores each by its games.

Each pair is asked once in each order, none with itself; equal responses play as one and share their score. A judge that
prefers a place contradicts itself, which is a tie: the part ``consistency`` says how often that was not so. A response
of whose games half or more could not be judged has no score.
Source: Zheng et al., "Judging LLM-as-a-Judge", arXiv 2306.05685, on swapping places.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from rmbatch.judges import form
from rmbatch.judges.asking import Question, Vote
from rmbatch.judges.kinds.base import JudgeKind, Parts, Plan, QuestionWriter
from rmbatch.judges.kinds.games import Game, rate_candidates, schedule
from rmbatch.judges.kinds.order import shuffle_texts
from rmbatch.judges.kinds.outcomes import Outcome, check_quorum, without_comparison
from rmbatch.judges.kinds.responses import Responses
from rmbatch.settings.base import Finite, Positive

CONSISTENCY = "consistency"
_VALUES = {"A": 1.0, "tie": 0.5, "B": 0.0}
_WORDS = {1.0: "won", 0.5: "tied", 0.0: "lost"}


@dataclass(frozen=True)
class _Pair:
    """Two of a prompt's texts, by their numbers, and who is A in which order."""

    first: int
    second: int
    orders: tuple[bool, ...]
    """For each time that it is asked: whether the first is A."""


@dataclass(frozen=True)
class _Prompt:
    """The different texts that play for one prompt; their numbers have nothing to do with their places in the row."""

    places: range
    """Of its responses in the batch."""
    texts: list[str]
    pairs: list[_Pair]


@dataclass(frozen=True)
class _GameResult:
    """What a pair came to, as its first text sees it."""

    pair: _Pair
    result: float | None = None
    """None: it could not be judged."""
    agrees: bool | None = None
    """Whether both orders say the same; None where only one was asked, or one could not be read."""
    error: str | None = None
    said: tuple[str, ...] = ()
    """Of each order, what the judge said."""


class Pairwise(JudgeKind):
    """The responses of a prompt, two at a time; who wins how often is the score."""

    shows = (("response_a",), ("response_b",))
    compares = True
    part_names = MappingProxyType({"": ("reason",), CONSISTENCY: ()})

    judge: Literal["pairwise"] = "pairwise"
    orders: Literal["both", "one"] = "both"
    """both: each pair is judged twice, with the places changed; if the verdicts contradict, that is a tie. one: once,
    in an order by ``shuffle_seed``."""
    ties: bool = True
    """Whether the judge may call it a tie."""
    alone: Finite | None = None
    """The score of a response that has no other one to be compared with. None: no score."""
    score: Literal["win_rate", "copeland", "elo", "bradley_terry"] = "win_rate"
    """win_rate: share of games won, a tie is half. copeland: opponents beaten minus those lost to, over opponents, in
    [-1, 1]. elo: around 1500. bradley_terry: log strength, 0 on average; both of the latter for many candidates."""
    max_games: Positive | None = None
    """Pairs that are played for each prompt. None: all, n(n-1)/2 of them."""

    def plan(self, writer: QuestionWriter, responses: Responses) -> Plan:
        """A question for each pair and order."""
        asked = form.better_of_two(ties=self.ties, critique=self.critique)
        missing = [responses.find_missing(place) for place in range(len(responses))]
        prompts: list[_Prompt] = []
        questions: list[Question] = []
        for places in responses.places_by_prompt():
            there = {str(responses.responses[place]): place for place in places if missing[place] is None}
            if len(there) < 2:
                continue
            seen = responses.template_variables(next(iter(there.values())))
            texts = shuffle_texts(list(there), seen["prompt"], self.shuffle_seed, 0)
            prompt = _Prompt(places, texts, _schedule_pairs(self, texts, seen["prompt"]))
            prompts.append(prompt)
            for pair in prompt.pairs:
                both = [texts[pair.first], texts[pair.second]]
                for first_is_a in pair.orders:
                    a, b = both if first_is_a else both[::-1]
                    questions.append(writer.write(asked, seen, self.n, both, response_a=a, response_b=b))

        def outcomes(votes: list[list[Vote]]) -> Parts:
            scores = [why or without_comparison(self.alone) for why in missing]
            agreed = [why or without_comparison(None) for why in missing]
            flat = iter(votes)
            for prompt in prompts:
                played = [_decide_game(self, pair, [next(flat) for _ in pair.orders]) for pair in prompt.pairs]
                found = dict(zip(prompt.texts, _score_texts(self, prompt, played, responses), strict=True))
                for place in prompt.places:
                    if missing[place] is None:
                        scores[place], agreed[place] = found[str(responses.responses[place])]
            return {"": scores, CONSISTENCY: agreed}

        return Plan(questions, outcomes)


def _schedule_pairs(spec: Pairwise, texts: Sequence[str], prompt: str) -> list[_Pair]:
    """Who plays whom, and how often."""
    pairs = []
    for first, second in schedule(len(texts), spec.max_games, spec.shuffle_seed):
        if spec.orders == "both":
            orders: tuple[bool, ...] = (True, False)
        else:
            both = [texts[first], texts[second]]
            orders = (shuffle_texts(both, prompt, spec.shuffle_seed, 1)[0] == both[0],)
        pairs.append(_Pair(first, second, orders))
    return pairs


def _decide_game(spec: Pairwise, pair: _Pair, votes: Sequence[list[Vote]]) -> _GameResult:
    results: list[float] = []
    said: list[str] = []
    for first_is_a, some in zip(pair.orders, votes, strict=True):
        good, too_few = check_quorum(some, spec.quorum)
        if too_few is not None:
            return _GameResult(pair, error=too_few.error, said=(*said, too_few.reason or ""))
        values = [_VALUES[vote.value] for vote in good]
        mean = sum(values) / len(values)
        result = 0.5 if mean == 0.5 else float(mean > 0.5)  # the majority, in which ties are half a vote for each
        results.append(result if first_is_a else 1 - result)
        said.append("\n".join(filter(None, (vote.said for vote in good))))
    agrees = len(set(results)) == 1
    return _GameResult(pair, results[0] if agrees else 0.5, agrees if len(results) > 1 else None, said=tuple(said))


def _score_texts(
    spec: Pairwise, prompt: _Prompt, played: Sequence[_GameResult], responses: Responses
) -> Iterator[tuple[Outcome, Outcome]]:
    """Score and consistency of each text."""
    first_place = {str(responses.responses[place]): place - prompt.places.start for place in reversed(prompt.places)}
    numbers = [first_place[text] for text in prompt.texts]
    games = [Game(each.pair.first, each.pair.second, each.result) for each in played if each.result is not None]
    for text, score in enumerate(rate_candidates(games, len(prompt.texts), spec.score)):
        mine = [each for each in played if text in (each.pair.first, each.pair.second)]
        failed = [each.error for each in mine if each.error is not None]
        reason = "\n\n".join(_describe_game(text, numbers, each) for each in mine) or None
        if score is None or 2 * len(failed) >= len(mine):
            why = failed[0] if failed else "no_game: no pair with this response was played; raise max_games"
            yield Outcome(error=why, reason=reason), Outcome(error=why)
            continue
        twice = [each.agrees for each in mine if each.agrees is not None]
        once = Outcome(error="asked_once: no pair of this response was judged in both orders")
        yield Outcome(score, reason=reason), Outcome(sum(twice) / len(twice)) if twice else once


def _describe_game(text: int, numbers: Sequence[int], game: _GameResult) -> str:
    """How a game went for one of its players, in words; responses of a prompt count from 0."""
    pair = game.pair
    is_first = text == pair.first
    other = numbers[pair.second if is_first else pair.first]
    labels = ["A" if first_is_a == is_first else "B" for first_is_a in pair.orders]
    said = [f"[as {label}] {critique}" for label, critique in zip(labels, game.said) if critique]
    if game.result is None:
        return "\n".join([f"against response {other} not judged: {game.error}", *said])
    result = game.result if is_first else 1 - game.result
    contradicted = "; the two orders contradict each other" if game.agrees is False else ""
    return "\n".join([f"{_WORDS[result]} against response {other}{contradicted}", *said])
