"""Compares two finished outputs of the same rows, or two scores of one: what changed, flips, tau, what is kept.

The candidates of both are joined by row and number on the disk of this machine (DuckDB), so memory stays flat.

    difference = compare_outputs("out/a/", "out/b/")
    difference = compare_outputs("out/a/", "out/a/", by_a="total", by_b="math")
    difference.plain()["scores"]["math"]["tau"]["mean"]
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from connectors.dataset import InputDataset
from connectors.errors import UserError
from connectors.faults import explain_errors
from connectors.storage import Folder, StorageOptions
from connectors.units import Range
from jobs.run.finished import guess_output_roles, keep_present, plan_output, read_manifest
from jobs.run.sampling import drop_unreadable
from jobs.show.diff import Difference, FlipExample
from jobs.show.display import Display
from rmbatch.inspection.score_changes import Flip, Largest, ScoreChanges, SelectionChanges
from rmbatch.rows.messages import combine_chunks, is_list
from rmbatch.rows.roles import Roles, flatten
from rmbatch.settings.extras import require
from rmbatch.settings.names import nearest
from rmbatch.stages.select import RANK

if TYPE_CHECKING:
    import duckdb

READ_ROWS = 2048
MIN_BLOCK = 50_000
"""Candidates that are compared at once, at least."""
MEMORY = "1GB"
"""Of the join; the rest is on disk."""
PARTS = ("data", "rejected")


def compare_outputs(
    a: str,
    b: str,
    *,
    by_a: str | None = None,
    by_b: str | None = None,
    on: str | None = None,
    limit: int = 5,
    options: StorageOptions | None = None,
    display: Display | None = None,
) -> Difference:
    """Compare two finished outputs. ``by_a``, ``by_b``: the score of each; with neither, all scores that both have.
    ``on``: the column that says which rows are the same; None: the one that plays the role of the id. ``limit``: how
    many flips are shown of each score. Raises UserError for outputs that cannot be compared."""
    require("inspect", "rmbatch diff")
    import duckdb

    display = display or Display()
    sides = (_Side.open(a, on, options), _Side.open(b, on, options))
    names = _match_scores(*sides, by_a, by_b)
    compares_kept = all(RANK in side.dataset.schema.names for side in sides) and sides[0].folder != sides[1].folder
    with TemporaryDirectory(prefix="rmbatch-diff-") as place, duckdb.connect(str(Path(place, "join.db"))) as db:
        db.execute(
            f"SET memory_limit = '{MEMORY}'; SET temp_directory = '{place}'; SET preserve_insertion_order = false"
        )
        for name, side, scores in zip("ab", sides, zip(*names)):
            with display.show_progress(f"read {name}", side.dataset.num_rows, "rows") as advance_to:
                _load(db, name, side, scores, advance_to)
        with display.show_step("joining the rows"):
            return _compare(db, sides, names, limit, compares_kept)


@dataclass(frozen=True)
class _Side:
    """One of the two outputs."""

    folder: Folder
    dataset: InputDataset
    roles: Roles
    key: str
    """The column that says which row it is."""
    group: str | None
    """The column that says which prompt a flat row belongs to. None: each row is a prompt."""

    @classmethod
    def open(cls, url: str, on: str | None, options: StorageOptions | None) -> "_Side":
        folder = Folder.open(url, options)
        with explain_errors(url):
            manifest, _ = read_manifest(folder)
            files = [f"{folder.url}/{file['path']}" for file in manifest["files"] if file["part"] in PARTS]
            if not files:
                raise UserError(f"{url} has no rows, so there is nothing to compare")
            dataset = plan_output(files, folder.options)
        settings = manifest["job"].get("input") or {}
        roles = guess_output_roles(dataset.schema, keep_present(settings.get("columns") or {}, dataset.schema))
        key = on or roles.id
        if key is None:
            raise UserError(f"{url}: no column plays the role of the id; name one with --on, which both outputs have")
        if key not in dataset.schema.names:
            raise UserError(f"--on {key}: {url} has no such column; {nearest(key, dataset.schema.names)}")
        if pa.types.is_nested(dataset.schema.field(key).type):
            raise UserError(f"--on {key}: it holds {dataset.schema.field(key).type}, and a key is a plain value")
        group = (settings.get("group") or {}).get("by") if roles.responses is None else None
        return cls(folder, dataset, roles, key, group if group in dataset.schema.names else None)

    @property
    def scores(self) -> list[str]:
        """The names of its scores."""
        return [name.removeprefix("score.") for name in self.dataset.schema.names if name.startswith("score.")]

    def tables(self, scores: Sequence[str]) -> Iterator[tuple[int, pa.Table]]:
        """Its candidates with these scores, and how many rows were read: prompt, candidate, text, rank, score0, …"""
        several = self.roles.responses if isinstance(self.roles.responses, tuple) else (self.roles.responses,)
        wanted = {self.key, self.group, RANK, self.roles.response, *several, *(f"score.{name}" for name in scores)}
        dataset = self.dataset.project([name for name in self.dataset.schema.names if name in wanted])
        done = 0
        for unit in dataset.units.values():
            for block in dataset.read(Range(unit.index, 0, unit.num_rows), READ_ROWS):
                done += block.num_rows
                yield done, self._candidates(drop_unreadable(block), scores)

    def _candidates(self, table: pa.Table, scores: Sequence[str]) -> pa.Table:
        keys = pc.cast(combine_chunks(table[self.key]), pa.large_string())
        view = flatten(table, self.roles)
        num = view.num_candidates
        texts = view.column("response") if view.has("response") else pa.nulls(num, pa.large_string())
        columns: dict[str, pa.Array] = {"text": texts, "rank": self._values(table, RANK, num, pa.int32())}
        columns |= {f"score{place}": self._values(table, f"score.{name}", num) for place, name in enumerate(scores)}
        if view.offsets is None:
            prompt = keys if self.group is None else pc.cast(combine_chunks(table[self.group]), pa.large_string())
            return pa.table({"prompt": pc.coalesce(prompt, keys), "candidate": keys, **columns})
        owner = np.repeat(np.arange(table.num_rows), np.diff(view.offsets))
        number = np.arange(num) - view.offsets[:-1][owner]
        return pa.table({"prompt": keys.take(pa.array(owner)), "candidate": pa.array(number), **columns})

    def _values(self, table: pa.Table, name: str, num: int, kind: pa.DataType | None = None) -> pa.Array:
        """The values of a column, one a candidate."""
        kind = kind or pa.float64()
        if name not in table.column_names:
            return pa.nulls(num, kind)
        values = combine_chunks(table[name])
        if is_list(values.type):
            values = values.flatten()
        if len(values) != num:
            raise UserError(f"{self.folder.url}: {name!r} has {len(values)} values for {num} responses of some rows")
        return pc.cast(values, kind)


def _match_scores(a: _Side, b: _Side, by_a: str | None, by_b: str | None) -> list[tuple[str, str]]:
    """The scores to compare, as pairs of names."""
    if by_a is None and by_b is None:
        found = [(name, name) for name in a.scores if name in b.scores]
        if not found:
            known = " and ".join(", ".join(side.scores) or "none" for side in (a, b))
            raise UserError(f"no score is in both outputs ({known}); name one of each with --by-a and --by-b")
        return found
    chosen = []
    for option, side, name in (("--by-a", a, by_a or by_b), ("--by-b", b, by_b or by_a)):
        assert name is not None
        name = name.removeprefix("score.")
        if name not in side.scores:
            raise UserError(f"{option} {name}: {side.folder.url} has no such score; {nearest(name, side.scores)}")
        chosen.append(name)
    return [(chosen[0], chosen[1])]


def _load(db: "duckdb.DuckDBPyConnection", name: str, side: _Side, scores: Sequence[str], advance_to: Any) -> None:
    """Bring the candidates of an output into a table of the database."""
    columns = ", ".join(f"score{place} DOUBLE" for place in range(len(scores)))
    kind = "VARCHAR" if side.roles.responses is None else "BIGINT"
    db.execute(f"CREATE TABLE {name} (prompt VARCHAR, candidate {kind}, text UBIGINT, rank INTEGER, {columns})")
    values = ", ".join(f"score{place}" for place in range(len(scores)))
    for done, table in side.tables(scores):
        db.register("block", table)
        db.execute(f"INSERT INTO {name} SELECT prompt, candidate, hash(text), rank, {values} FROM block")
        db.unregister("block")
        advance_to(done)
    twice = db.execute(
        f"SELECT prompt, candidate, count(*) FROM {name} WHERE candidate IS NOT NULL GROUP BY ALL HAVING count(*) > 1 "
        "LIMIT 1"
    ).fetchall()
    if twice:
        prompt, candidate, num = twice[0]
        value = prompt if kind == "BIGINT" else candidate
        raise UserError(
            f"{side.folder.url}: {num} rows have the {side.key} {value!r}, so it does not say which rows are the "
            "same; name another column with --on"
        )
    nulls = db.execute(f"SELECT count(*) FROM {name} WHERE candidate IS NULL OR prompt IS NULL").fetchall()
    if nulls[0][0]:
        raise UserError(f"{side.folder.url}: {nulls[0][0]} responses have no {side.key}; name another column with --on")


def _compare(
    db: "duckdb.DuckDBPyConnection",
    sides: Sequence[_Side],
    names: Sequence[tuple[str, str]],
    limit: int,
    compares_kept: bool,
) -> Difference:
    if (sides[0].roles.responses is None) != (sides[1].roles.responses is None):
        raise UserError("one output has a list of responses a row and the other one response a row; compare like ones")
    counts = {name: _count_only(db, *name) for name in (("a", "b"), ("b", "a"))}
    changes = {x if x == y else f"{x} -> {y}": ScoreChanges() for x, y in names}
    flips = {name: Largest(limit) for name in changes}
    kept, num, num_prompts, num_texts = SelectionChanges(), 0, 0, 0
    for block in _blocks(db, len(names)):
        offsets = _offsets(block)
        num, num_prompts = num + block.num_rows, num_prompts + len(offsets) - 1
        num_texts += pc.sum(block["other_text"]).as_py() or 0
        for place, name in enumerate(changes):
            a, b = (_floats(block[f"{side}{place}"]) for side in "ab")
            for flip in changes[name].add(a, b, offsets):
                if flips[name].wants(flip.size):
                    flips[name].add(flip.size, _example(flip, block, a, b))
        if compares_kept:
            rank_a, rank_b = (np.asarray(pc.fill_null(block[f"rank_{side}"], 0)).astype(np.int64) for side in "ab")
            kept.add(rank_a, rank_b, offsets)
    if not num:
        raise UserError(
            f"no row is in both outputs by the column {sides[0].key!r}; name another one with --on, which says which "
            "rows are the same"
        )
    return Difference(
        sides[0].folder.url,
        sides[1].folder.url,
        sides[0].key,
        {"both": num, "only_a": counts["a", "b"][0], "only_b": counts["b", "a"][0], "other_text": num_texts},
        {"both": num_prompts, "only_a": counts["a", "b"][1], "only_b": counts["b", "a"][1]},
        {name: each.plain() for name, each in changes.items()},
        kept.plain() if compares_kept else None,
        {name: each.items() for name, each in flips.items()},
    )


def _count_only(db: "duckdb.DuckDBPyConnection", one: str, other: str) -> tuple[int, int]:
    """The candidates and the prompts that only one output has."""
    found = []
    for columns in ("prompt, candidate", "prompt"):
        query = f"SELECT count(*) FROM (SELECT DISTINCT {columns} FROM {one}) ANTI JOIN {other} USING ({columns})"
        found.append(int(db.execute(query).fetchall()[0][0]))
    return found[0], found[1]


def _blocks(db: "duckdb.DuckDBPyConnection", num_scores: int) -> Iterator[pa.Table]:
    """The joined candidates in the order of prompts, in blocks of whole prompts."""
    scores = ", ".join(f"a.score{place} AS a{place}, b.score{place} AS b{place}" for place in range(num_scores))
    reader = db.sql(
        "SELECT prompt, candidate, a.rank AS rank_a, b.rank AS rank_b, "
        f"(a.text IS DISTINCT FROM b.text)::INTEGER AS other_text, {scores} "
        "FROM a JOIN b USING (prompt, candidate) ORDER BY prompt, candidate"
    ).to_arrow_reader(MIN_BLOCK)
    rest: list[pa.Table] = []
    for batch in reader:
        table = pa.concat_tables([*rest, pa.Table.from_batches([batch])]).combine_chunks()
        borders = _offsets(table)[1:-1]
        if not len(borders):
            rest = [table]
            continue
        last = int(borders[-1])
        yield table.slice(0, last).combine_chunks()
        rest = [table.slice(last)]
    if rest and rest[0].num_rows:
        yield rest[0].combine_chunks()


def _offsets(table: pa.Table) -> Any:
    """Where each prompt begins, and the end."""
    prompt = combine_chunks(table["prompt"])
    if len(prompt) == 0:
        return np.zeros(1, np.int64)
    differs = np.asarray(pc.not_equal(prompt.slice(1), prompt.slice(0, len(prompt) - 1)))
    return np.concatenate([[0], np.flatnonzero(differs) + 1, [len(prompt)]]).astype(np.int64)


def _floats(column: pa.ChunkedArray) -> Any:
    return np.asarray(combine_chunks(column).to_numpy(zero_copy_only=False), np.float64)


def _example(flip: Flip, block: pa.Table, a: Any, b: Any) -> FlipExample:
    one, other = flip.better, flip.worse
    prompt, candidates = block["prompt"][one].as_py(), [block["candidate"][each].as_py() for each in (one, other)]
    return FlipExample(
        prompt, candidates[0], candidates[1], (float(a[one]), float(a[other])), (float(b[one]), float(b[other]))
    )
