"""Plans an input: how its files are cut into units, and which schema holds all of their rows.

What has a footer is planned from it. What has none (JSONL) is read once, in parallel, because nothing but reading tells
how many rows there are, where lines begin and which types their values need. What was found is kept in the plan: a
restart reads neither footers nor data.

Adjacent groups (rows of one prompt standing next to each other) are never cut: a border that falls inside a group moves
to the group's end.

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
    """The planned input. ``limit``: only the first rows. ``group_key``: a column whose equal neighbours stay whole."""
    request = PlanRequest(options, unit_bytes, limit, group_key, jsonl or JsonlOptions(), run)
    planned = load_format(listing.format).plan(listing.files, request)
    if group_key is not None and group_key not in planned.schema.names:
        raise UserError(f"input.group.by names column {group_key!r}, the input has {', '.join(planned.schema.names)}")
    units = [unit for unit in planned.units if unit.num_rows]
    if limit is not None:
        units = _first_rows(units, limit)
    return InputDataset(
        listing.format,
        planned.schema,
        dict(enumerate(planned.files)),
        {index: replace(unit, index=index) for index, unit in enumerate(units)},
        options,
        request.jsonl.max_line_bytes,
        planned.mixed,
    )


def _first_rows(units: Sequence[Unit], limit: int) -> list[Unit]:
    kept = []
    for unit in units:
        if limit <= 0:
            break
        kept.append(unit if unit.num_rows <= limit else replace(unit, num_rows=limit))
        limit -= unit.num_rows
    return kept
