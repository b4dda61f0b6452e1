"""Why responses have no score: by score and code, from what the job has counted, or from the rows where it has not.

nulls = NullReasons(["error.math"])
nulls.add(table)
describe_nulls(tally, nulls)        # [{"score": "math", "of": 300, "code": "missing_response", "count": 14}]
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from rmbatch.rows.messages import combine_chunks, is_list, is_text
from rmbatch.stages.tally import Tally

ERROR = "error."


class NullReasons:
    """Codes of errors by score."""

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = list(columns)
        self.codes: dict[str, Counter[str]] = {name.removeprefix(ERROR): Counter() for name in columns}

    def add(self, table: pa.Table) -> None:
        """Add rows."""
        for column in self._columns:
            values = combine_chunks(table[column])
            values = (values.flatten() if is_list(values.type) else values).drop_null()
            if not len(values) or not is_text(values.type):
                continue
            codes = pc.list_element(pc.split_pattern(values, ":", max_splits=1), 0)
            counted = pc.value_counts(codes)
            found = dict(zip(counted.field("values").to_pylist(), counted.field("counts").to_pylist()))
            self.codes[column.removeprefix(ERROR)].update(found)


def describe_nulls(tally: Tally, counts: Mapping[str, Mapping[str, int]], rows: NullReasons) -> list[dict[str, Any]]:
    """A line for each score and code, as plain values. counts: of each score how many candidates have it and how many
    have not, by the rows. Of nulls that nothing explains the code is ``not_told``."""
    lines = []
    for name, own in counts.items():
        counted = name in tally.scored
        scored = tally.scored[name] if counted else own["count"]
        codes = dict(tally.nulls(name)) if counted else dict(rows.codes.get(name, Counter()).most_common())
        if not counted and own["nulls"] > sum(codes.values()):
            codes["not_told"] = own["nulls"] - sum(codes.values())
        total = scored + sum(codes.values())
        lines += [{"score": name, "of": total, "code": code, "count": count} for code, count in codes.items()]
    return lines
