"""Counts the quotation marks that a decoded request accounts for, to notice what msgspec passed by.

msgspec ignores unknown fields and lets the last of two equal keys win. In a body without a
backslash each field that was decoded stands for two quotation marks, and two more when its value
is a text. Anything else in the body (an unknown field, a repeated key, a null, an empty list) only
adds to that, so a body with exactly that many holds nothing but what was decoded.
"""

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

import msgspec
from msgspec import inspect

from api.values import Description, FieldDescription, description_of

Count = Callable[[Any, int], int]
"""Takes a decoded list or Struct and the count that would explain everything; gives what it
accounts for, and stops counting as soon as that is reached."""

CountMany = Callable[[Sequence[msgspec.Struct], int], int]
"""The same for many Structs of one type."""


def quote_counter(description: Description) -> Callable[[msgspec.Struct, int], bool] | None:
    """A test whether a decoded Struct accounts for this many quotation marks.

    None when the Struct has fields that only the exact path converts.
    """
    count = _count_many(description)
    if count is None:
        return None
    return lambda found, quotes: count((found,), quotes) == quotes


def _count_many(description: Description) -> CountMany | None:
    """Column by column, so that a thousand metrics are counted in a few list operations."""
    fixed = 0
    columns: list[tuple[attrgetter[Any], int, Count | None]] = []
    for field in description.fields:
        if not field.is_exact:
            return None
        if isinstance(field.kind, inspect.ListType | inspect.StructType):
            count = _count_value(field.kind)
            if count is None:
                return None
            columns.append((attrgetter(field.name), 2, count))
        elif field.required:
            fixed += _scalar_quotes(field)
        else:
            columns.append((attrgetter(field.name), _scalar_quotes(field), None))

    def count_many(structs: Sequence[msgspec.Struct], quotes: int) -> int:
        total = fixed * len(structs)
        for get, each, count in columns:
            if total >= quotes:
                break
            values = list(map(get, structs))
            if count is None:
                total += each * (len(values) - values.count(None))
            else:
                for value in values:
                    if value:
                        total += each + count(value, quotes - total - each)
        return total

    return count_many


def _scalar_quotes(field: FieldDescription) -> int:
    """Two for the name, and two for a text."""
    return 4 if isinstance(field.kind, inspect.StrType) else 2


def _count_value(kind: inspect.ListType | inspect.StructType) -> Count | None:
    """How to count the quotation marks of a list or an object."""
    if isinstance(kind, inspect.StructType):
        one = _count_many(description_of(kind.cls))
        return None if one is None else (lambda value, quotes: one((value,), quotes))
    item = kind.item_type
    if isinstance(item, inspect.StructType):
        many = _count_many(description_of(item.cls))
        return None if many is None else (many)
    if isinstance(item, inspect.StrType):
        return lambda value, _: 2 * len(value)
    if isinstance(item, inspect.IntType | inspect.FloatType):
        return lambda _value, _: 0
    return None
