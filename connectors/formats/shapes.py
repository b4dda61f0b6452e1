"""What kinds of JSON values a column holds, counted, and the Arrow type that holds them unchanged.

A shape says of what kind a value is, at all depths. Shapes join to the shape of several values; the order and the
grouping do not matter, so a column's type never depends on where files, units or blocks are cut. A type is found only
at the end, from what was joined: false beside 0.5 has none, wherever the two met.

    shape_of({"a": [1, None]})                       # an object whose a is a list of integers
    type_of(join(shape_of(1), shape_of(0.5)))        # float64; None for text beside a number
    column.add(values); column.settle()              # the type, and how many rows it does not hold
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import chain
from typing import Any, NamedTuple

import pyarrow as pa

MAX_STRUCT_FIELDS = 512
"""An object with more different keys than this is a map, not a struct: kept as JSON text."""
MAX_DEPTH = 50
"""Parquet readers refuse schemas nested deeper than about 100 levels, and a list takes two: kept as JSON text."""
EXACT_IN_FLOAT = 2**53
MAX_SHAPES = 1000
"""A column with more different shapes has no kind that nearly all rows have; they are then no longer counted."""
MAX_ODD_SHARE = 0.01
"""A column keeps the type of nearly all its rows where at most this share of them has another kind of value."""

BOOLEAN, TEXT, INTEGER, NEGATIVE, LARGE, UNSIGNED, HUGE, NUMBER, LIST, OBJECT, MAP, DEEP = (
    1 << bit for bit in range(12)
)
"""What a shape is made of. INTEGER comes with NEGATIVE, LARGE (float64 does not hold it), UNSIGNED (int64 does not) and
HUGE (no integer type does). NUMBER is a fraction. MAP is an object with too many keys, DEEP is nested too deeply."""

_NAMES = ((BOOLEAN, "boolean"), (TEXT, "text"), (NUMBER, "number"), (INTEGER, "integer"), (LIST, "list"))


class Shape(NamedTuple):
    """The kinds of one or of several values."""

    kinds: int = 0
    """Flags; none for null."""
    fields: tuple[tuple[str, "Shape"], ...] = ()
    """Of objects: the keys, in the order in which they came, and their values."""
    items: "Shape | None" = None
    """Of lists: what all items join to; None where there was no list."""


NOTHING = Shape()
_LEAVES: dict[type, Shape] = {type(None): NOTHING, bool: Shape(BOOLEAN), str: Shape(TEXT), float: Shape(NUMBER)}
_LISTS = {kind: Shape(LIST, (), shape) for kind, shape in _LEAVES.items()}
_EMPTY_LIST = Shape(LIST, (), NOTHING)
_DEEP, _MAP = Shape(DEEP), Shape(OBJECT | MAP)
_known: dict[tuple[tuple[str, ...], tuple[type, ...]], Shape] = {}
"""Objects without integers and without anything nested, by their keys and types: most objects of a file are alike."""
MAX_KNOWN = 4096


def shape_of(value: Any, depth: int = 0) -> Shape:
    """The shape of a value that a JSON parser gave."""
    kind = type(value)
    leaf = _LEAVES.get(kind)
    if leaf is not None:
        return leaf
    if kind is int:
        return _shape_of_integer(value)
    if depth >= MAX_DEPTH:
        return _DEEP
    if kind is list:
        return _shape_of_list(value, depth)
    return _shape_of_object(value, depth)


def _shape_of_integer(value: int) -> Shape:
    kinds = INTEGER | (NEGATIVE if value < 0 else 0)
    if not -EXACT_IN_FLOAT <= value <= EXACT_IN_FLOAT:
        kinds |= LARGE
        if not -(2**63) <= value < 2**63:
            kinds |= UNSIGNED if 0 <= value < 2**64 else HUGE
    return Shape(kinds)


def _shape_of_list(values: list[Any], depth: int) -> Shape:
    kinds = set(map(type, values))
    if len(kinds) == 1 and (known := _LISTS.get(next(iter(kinds)))) is not None:
        return known
    if kinds == {int}:
        return Shape(LIST, (), reduce(join, map(_shape_of_integer, (min(values), max(values)))))
    shapes = dict.fromkeys(shape_of(value, depth + 1) for value in values)
    return Shape(LIST, (), reduce(join, shapes)) if shapes else _EMPTY_LIST


def _shape_of_object(value: dict[str, Any], depth: int) -> Shape:
    if len(value) > MAX_STRUCT_FIELDS:
        return _MAP
    signature = (tuple(value), tuple(map(type, value.values())))
    known = _known.get(signature)
    if known is not None:
        return known
    shape = Shape(OBJECT, tuple([(name, shape_of(item, depth + 1)) for name, item in value.items()]))
    if _LEAVES.keys() >= set(signature[1]) and len(_known) < MAX_KNOWN:
        _known[signature] = shape
    return shape


def join(left: Shape, right: Shape) -> Shape:
    """The shape of all values of both."""
    if left is right or left == right:
        return left
    kinds = left.kinds | right.kinds
    fields = left.fields or right.fields
    if left.fields and right.fields:
        merged = dict(left.fields)
        for name, shape in right.fields:
            merged[name] = join(merged[name], shape) if name in merged else shape
        fields = tuple(merged.items())
    if kinds & MAP or len(fields) > MAX_STRUCT_FIELDS:
        kinds, fields = kinds | MAP, ()
    items = left.items if right.items is None else right.items
    if left.items is not None and right.items is not None:
        items = join(left.items, right.items)
    return Shape(kinds, fields, items)


def _common_shape(values: Sequence[Any], depth: int = 0) -> Shape | None:
    """The shape that each of the values has (``shape_of`` gives it); None where it is not easily seen that they do."""
    kinds = set(map(type, values))
    if len(kinds) != 1 or depth >= MAX_DEPTH:
        return None
    kind = kinds.pop()
    if kind in _LEAVES:
        return _LEAVES[kind]
    if kind is int:
        return Shape(INTEGER) if min(values) >= 0 and max(values) <= EXACT_IN_FLOAT else None
    if kind is list:
        items = _common_shape(list(chain.from_iterable(values)), depth + 1) if all(values) else None
        return None if items is None else Shape(LIST, (), items)
    keys = set(map(tuple, values))
    if len(keys) > 1:
        return None
    fields = [(name, _common_shape([value[name] for value in values], depth + 1)) for name in keys.pop()]
    if len(fields) > MAX_STRUCT_FIELDS or any(shape is None for _, shape in fields):
        return None
    return Shape(OBJECT, tuple(fields))  # type: ignore[arg-type]


_ALL_INTEGERS = INTEGER | NEGATIVE | LARGE | UNSIGNED | HUGE


def type_of(shape: Shape) -> pa.DataType | None:
    """The Arrow type that holds all values of a shape unchanged; None where there is none."""
    kinds = shape.kinds
    if kinds in _SINGLE:
        return _SINGLE[kinds]
    if kinds & ~(_ALL_INTEGERS | NUMBER) == 0:
        return _number_type(kinds)
    if kinds == LIST:
        assert shape.items is not None
        item = type_of(shape.items)
        return None if item is None else pa.list_(item)
    if kinds == OBJECT:
        types = [(name, type_of(inner)) for name, inner in shape.fields]
        return None if any(kind is None for _, kind in types) else pa.struct(types)
    return None


_SINGLE = {0: pa.null(), BOOLEAN: pa.bool_(), TEXT: pa.string(), NUMBER: pa.float64()}


def _number_type(kinds: int) -> pa.DataType | None:
    if kinds & NUMBER:
        return None if kinds & (LARGE | UNSIGNED | HUGE) else pa.float64()
    if kinds & HUGE or (kinds & UNSIGNED and kinds & NEGATIVE):
        return None
    return pa.uint64() if kinds & UNSIGNED else pa.int64()


def fits_parquet(kind: pa.DataType) -> bool:
    """Whether Parquet can hold the type: it has no struct without fields."""
    if pa.types.is_struct(kind):
        return kind.num_fields > 0 and all(fits_parquet(item.type) for item in kind)
    return fits_parquet(kind.value_type) if pa.types.is_list(kind) else True


def holds(kind: pa.DataType, shape: Shape) -> bool:
    """Whether a type that ``type_of`` gave holds a value of this shape unchanged."""
    kinds = shape.kinds
    if kinds == 0:
        return True
    if pa.types.is_list(kind):
        return kinds == LIST and shape.items is not None and holds(kind.value_type, shape.items)
    if pa.types.is_struct(kind):
        if kinds != OBJECT:
            return False
        types = {item.name: item.type for item in kind}
        return all(name in types and holds(types[name], inner) for name, inner in shape.fields)
    return kinds & ~_HELD.get(kind, 0) == 0


_HELD = {
    pa.bool_(): BOOLEAN,
    pa.string(): TEXT,
    pa.int64(): INTEGER | NEGATIVE | LARGE,
    pa.uint64(): INTEGER | LARGE | UNSIGNED,
    pa.float64(): INTEGER | NEGATIVE | NUMBER,
}
_QUICK: dict[pa.DataType, type] = {pa.bool_(): bool, pa.string(): str, pa.float64(): float}


def odd_places(values: Sequence[Any], kind: pa.DataType) -> list[int]:
    """Where the values are that the type does not hold."""
    quick = _QUICK.get(kind)
    return [
        place
        for place, value in enumerate(values)
        if value is not None and type(value) is not quick and not holds(kind, shape_of(value))
    ]


@dataclass
class Column:
    """The values of one column, as far as they are known; nulls do not count."""

    whole: Shape = NOTHING
    """What all of them join to."""
    counts: Counter[Shape] | None = field(default_factory=Counter)
    """Rows by shape; None once there are too many different ones."""
    kinds: Counter[int] = field(default_factory=Counter)
    """Rows by the outermost kind."""

    def add(self, values: Sequence[Any]) -> None:
        """Take in values."""
        for shape, num_rows in _count(values).items():
            if self.counts is None or shape not in self.counts:
                self.whole = join(self.whole, shape)
            self.kinds[shape.kinds] += num_rows
            if self.counts is not None:
                self.counts[shape] += num_rows
        if self.counts is not None and len(self.counts) > MAX_SHAPES:
            self.counts = None

    def merge(self, other: "Column") -> None:
        """Take in another part's values, which come after these."""
        self.whole = join(self.whole, other.whole)
        self.kinds.update(other.kinds)
        if self.counts is not None and other.counts is not None:
            self.counts.update(other.counts)
        if self.counts is None or other.counts is None or len(self.counts) > MAX_SHAPES:
            self.counts = None

    def settle(self) -> "Settled":
        """The type of all rows; else that of nearly all rows; else none."""
        kind = type_of(self.whole)
        if kind is not None:
            return Settled(kind if fits_parquet(kind) else None, 0)
        if self.counts is None or _has_map(self.whole):
            return Settled(None, 0)
        most, odd = NOTHING, 0
        for shape, num_rows in sorted(self.counts.items(), key=lambda item: (-item[1], repr(item[0]))):
            joined = join(most, shape)
            if type_of(joined) is None:
                odd += num_rows
            else:
                most = joined
        kind = type_of(most)
        if kind is None or not fits_parquet(kind) or odd > MAX_ODD_SHARE * self.num_rows:
            return Settled(None, 0)
        return Settled(kind, odd)

    @property
    def num_rows(self) -> int:
        """Rows that hold a value."""
        return sum(self.kinds.values())

    def by_kind(self) -> dict[str, int]:
        """Rows by kind, in words, the most frequent first."""
        named: Counter[str] = Counter()
        for kinds, num_rows in self.kinds.items():
            named[next((name for flag, name in _NAMES if kinds & flag), "object")] += num_rows
        return dict(sorted(named.items(), key=lambda item: (-item[1], item[0])))


def _has_map(shape: Shape) -> bool:
    nested = [inner for _, inner in shape.fields] + ([shape.items] if shape.items else [])
    return bool(shape.kinds & MAP) or any(map(_has_map, nested))


class Settled(NamedTuple):
    """What a column's values come to."""

    kind: pa.DataType | None
    """None: no type holds nearly all of them."""
    odd: int
    """Rows that the type does not hold."""


def _count(values: Sequence[Any]) -> Counter[Shape]:
    """Values by shape, without nulls; values that are alike are counted together."""
    found: Counter[Shape] = Counter()
    for kind, number in Counter(map(type, values)).items():
        if kind in _LEAVES:
            found[_LEAVES[kind]] += number
            continue
        mine = values if number == len(values) else [value for value in values if type(value) is kind]
        common = _common_shape(mine)
        if common is None:
            found.update(map(shape_of, mine))
        else:
            found[common] += number
    found.pop(NOTHING, None)
    return found
