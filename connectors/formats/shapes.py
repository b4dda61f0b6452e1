"""Counts the kinds of JSON values of a column, and finds the Arrow type that holds them unchanged.

A shape is the kind of a value, at all depths. Shapes of several values are joined, in any order and grouping, with the
same result. So a column's type does not depend on where files, units or blocks are cut. The type is chosen at the end,
from the joined shape. For example, false and 0.5 in one column have no common type, wherever they are.

    find_shape({"a": [1, None]})                        # an object whose a is a list of integers
    find_type(join(find_shape(1), find_shape(0.5)))     # float64; None for text beside a number
    column.add(values); column.choose_type()            # the type, and how many rows it does not hold
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import chain
from typing import Any, NamedTuple

import pyarrow as pa

MAX_STRUCT_FIELDS = 512
"""An object with more different keys than this is a map, not a struct. It is kept as JSON text."""
MAX_DEPTH = 50
"""Deeper values are kept as JSON text: Parquet readers refuse more than about 100 levels, and a list takes two."""
EXACT_IN_FLOAT = 2**53
MAX_SHAPES = 1000
"""Shapes of a column are counted up to this many. A column with more has no type that nearly all rows share."""
MAX_ODD_SHARE = 0.01
"""The largest share of odd rows with which a column still gets the type of the other rows."""

BOOLEAN, TEXT, INTEGER, NEGATIVE, LARGE, UNSIGNED, HUGE, NUMBER, LIST, OBJECT, MAP, DEEP = (
    1 << bit for bit in range(12)
)
"""The flags of a shape. NEGATIVE, LARGE (does not fit float64), UNSIGNED (does not fit int64) and HUGE (fits no integer
type) go with INTEGER. NUMBER is a fraction. MAP is an object with too many keys, DEEP is a value nested too deeply."""

_NAMES = ((BOOLEAN, "boolean"), (TEXT, "text"), (NUMBER, "number"), (INTEGER, "integer"), (LIST, "list"))


class Shape(NamedTuple):
    """The kinds of one or of several values."""

    kinds: int = 0
    """Flags. 0 for null."""
    fields: tuple[tuple[str, "Shape"], ...] = ()
    """For objects: the keys in order of appearance, and the shapes of their values."""
    items: "Shape | None" = None
    """For lists: the joined shape of all items. None: there was no list."""


NOTHING = Shape()
_LEAVES: dict[type, Shape] = {type(None): NOTHING, bool: Shape(BOOLEAN), str: Shape(TEXT), float: Shape(NUMBER)}
_LISTS = {kind: Shape(LIST, (), shape) for kind, shape in _LEAVES.items()}
_EMPTY_LIST = Shape(LIST, (), NOTHING)
_DEEP, _MAP = Shape(DEEP), Shape(OBJECT | MAP)
_known_shapes: dict[tuple[tuple[str, ...], tuple[type, ...]], Shape] = {}
"""A cache of the shapes of flat objects without integers, by keys and types. Most objects of a file are alike."""
MAX_KNOWN = 4096


def find_shape(value: Any, depth: int = 0) -> Shape:
    """Find the shape of a parsed JSON value."""
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
    shapes = dict.fromkeys(find_shape(value, depth + 1) for value in values)
    return Shape(LIST, (), reduce(join, shapes)) if shapes else _EMPTY_LIST


def _shape_of_object(value: dict[str, Any], depth: int) -> Shape:
    if len(value) > MAX_STRUCT_FIELDS:
        return _MAP
    signature = (tuple(value), tuple(map(type, value.values())))
    known = _known_shapes.get(signature)
    if known is not None:
        return known
    shape = Shape(OBJECT, tuple([(name, find_shape(item, depth + 1)) for name, item in value.items()]))
    if _LEAVES.keys() >= set(signature[1]) and len(_known_shapes) < MAX_KNOWN:
        _known_shapes[signature] = shape
    return shape


def join(left: Shape, right: Shape) -> Shape:
    """Join two shapes to the shape of all their values."""
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


def _find_common_shape(values: Sequence[Any], depth: int = 0) -> Shape | None:
    """Find the shape that all values have, faster than one by one. None: it is not certain that they have the same."""
    kinds = set(map(type, values))
    if len(kinds) != 1 or depth >= MAX_DEPTH:
        return None
    kind = kinds.pop()
    if kind in _LEAVES:
        return _LEAVES[kind]
    if kind is int:
        return Shape(INTEGER) if min(values) >= 0 and max(values) <= EXACT_IN_FLOAT else None
    if kind is list:
        items = _find_common_shape(list(chain.from_iterable(values)), depth + 1) if all(values) else None
        return None if items is None else Shape(LIST, (), items)
    keys = set(map(tuple, values))
    if len(keys) > 1:
        return None
    fields = [(name, _find_common_shape([value[name] for value in values], depth + 1)) for name in keys.pop()]
    if len(fields) > MAX_STRUCT_FIELDS or any(shape is None for _, shape in fields):
        return None
    return Shape(OBJECT, tuple(fields))  # type: ignore[arg-type]


_ALL_INTEGERS = INTEGER | NEGATIVE | LARGE | UNSIGNED | HUGE


def find_type(shape: Shape) -> pa.DataType | None:
    """Find the Arrow type that holds all values of a shape unchanged. None: there is none."""
    kinds = shape.kinds
    if kinds in _SINGLE:
        return _SINGLE[kinds]
    if kinds & ~(_ALL_INTEGERS | NUMBER) == 0:
        return _find_number_type(kinds)
    if kinds == LIST:
        assert shape.items is not None
        item = find_type(shape.items)
        return None if item is None else pa.list_(item)
    if kinds == OBJECT:
        types = [(name, find_type(inner)) for name, inner in shape.fields]
        return None if any(kind is None for _, kind in types) else pa.struct(types)
    return None


_SINGLE = {0: pa.null(), BOOLEAN: pa.bool_(), TEXT: pa.string(), NUMBER: pa.float64()}


def _find_number_type(kinds: int) -> pa.DataType | None:
    if kinds & NUMBER:
        return None if kinds & (LARGE | UNSIGNED | HUGE) else pa.float64()
    if kinds & HUGE or (kinds & UNSIGNED and kinds & NEGATIVE):
        return None
    return pa.uint64() if kinds & UNSIGNED else pa.int64()


def fits_parquet(kind: pa.DataType) -> bool:
    """Whether Parquet supports the type. It has no structs without fields."""
    if pa.types.is_struct(kind):
        return kind.num_fields > 0 and all(fits_parquet(item.type) for item in kind)
    return fits_parquet(kind.value_type) if pa.types.is_list(kind) else True


def can_hold(kind: pa.DataType, shape: Shape) -> bool:
    """Whether a type that ``find_type`` returned can hold a value of this shape unchanged."""
    kinds = shape.kinds
    if kinds == 0:
        return True
    if pa.types.is_list(kind):
        return kinds == LIST and shape.items is not None and can_hold(kind.value_type, shape.items)
    if pa.types.is_struct(kind):
        if kinds != OBJECT:
            return False
        types = {item.name: item.type for item in kind}
        return all(name in types and can_hold(types[name], inner) for name, inner in shape.fields)
    return kinds & ~_KINDS_BY_TYPE.get(kind, 0) == 0


_KINDS_BY_TYPE = {
    pa.bool_(): BOOLEAN,
    pa.string(): TEXT,
    pa.int64(): INTEGER | NEGATIVE | LARGE,
    pa.uint64(): INTEGER | LARGE | UNSIGNED,
    pa.float64(): INTEGER | NEGATIVE | NUMBER,
}
_QUICK: dict[pa.DataType, type] = {pa.bool_(): bool, pa.string(): str, pa.float64(): float}


def find_odd_places(values: Sequence[Any], kind: pa.DataType) -> list[int]:
    """Find the places of the values that the type cannot hold."""
    quick = _QUICK.get(kind)
    return [
        place
        for place, value in enumerate(values)
        if value is not None and type(value) is not quick and not can_hold(kind, find_shape(value))
    ]


@dataclass
class Column:
    """The shapes of the values of a column so far. Nulls do not count."""

    whole: Shape = NOTHING
    """The joined shape of all values."""
    counts: Counter[Shape] | None = field(default_factory=Counter)
    """Rows by shape. None: there are too many different shapes."""
    kinds: Counter[int] = field(default_factory=Counter)
    """Rows by the outermost kind, as flags."""

    def add(self, values: Sequence[Any]) -> None:
        """Add values."""
        for shape, num_rows in _count_shapes(values).items():
            if self.counts is None or shape not in self.counts:
                self.whole = join(self.whole, shape)
            self.kinds[shape.kinds] += num_rows
            if self.counts is not None:
                self.counts[shape] += num_rows
        if self.counts is not None and len(self.counts) > MAX_SHAPES:
            self.counts = None

    def merge(self, other: "Column") -> None:
        """Add the counts of another part of the input."""
        self.whole = join(self.whole, other.whole)
        self.kinds.update(other.kinds)
        if self.counts is not None and other.counts is not None:
            self.counts.update(other.counts)
        if self.counts is None or other.counts is None or len(self.counts) > MAX_SHAPES:
            self.counts = None

    def choose_type(self) -> "ChosenType":
        """Choose the type that holds all rows, or else nearly all rows, or else none."""
        kind = find_type(self.whole)
        if kind is not None:
            return ChosenType(kind if fits_parquet(kind) else None, 0)
        if self.counts is None or _has_map(self.whole):
            return ChosenType(None, 0)
        most, odd = NOTHING, 0
        for shape, num_rows in sorted(self.counts.items(), key=lambda item: (-item[1], repr(item[0]))):
            joined = join(most, shape)
            if find_type(joined) is None:
                odd += num_rows
            else:
                most = joined
        kind = find_type(most)
        if kind is None or not fits_parquet(kind) or odd > MAX_ODD_SHARE * self.num_rows:
            return ChosenType(None, 0)
        return ChosenType(kind, odd)

    @property
    def num_rows(self) -> int:
        """The number of rows with a value."""
        return sum(self.kinds.values())

    def by_kind(self) -> dict[str, int]:
        """Count rows by the name of their kind, the most frequent first."""
        named: Counter[str] = Counter()
        for kinds, num_rows in self.kinds.items():
            named[next((name for flag, name in _NAMES if kinds & flag), "object")] += num_rows
        return dict(sorted(named.items(), key=lambda item: (-item[1], item[0])))


def _has_map(shape: Shape) -> bool:
    nested = [inner for _, inner in shape.fields] + ([shape.items] if shape.items else [])
    return bool(shape.kinds & MAP) or any(map(_has_map, nested))


class ChosenType(NamedTuple):
    """The type that ``choose_type`` chose for a column."""

    kind: pa.DataType | None
    """None: no type holds nearly all values."""
    odd: int
    """The number of rows whose values the type cannot hold."""


def _count_shapes(values: Sequence[Any]) -> Counter[Shape]:
    """Count values by shape, without nulls. Values of one type are counted together where possible."""
    found: Counter[Shape] = Counter()
    for kind, number in Counter(map(type, values)).items():
        if kind in _LEAVES:
            found[_LEAVES[kind]] += number
            continue
        mine = values if number == len(values) else [value for value in values if type(value) is kind]
        common = _find_common_shape(mine)
        if common is None:
            found.update(map(find_shape, mine))
        else:
            found[common] += number
    found.pop(NOTHING, None)
    return found
