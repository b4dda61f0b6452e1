"""Plans an input: cuts its files into units and finds the schema that holds all rows.

A format with footers (Parquet) is planned from them. JSONL has none, so all data is read once, in parallel: nothing
else tells the number of rows, where lines begin, and which types the values need. The plan keeps the result, so a
restart reads neither footers nor data.

Groups of adjacent rows (those of one prompt) are never cut. A border inside a group moves to the end of the group.

    dataset = plan_dataset(list_input(...), options, unit_bytes=64 << 20)
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from connectors.dataset import InputDataset
from connectors.errors import UserError
from connectors.formats.base import JsonlOptions, MapInOrder, PlanRequest, load_format
from connectors.listing import Listing
from connectors.storage import StorageOptions
from connectors.units import Unit


def plan_dataset(
    listing: Listing,
    options: StorageOptions,
    *,
    unit_bytes: int,
    limit: int | None = None,
    group_key: str | None = None,
    jsonl: JsonlOptions | None = None,
    run: MapInOrder[Any, Any] = map,
) -> InputDataset:
    """Plan an input. ``limit``: only so many rows. ``group_key``: a column; adjacent rows of one key stay together."""
    request = PlanRequest(options, unit_bytes, limit, group_key, jsonl or JsonlOptions(), run)
    planned = load_format(listing.format).plan(listing.files, request)
    if group_key is not None and group_key not in planned.schema.names:
        raise UserError(f"input.group.by names column {group_key!r}, the input has {', '.join(planned.schema.names)}")
    units = [unit for unit in planned.units if unit.num_rows]
    if limit is not None:
        units = _take_first_rows(units, limit)
    return InputDataset(
        listing.format,
        planned.schema,
        dict(enumerate(planned.files)),
        {index: replace(unit, index=index) for index, unit in enumerate(units)},
        options,
        request.jsonl.max_line_bytes,
        planned.mixed,
    )


def _take_first_rows(units: Sequence[Unit], limit: int) -> list[Unit]:
    kept = []
    for unit in units:
        if limit <= 0:
            break
        kept.append(unit if unit.num_rows <= limit else replace(unit, num_rows=limit))
        limit -= unit.num_rows
    return kept
