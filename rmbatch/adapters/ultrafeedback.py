"""UltraFeedback (OpenBMB, MIT): four models' answers to each prompt, rated by GPT-4.

Source: hf://datasets/openbmb/UltraFeedback (arXiv 2310.01377). The binarised form is in ``pairs.py``.
"""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from rmbatch.adapters.base import reads
from rmbatch.adapters.columns import NUMBERS, TEXTS, number_of, read_plain, read_text, read_values, require_list
from rmbatch.adapters.split import prompt_ids
from rmbatch.rows.messages import prompt_messages, text_of

ASPECTS = ("instruction_following", "honesty", "truthfulness", "helpfulness")


@reads("instruction", "completions", optional=("source",))
def ultrafeedback(table: pa.Table) -> pa.Table:
    """UltraFeedback's four completions: ``labels`` are means of the ratings of four aspects, 1 to 5.

    ``fine-grained_score`` is that mean; where it is not there, it is computed of the ratings that are numbers ("N/A" is
    none). ``overall_scores`` is the rating of the critique, 1 to 10. Hundreds of its tens stand beside very negative
    critiques (argilla/ultrafeedback-binarized-preferences), so it is no label here. ``models`` names who answered.
    """
    require_list(table, "completions", "UltraFeedback's completions")
    rows = [value if isinstance(value, list) else None for value in read_values(table, "completions")]
    found = [None if row is None else [each if isinstance(each, Mapping) else {} for each in row] for row in rows]
    prompts = prompt_messages(read_text(table, "instruction"))

    def collect(read: Any, kind: pa.DataType) -> pa.Array:
        return pa.array([None if row is None else [read(each) for each in row] for row in found], kind)

    return pa.table(
        {
            "prompt": prompts,
            "prompt_id": prompt_ids(prompts),
            "responses": collect(lambda each: text_of(each.get("response")), TEXTS),
            "labels": collect(_rate, NUMBERS),
            "overall_scores": collect(lambda each: number_of(each.get("overall_score")), NUMBERS),
            "models": collect(lambda each: text_of(each.get("model")), TEXTS),
            "subset": read_plain(table, "source"),
        }
    )


def _rate(completion: Mapping[str, Any]) -> float | None:
    score = number_of(completion.get("fine-grained_score"))
    if score is not None:
        return score
    annotations = completion.get("annotations")
    ratings = [_rating_of(annotations.get(name)) for name in ASPECTS] if isinstance(annotations, Mapping) else []
    numbers = [each for each in ratings if each is not None]
    return sum(numbers) / len(numbers) if numbers else None


def _rating_of(annotation: Any) -> float | None:
    if isinstance(annotation, list):
        annotation = annotation[0] if annotation else None
    return number_of(annotation.get("Rating")) if isinstance(annotation, Mapping) else None
