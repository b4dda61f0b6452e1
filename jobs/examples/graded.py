"""Shows the problems of ``problems.py`` to a suite: two solutions each, and which of them ends with the right answer.

suites: {preferences: {path: jobs/examples/data/problems.jsonl, as: jobs/examples/graded.py:graded}}
"""

import pyarrow as pa

ENDINGS = (r"The answer is $\boxed{{{}}}$.", r"Therefore the answer is \boxed{{{}}}.", "The final answer is ${}$.")


def graded(table: pa.Table) -> pa.Table:
    """The same rows in standard columns; subset: the kind of problem, by its first word."""
    rows = table.select(["question", "solution_a", "solution_b", "answer"]).to_pylist()
    solutions = [[row["solution_a"], row["solution_b"]] for row in rows]
    right = [
        [text is not None and text.endswith(tuple(each.format(row["answer"]) for each in ENDINGS)) for text in pair]
        for row, pair in zip(rows, solutions)
    ]
    return pa.table(
        {
            "id": table["id"],
            "prompt": table["question"],
            "responses": pa.array(solutions, pa.list_(pa.string())),
            "correct": pa.array(right, pa.list_(pa.bool_())),
            "reference": table["answer"],
            "subset": pa.array([row["question"].split()[0] for row in rows], pa.string()),
        }
    )
