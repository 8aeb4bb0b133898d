"""The search language: what `filter` and `order_by` of a search may say, and what they mean.

A filter is a list of comparisons joined by AND. `parse_filter` turns it into `Clause`s and
`parse_order_by` an order into `OrderBy`s, for one `Language`: what may be said about runs is not
what may be said about experiments. Nothing here knows a table; `search.py` makes SQL of it.
Whatever is refused is refused with `InvalidParameterValue`, which says what was wrong and what is
allowed.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from events.errors import InvalidParameterValue
from projections.filter_tokens import Field, Scanner, Value, unquoted

CLAUSES_MAX = 50
FILTER_BYTES_MAX = 8_192
"""The length of a filter in UTF-8, what stands in its lists not counted."""
LISTED_VALUES_MAX = 1_000
"""How many values all lists of one filter may hold together."""
FILTER_WITH_LISTS_BYTES_MAX = 262_144
ORDER_BY_MAX = 20
ID_DIGITS_MAX = 100

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1

Kind = Literal["attribute", "metric", "param", "tag", "dataset"]
ValueType = Literal["text", "real", "number", "integer", "id"]


@dataclass(frozen=True)
class Clause:
    """One comparison. `value` is None for IS NULL and IS NOT NULL, a tuple for IN and NOT IN."""

    kind: Kind
    key: str
    comparator: str
    value: str | int | float | tuple[str, ...] | None


@dataclass(frozen=True)
class OrderBy:
    """One key to sort by. A dataset narrows which values of a logged model's metric count."""

    kind: Kind
    key: str
    ascending: bool = True
    dataset_name: str | None = None
    dataset_digest: str | None = None


@dataclass(frozen=True)
class Rule:
    """What a field may be compared with, and how.

    A `real` is always compared as a double; a `number` is an integer that may also be compared with
    a fraction, an `integer` may not; an `id` is an integer that is held as text.
    """

    type: ValueType
    comparators: tuple[str, ...]


@dataclass(frozen=True)
class Language:
    """What may be said about one kind of entity.

    `attributes` and `datasets` name every key there is; `keyed` holds the kinds whose keys the
    user chose. `aliases` are other spellings of an attribute. `bare_texts` allows a text value
    without quotes, as in `params.lr = 0.01`. `orders_once` refuses an order that names a field
    twice.
    """

    entities: str
    prefixes: Mapping[str, Kind]
    attributes: Mapping[str, Rule]
    keyed: Mapping[Kind, Rule]
    datasets: Mapping[str, Rule] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    orderable_kinds: frozenset[Kind] = frozenset({"attribute"})
    not_orderable: frozenset[str] = frozenset()
    bare_texts: bool = False
    orders_once: bool = False


_NUMERIC = ("=", "!=", "<", "<=", ">", ">=")
_TEXTUAL = ("=", "!=", "LIKE", "ILIKE")
_LISTED = ("IN", "NOT IN")
_NULLITY = ("IS NULL", "IS NOT NULL")

_REAL = Rule("real", _NUMERIC)
_NUMBER = Rule("number", _NUMERIC)
_INTEGER = Rule("integer", _NUMERIC)
_TEXT = Rule("text", _TEXTUAL)
_TEXT_OR_LIST = Rule("text", (*_TEXTUAL, *_LISTED))
_TEXT_OR_NULL = Rule("text", (*_TEXTUAL, *_NULLITY))

RUNS = Language(
    entities="runs",
    prefixes={
        "attribute": "attribute",
        "attributes": "attribute",
        "attr": "attribute",
        "run": "attribute",
        "metric": "metric",
        "metrics": "metric",
        "parameter": "param",
        "parameters": "param",
        "param": "param",
        "params": "param",
        "tag": "tag",
        "tags": "tag",
        "dataset": "dataset",
        "datasets": "dataset",
    },
    attributes={
        "run_id": _TEXT_OR_LIST,
        "run_name": _TEXT,
        "user_id": _TEXT,
        "status": _TEXT,
        "artifact_uri": _TEXT,
        "start_time": _NUMBER,
        "end_time": _NUMBER,
    },
    keyed={"metric": _REAL, "param": _TEXT_OR_NULL, "tag": _TEXT_OR_NULL},
    datasets={"name": _TEXT_OR_LIST, "digest": _TEXT_OR_LIST, "context": _TEXT_OR_LIST},
    aliases={
        "created": "start_time",
        "Created": "start_time",
        "run name": "run_name",
        "Run name": "run_name",
        "Run Name": "run_name",
    },
    orderable_kinds=frozenset({"attribute", "metric", "param", "tag"}),
    # MLflow's client sends these only in filters, and its server refuses them in an order.
    not_orderable=frozenset({"run name", "Run name", "Run Name"}),
    orders_once=True,
)

EXPERIMENTS = Language(
    entities="experiments",
    prefixes={"attribute": "attribute", "tag": "tag", "tags": "tag"},
    attributes={
        "name": _TEXT,
        "experiment_id": Rule("id", ("=", "!=", *_LISTED)),
        "creation_time": _INTEGER,
        "last_update_time": _INTEGER,
    },
    keyed={"tag": _TEXT_OR_NULL},
)

LOGGED_MODELS = Language(
    entities="logged models",
    prefixes={
        "attributes": "attribute",
        "metrics": "metric",
        "params": "param",
        "tags": "tag",
    },
    attributes={
        "name": _TEXT_OR_LIST,
        "model_id": _TEXT_OR_LIST,
        "model_type": _TEXT_OR_LIST,
        "status": _TEXT_OR_LIST,
        "status_message": _TEXT_OR_LIST,
        "source_run_id": _TEXT_OR_LIST,
        "experiment_id": _TEXT_OR_LIST,
        "artifact_location": _TEXT_OR_LIST,
        "lifecycle_stage": _TEXT_OR_LIST,
        "creation_timestamp": _NUMBER,
        "last_updated_timestamp": _NUMBER,
    },
    keyed={"metric": _REAL, "param": _TEXT_OR_LIST, "tag": _TEXT_OR_LIST},
    aliases={
        "creation_time": "creation_timestamp",
        "creation_timestamp_ms": "creation_timestamp",
        "last_updated_time": "last_updated_timestamp",
        "last_updated_timestamp_ms": "last_updated_timestamp",
    },
    orderable_kinds=frozenset({"attribute", "metric"}),
    bare_texts=True,
)


def parse_filter(language: Language, text: str | None) -> tuple[Clause, ...]:
    """The comparisons of a filter; none for a filter that is absent or empty.

    AND between two comparisons may be missing, and one too many at either end is no error: MLflow
    never minded, and code that glues filters together came to rely on it.
    """
    if not text:
        return ()
    _check_length(text)
    scanner = Scanner(text)
    clauses: list[Clause] = []
    listed_bytes = listed_values = 0
    while True:
        while scanner.take_words("AND"):
            pass
        if scanner.ended:
            break
        if scanner.take_words("OR") or scanner.take_words("NOT"):
            raise InvalidParameterValue("OR and NOT are not offered; comparisons join by AND only")
        clause, value = _take_clause(language, scanner)
        clauses.append(clause)
        if len(clauses) > CLAUSES_MAX:
            raise InvalidParameterValue(f"A filter may hold at most {CLAUSES_MAX} comparisons")
        if value is not None and value.form == "list":
            listed_bytes += len(value.text.encode())
            listed_values += len(value.items)
    _check_size(listed_values, len(text.encode()) - listed_bytes)
    return tuple(clauses)


def parse_order_by(language: Language, texts: Iterable[str]) -> tuple[OrderBy, ...]:
    """The keys to sort by of an `order_by` list such as `["metrics.loss ASC", "start_time"]`."""
    keys: list[OrderBy] = []
    for text in texts:
        _check_length(text)
        keys.append(_parse_key(language, text))
        if len(keys) > ORDER_BY_MAX:
            raise InvalidParameterValue(f"order_by holds more than {ORDER_BY_MAX} keys")
    if language.orders_once:
        _check_order_once(keys)
    return tuple(keys)


def parse_logged_model_order_by(fields: Sequence[Mapping[str, object]]) -> tuple[OrderBy, ...]:
    """The keys of a logged models search, whose `order_by` is a list of objects.

    Each has `field_name` and may have `ascending` (true if absent), `dataset_name` and
    `dataset_digest`.
    """
    if len(fields) > ORDER_BY_MAX:
        raise InvalidParameterValue(f"order_by holds more than {ORDER_BY_MAX} keys")
    return tuple(_parse_logged_model_key(item) for item in fields)


def _take_clause(language: Language, scanner: Scanner) -> tuple[Clause, Value | None]:
    written = scanner.take_field()
    kind, key, rule = _resolve(language, written)
    comparator = scanner.take_comparator()
    if comparator not in rule.comparators:
        raise InvalidParameterValue(
            f"Invalid comparator '{comparator}' for {kind} '{key}' in a search of "
            f"{language.entities}; allowed are {', '.join(rule.comparators)}"
        )
    if comparator in _NULLITY:
        return Clause(kind, key, comparator, None), None
    value = scanner.take_value()
    if comparator in _LISTED:
        return Clause(kind, key, comparator, _listed(rule, written.written, value)), value
    return Clause(kind, key, comparator, _single(language, rule, written.written, value)), value


def _resolve(language: Language, written: Field) -> tuple[Kind, str, Rule]:
    """The kind, the key by its proper name, and the rule of a field; raises if there is none."""
    kind: Kind = "attribute"
    if written.prefix is not None:
        if written.prefix not in language.prefixes:
            raise InvalidParameterValue(
                f"Invalid entity type '{written.prefix}' in '{written.written}'; "
                f"{language.entities} have {', '.join(language.prefixes)}"
            )
        kind = language.prefixes[written.prefix]
    if kind in language.keyed:
        return kind, written.key, language.keyed[kind]
    known = language.attributes if kind == "attribute" else language.datasets
    key = language.aliases.get(written.key, written.key) if kind == "attribute" else written.key
    if key not in known:
        raise InvalidParameterValue(
            f"Invalid {kind} key '{written.key}' specified; {language.entities} have "
            f"{', '.join(known)}"
        )
    return kind, key, known[key]


def _single(language: Language, rule: Rule, written: str, value: Value) -> str | int | float:
    if rule.type in ("real", "number", "integer"):
        if value.form != "number":
            raise InvalidParameterValue(
                f"Expected a number without quotes for '{written}', found {value.text!r}"
            )
        return _number(rule, written, value.text)
    bare = language.bare_texts and value.form in ("number", "word")
    if value.form != "text" and not bare:
        raise InvalidParameterValue(
            f"Expected a value between quotes for '{written}' (as in {written} = 'my value'), "
            f"found {value.text}"
        )
    return _id(written, value.text) if rule.type == "id" else value.text


def _listed(rule: Rule, written: str, value: Value) -> tuple[str, ...]:
    if value.form != "list":
        raise InvalidParameterValue(
            f"Expected a list in parentheses for '{written}' (as in {written} IN ('a', 'b')), "
            f"found {value.text!r}"
        )
    if rule.type == "id":
        return tuple(_id(written, item) for item in value.items)
    return value.items


def _number(rule: Rule, written: str, text: str) -> int | float:
    digits = text.removeprefix("-")
    if rule.type == "real":
        return float(text)
    if digits.isdecimal() and len(digits) < 20 and INT64_MIN <= int(text) <= INT64_MAX:
        return int(text)
    if rule.type == "integer":
        raise InvalidParameterValue(f"Expected an integer of 64 bits for '{written}', found {text}")
    return float(text)


def _id(written: str, text: str) -> str:
    """An id as it is stored: `"007"` means experiment 7, as it does in MLflow."""
    number = text.strip()
    digits = number.removeprefix("-")
    if not (digits.isascii() and digits.isdecimal()) or len(digits) > ID_DIGITS_MAX:
        raise InvalidParameterValue(f"Invalid id {text!r} for '{written}': it must be an integer")
    return str(int(number))


def _parse_key(language: Language, text: str) -> OrderBy:
    scanner = Scanner(text)
    written = scanner.take_field()
    kind, key, _ = _resolve(language, written)
    if kind not in language.orderable_kinds or written.key in language.not_orderable:
        raise InvalidParameterValue(
            f"Invalid order_by '{text}': {language.entities} can be sorted by "
            f"{', '.join(sorted(language.orderable_kinds))}, and attributes are "
            f"{', '.join(language.attributes)}"
        )
    ascending = scanner.take_words("ASC") or not scanner.take_words("DESC")
    if not scanner.ended:
        raise InvalidParameterValue(
            f"Invalid order_by '{text}': a field may be followed only by ASC or DESC"
        )
    return OrderBy(kind, key, ascending)


def _parse_logged_model_key(item: Mapping[str, object]) -> OrderBy:
    name = item.get("field_name")
    ascending = item.get("ascending")
    if not isinstance(name, str) or not name:
        raise InvalidParameterValue("Each order_by of logged models must have a 'field_name'")
    if ascending is not None and not isinstance(ascending, bool):
        raise InvalidParameterValue(f"'ascending' of order_by '{name}' must be true or false")
    dataset_name = _optional_text(item, "dataset_name")
    dataset_digest = _optional_text(item, "dataset_digest")
    if dataset_digest and not dataset_name:
        raise InvalidParameterValue("'dataset_digest' of an order_by needs a 'dataset_name'")
    prefix, dot, key = name.partition(".")
    if dot:
        if prefix != "metrics" or not key:
            raise InvalidParameterValue(
                f"Invalid order_by field name '{name}': only metrics.<key> and attributes are "
                "allowed"
            )
        return OrderBy(
            "metric", unquoted(key), ascending is not False, dataset_name, dataset_digest
        )
    key = name.strip()
    key = LOGGED_MODELS.aliases.get(key, key)
    if key not in LOGGED_MODELS.attributes:
        raise InvalidParameterValue(
            f"Invalid order_by field name '{name}'; logged models have metrics.<key>, "
            f"{', '.join(LOGGED_MODELS.attributes)}"
        )
    return OrderBy("attribute", key, ascending is not False)


def _optional_text(item: Mapping[str, object], name: str) -> str | None:
    value = item.get(name)
    if value is not None and not isinstance(value, str):
        raise InvalidParameterValue(f"'{name}' of an order_by must be a string")
    return value or None


def _check_length(text: str) -> None:
    """Bounds the work of reading it, and keeps out what no database can store or compare."""
    try:
        length = len(text.encode())
    except UnicodeEncodeError as error:
        raise InvalidParameterValue("The search holds half of a surrogate pair") from error
    if length > FILTER_WITH_LISTS_BYTES_MAX:
        raise InvalidParameterValue(
            f"A filter may be at most {FILTER_BYTES_MAX} bytes long without its lists of values "
            f"and {FILTER_WITH_LISTS_BYTES_MAX} with them; got {length}"
        )
    if "\0" in text:
        raise InvalidParameterValue("The search holds a NUL character, which nothing can equal")


def _check_size(listed_values: int, length: int) -> None:
    if listed_values > LISTED_VALUES_MAX:
        raise InvalidParameterValue(
            f"The lists of a filter may hold at most {LISTED_VALUES_MAX} values together; "
            f"got {listed_values}"
        )
    if length > FILTER_BYTES_MAX:
        raise InvalidParameterValue(
            f"A filter may be at most {FILTER_BYTES_MAX} bytes long, its lists of values not "
            f"counted; got {length}"
        )


def _check_order_once(keys: Sequence[OrderBy]) -> None:
    seen: set[tuple[str, str]] = set()
    for key in keys:
        if (key.kind, key.key) in seen:
            raise InvalidParameterValue(f"order_by names {key.kind} '{key.key}' more than once")
        seen.add((key.kind, key.key))
