"""Converts parsed JSON to the Structs of requests, field by field, as MLflow's clients rely on it.

Numbers may be texts, names may be in camelCase, nulls count as not sent. What MLflow would take
and damage (1.5 for an integer, "nan" for a number) is refused with the path of the field.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, TypeVar

import msgspec
from msgspec import inspect

from events.errors import InvalidParameterValue

Converted = TypeVar("Converted", bound=msgspec.Struct)
Convert = Callable[[Any, str], Any]
"""Takes a value and the path that it was found at; gives the value for the Struct."""

HINT: Final = " See the API docs for more information about request parameters."
NUMBER_WORDS: Final = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


@dataclass(frozen=True, slots=True)
class FieldDescription:
    """What the decoders know of one field of a request."""

    name: str
    camel: str  # its spelling in protobuf's JSON, equal to `name` for a single word
    alias: str | None
    required: bool
    kind: inspect.Type  # without None and metadata
    is_exact: bool  # msgspec alone decodes it as `convert` would, or refuses it
    convert: Convert

    @property
    def is_list(self) -> bool:
        return isinstance(self.kind, inspect.ListType)

    @property
    def is_bool(self) -> bool:
        return isinstance(self.kind, inspect.BoolType)

    @property
    def query_names(self) -> tuple[str, ...]:
        return (self.name,) if self.alias is None else (self.name, self.alias)


@dataclass(frozen=True, slots=True)
class Description:
    """What the decoders know of one request Struct."""

    of: type[msgspec.Struct]
    fields: tuple[FieldDescription, ...]


def refuse(message: str) -> InvalidParameterValue:
    """The error for a value that can't be taken, with MLflow's pointer to its documentation."""
    return InvalidParameterValue(message + HINT)


def convert_struct(sent: dict[str, Any], to: type[Converted], path: str = "") -> Converted:
    """The values of a JSON object as `to`. `path` is where the object was found, "" at the top."""
    found: dict[str, Any] = {}
    for field in description_of(to).fields:
        value = _pick(sent, field)
        where = f"{path}.{field.name}" if path else field.name
        if value is not None:
            found[field.name] = field.convert(value, where)
        elif field.required:
            raise missing(where)
    return to(**found)


def missing(path: str) -> InvalidParameterValue:
    """The error for a required field that was not sent, null or empty."""
    return refuse(f"Missing value for required parameter '{path}'.")


def invalid(value: object, path: str, expected: str) -> InvalidParameterValue:
    """The error for a value of the wrong type or out of range."""
    shown = repr(value)
    if len(shown) > 100:
        shown = shown[:100] + "…"
    return refuse(f"Invalid value {shown} for parameter '{path}': {expected} is needed.")


def _pick(sent: dict[str, Any], field: FieldDescription) -> Any:
    value = sent.get(field.name)
    if field.camel != field.name and field.camel in sent:
        if field.name in sent:
            raise InvalidParameterValue(
                f"The request gives both '{field.name}' and '{field.camel}'; send one of them."
            )
        # MLflow looks for a required field under its own name only.
        if not field.required:
            value = sent[field.camel]
    if value is None and field.alias is not None:
        value = sent.get(field.alias)
    return value


@cache
def description_of(struct: type[msgspec.Struct]) -> Description:
    """What a request Struct's annotations say, read once per Struct."""
    told = inspect.type_info(struct)
    if not isinstance(told, inspect.StructType):
        raise TypeError(f"{struct} is no Struct")
    return Description(struct, tuple(_describe(field) for field in told.fields))


def _describe(field: inspect.Field) -> FieldDescription:
    kind, extra = _bare(field.type)
    convert = _converter(kind, extra)
    if not field.required and field.default not in (None, msgspec.NODEFAULT):
        # The fast path tells "not sent" from a value by None.
        raise TypeError(f"the optional request field {field.name} must have the default None")
    first, *rest = field.name.split("_")
    return FieldDescription(
        name=field.name,
        camel=first + "".join(word.capitalize() for word in rest),
        alias=extra.get("alias"),
        required=field.required,
        kind=kind,
        is_exact="choices" not in extra and isinstance(kind, EXACT_KINDS),
        convert=convert,
    )


def _bare(kind: inspect.Type) -> tuple[inspect.Type, dict[str, Any]]:
    """A field's type without `| None` and `Annotated`, and what the annotation adds."""
    if isinstance(kind, inspect.UnionType):
        named = [one for one in kind.types if not isinstance(one, inspect.NoneType)]
        if len(named) != 1:
            raise TypeError("a request field has one type, and None when it is optional")
        return _bare(named[0])
    if isinstance(kind, inspect.Metadata):
        bare, extra = _bare(kind.type)
        return bare, {**extra, **(kind.extra or {})}
    return kind, {}


EXACT_KINDS: Final = (
    inspect.StrType,
    inspect.IntType,
    inspect.FloatType,
    inspect.BoolType,
    inspect.ListType,
    inspect.StructType,
)


def _converter(kind: inspect.Type, extra: dict[str, Any]) -> Convert:
    if "choices" in extra:
        return _choice(extra["choices"])
    match kind:
        case inspect.StrType():
            return required_text if kind.min_length else text
        case inspect.IntType():
            return _integer(kind)
        case inspect.FloatType():
            return double
        case inspect.BoolType():
            return boolean
        case inspect.ListType():
            return _listing(*_bare(kind.item_type))
        case inspect.DictType():
            return _mapping(*_bare(kind.value_type))
        case inspect.StructType():
            return _nested(kind.cls)
        case inspect.AnyType():
            return anything
    raise TypeError(f"a request field can't be of type {kind}")


def text(value: Any, path: str) -> str:
    """A string that can be stored: one with half of a surrogate pair can't."""
    if type(value) is not str:
        raise invalid(value, path, "a string")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise invalid(value, path, "a string without lone surrogates") from None
    return value


def required_text(value: Any, path: str) -> str:
    """A string that is not empty: to MLflow an empty one was not sent."""
    if value == "":
        raise missing(path)
    return text(value, path)


def double(value: Any, path: str) -> float:
    """A number, or a text that is one; "NaN", "Infinity" and "-Infinity" only as spelled here."""
    if type(value) is float:
        return value
    if type(value) is str:
        if value in NUMBER_WORDS:
            return NUMBER_WORDS[value]
    elif type(value) is not int:
        raise invalid(value, path, "a number")
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise invalid(value, path, "a number within the range of a double") from None
    if not math.isfinite(number):
        raise invalid(value, path, "a finite number, 'NaN', 'Infinity' or '-Infinity'")
    return number


def boolean(value: Any, path: str) -> bool:
    """true or false, nothing that is merely like them."""
    if type(value) is not bool:
        raise invalid(value, path, "true or false")
    return value


def anything(value: Any, path: str) -> Any:  # noqa: ARG001 - one signature for all converters
    """Any JSON value, as it is."""
    return value


def _integer(kind: inspect.IntType) -> Convert:
    least = -(2**63) if kind.ge is None else kind.ge
    greatest = 2**63 - 1 if kind.le is None else kind.le
    bits = 32 if greatest < 2**31 else 64

    def integer(value: Any, path: str) -> int:
        number = value
        if type(value) is float and value.is_integer():
            number = int(value)
        elif type(value) is str and " " not in value:
            try:
                number = int(value)
            except ValueError:
                raise invalid(value, path, "an integer") from None
        if type(number) is not int or not least <= number <= greatest:
            raise invalid(value, path, f"an integer of {bits} bits")
        return number

    return integer


def _choice(numbers: dict[str, int]) -> Convert:
    names = {number: name for name, number in numbers.items()}
    named = ", ".join(numbers)

    def choice(value: Any, path: str) -> str:
        if type(value) is str:
            if value in numbers:
                return value
            if value.isdecimal() and len(value) < 10:
                value = int(value)
        if type(value) is int and value in names:
            return names[value]
        raise invalid(value, path, f"one of {named}")

    return choice


def _listing(kind: inspect.Type, extra: dict[str, Any]) -> Convert:
    convert = _converter(kind, extra)

    def listing(value: Any, path: str) -> list[Any]:
        if type(value) is not list:
            raise invalid(value, path, "an array")
        return [convert(item, f"{path}[{index}]") for index, item in enumerate(value)]

    return listing


def _mapping(kind: inspect.Type, extra: dict[str, Any]) -> Convert:
    convert = _converter(kind, extra)

    def mapping(value: Any, path: str) -> dict[str, Any]:
        if type(value) is not dict:
            raise invalid(value, path, "an object")
        return {text(key, path): convert(item, f"{path}.{key}") for key, item in value.items()}

    return mapping


def _nested(struct: type[msgspec.Struct]) -> Convert:
    def nested(value: Any, path: str) -> msgspec.Struct:
        if type(value) is not dict:
            raise invalid(value, path, "an object")
        return convert_struct(value, struct, path)

    return nested
