"""Makes the small sets that the example jobs read: school maths problems with solutions, some of them wrong.

The files stand in ``jobs/examples/data``, so every example runs from a clone as it is; this module makes them again.

    python -m jobs.examples.problems                 # the same bytes as in the repository
    python -m jobs.examples.problems FOLDER 10000    # as many problems as one likes
"""

import random
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from math import comb, gcd
from pathlib import Path
from typing import Any, NamedTuple

import orjson

DATA = Path(__file__).with_name("data")
NUM_PROBLEMS = 150
SEED = 11


class Problem(NamedTuple):
    """A question, the steps that solve it, the answer, and the answer of somebody who slips in the last step."""

    question: str
    steps: list[str]
    answer: str
    slip: str


def discount(chance: random.Random) -> Problem:
    """Percentages."""
    price, percent, many = 20 * chance.randint(2, 15), 5 * chance.randint(1, 9), chance.randint(2, 6)
    reduced = Fraction(price * (100 - percent), 100)
    return Problem(
        f"A jacket costs ${price}. A shop takes {percent}% off. What do {many} jackets cost together, in dollars?",
        [
            f"{percent}% of ${price} is ${_decimal(Fraction(price * percent, 100))}.",
            f"One jacket then costs ${_decimal(reduced)}.",
            f"{many} jackets cost {many} times as much.",
        ],
        _decimal(many * reduced),
        _decimal(many * price - Fraction(price * percent, 100)),
    )


def journey(chance: random.Random) -> Problem:
    """Distance and speed."""
    slow, hours, more = 10 * chance.randint(3, 6), chance.randint(2, 4), 10 * chance.randint(1, 4)
    distance = slow * hours + (slow + more) * (hours + 1)
    return Problem(
        f"A train goes {slow} km/h for {hours} hours, and then {more} km/h faster for {hours + 1} hours. "
        "How many kilometres does it travel?",
        [
            f"At first it travels {slow} * {hours} = {slow * hours} km.",
            f"Its speed is then {slow} + {more} = {slow + more} km/h.",
            f"It travels {slow + more} * {hours + 1} = {(slow + more) * (hours + 1)} km more.",
        ],
        str(distance),
        str(slow * hours + more * (hours + 1)),
    )


def fractions(chance: random.Random) -> Problem:
    """A sum of fractions, answered as a fraction."""
    first, second = (Fraction(chance.randint(1, 7), chance.choice([4, 6, 8, 9, 12])) for _ in "ab")
    total = first + second
    wrong = Fraction(first.numerator + second.numerator, first.denominator + second.denominator)
    return Problem(
        rf"Compute ${_tex(first)} + {_tex(second)}$. Give a fraction in lowest terms.",
        [
            f"A common denominator is {first.denominator * second.denominator}.",
            "Bring both to it, and add the numerators.",
            "Divide numerator and denominator by what they share.",
        ],
        _tex(total),
        _tex(wrong),
    )


def roots(chance: random.Random) -> Problem:
    """A quadratic equation; the answer is a set."""
    low, high = chance.randint(-9, -5), chance.randint(1, 3)
    return Problem(
        f"Find all real $x$ with $x^2 + {-(low + high)}x - {-low * high} = 0$.",
        [
            f"We look for two numbers with sum {low + high} and product {low * high}.",
            f"These are {low} and {high}.",
            "Each of them makes one factor zero.",
        ],
        rf"\{{{low}, {high}\}}",
        rf"\{{{-high}, {-low}\}}",
    )


def handshakes(chance: random.Random) -> Problem:
    """Combinations."""
    many, chosen = chance.randint(6, 12), chance.randint(2, 4)
    return Problem(
        f"In how many ways can a club of {many} people choose a committee of {chosen}?",
        [
            "The order within a committee does not matter.",
            f"So we count the subsets of size {chosen} among {many} people.",
            rf"That is $\binom{{{many}}}{{{chosen}}}$.",
        ],
        str(comb(many, chosen)),
        str(many * chosen),
    )


def tiles(chance: random.Random) -> Problem:
    """The greatest common divisor."""
    side, wide, high = chance.randint(2, 12), chance.randint(2, 9), chance.randint(2, 9)
    largest = gcd(side * wide, side * high)
    return Problem(
        f"A floor measures {side * wide} by {side * high} feet. What is the largest side, in feet, of equal square "
        "tiles that cover it without cutting?",
        [
            f"The side has to divide both {side * wide} and {side * high}.",
            "The largest such number is the greatest common divisor.",
            f"Euclid's algorithm gives {largest}.",
        ],
        str(largest),
        str(largest * 2),
    )


KINDS: tuple[Callable[[random.Random], Problem], ...] = (discount, journey, fractions, roots, handshakes, tiles)
ENDINGS = (r"The answer is $\boxed{{{}}}$.", r"Therefore the answer is \boxed{{{}}}.", "The final answer is ${}$.")


def problems(num_problems: int, chance: random.Random) -> Iterator[dict[str, Any]]:
    """Rows with a problem, two solutions of which one may be wrong or empty, and the answer."""
    for number in range(num_problems):
        made = KINDS[number % len(KINDS)](chance)
        right, wrong = _solution(made, made.answer, chance), _solution(made, made.slip, chance)
        several = [right, chance.choices([wrong, right.replace("\n", " "), None], [6, 3, 1])[0]]
        chance.shuffle(several)
        yield {
            "id": f"problem-{number:04}",
            "question": made.question,
            "solution_a": several[0],
            "solution_b": several[1],
            "answer": made.answer,
        }


def preferences(num_problems: int, chance: random.Random) -> Iterator[dict[str, Any]]:
    """Rows with a question, the solution that was preferred (worked out) and the one that was not."""
    for number in range(num_problems):
        made = KINDS[number % len(KINDS)](chance)
        curt = ENDINGS[0].format(made.answer if number % 3 == 0 else made.slip)
        yield {"question": made.question, "chosen": _solution(made, made.answer, chance), "rejected": curt}


def dialogues(num_problems: int, chance: random.Random) -> Iterator[dict[str, Any]]:
    """Pairs of dialogues as Anthropic writes them: the last answer is right in one of them, and wrong in the other.

    Every third one goes on after the answer, and stands once for each of its answers.
    """
    for number in range(num_problems):
        made = KINDS[number % len(KINDS)](chance)
        begun = f"\n\nHuman: {made.question}\n\nAssistant:"
        right, wrong = _solution(made, made.answer, chance), _solution(made, made.slip, chance)
        yield {"chosen": f"{begun} {right}", "rejected": f"{begun} {wrong}"}
        if number % 3 == 0:
            begun = f"{begun} {wrong}\n\nHuman: Are you sure?\n\nAssistant:"
            yield {"chosen": f"{begun} No. {right}", "rejected": f"{begun} Yes. {wrong}"}


def rollouts(num_problems: int, chance: random.Random) -> Iterator[dict[str, Any]]:
    """Rows with one response each; those of a prompt are scattered."""
    rows = []
    for number in range(num_problems // 3):
        made = KINDS[number % len(KINDS)](chance)
        for answer in (made.answer, made.slip, made.answer):
            messages = [{"role": "user", "content": made.question}]
            completion = _solution(made, answer, chance)
            rows.append({"prompt_id": number, "messages": messages, "completion": completion, "answer": made.answer})
    chance.shuffle(rows)
    yield from rows


def _solution(made: Problem, answer: str, chance: random.Random) -> str:
    steps = made.steps if chance.random() < 0.7 else made.steps[1:]
    return "\n".join([*steps, chance.choice(ENDINGS).format(answer)])


def _tex(number: Fraction) -> str:
    whole = number.denominator == 1
    return str(number.numerator) if whole else rf"\frac{{{number.numerator}}}{{{number.denominator}}}"


def _decimal(number: Fraction) -> str:
    return str(number.numerator) if number.denominator == 1 else f"{float(number):.2f}"


def main(folder: str = str(DATA), num_problems: str = str(NUM_PROBLEMS)) -> None:
    """Write all sets."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    for make in (problems, preferences, rollouts, dialogues):
        rows = make(int(num_problems), random.Random(SEED))
        file = Path(folder) / f"{make.__name__}.jsonl"
        file.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))


if __name__ == "__main__":
    main(*sys.argv[1:])
