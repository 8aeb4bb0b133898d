"""How the rows of a query become text: DuckDB writes each row as one text, Python only joins them.

A million rows take half a second this way, and a value never passes through a Python type that
could not hold it (nanoseconds, 128-bit integers, times beyond year 9999).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Format = Literal["json", "ndjson", "csv", "arrow", "parquet"]
FORMATS: tuple[Format, ...] = ("json", "ndjson", "csv", "arrow", "parquet")
MEDIA_TYPES: dict[Format, str] = {
    "json": "application/json",
    "ndjson": "application/x-ndjson",
    "csv": "text/csv; charset=utf-8",
    "arrow": "application/vnd.apache.arrow.stream",
    "parquet": "application/vnd.apache.parquet",
}

_EXACT = re.compile(
    r"(BOOLEAN|U?(TINY|SMALL|BIG|HUGE)INT|U?INTEGER|BIGNUM|DECIMAL\(\d+,\s*\d+\))", re.IGNORECASE
)
_NESTED = re.compile(r"(.*\]|(STRUCT|MAP|UNION|VARIANT|JSON)\b.*)", re.IGNORECASE | re.DOTALL)
_FLOATS = re.compile(r"\b(FLOAT|DOUBLE|JSON|VARIANT)\b", re.IGNORECASE)
_NOT_NUMBERS = ("NaN", "Infinity")
_TEXT_OR_BARE = re.compile(r'"(?:[^"\\]|\\.)*"|(-?(?:NaN|Infinity))')


@dataclass(frozen=True, slots=True)
class ResultColumn:
    """A column of a result: its name, and its type as DuckDB writes it."""

    name: str
    type: str


def statement_for(format: Format, statement: str, columns: Sequence[ResultColumn]) -> str:
    """A statement whose rows are one text each, in the format's way. The given statement starts
    on the second line, so that a line number in an error is one too great."""
    cells = [f"c{number}" for number in range(len(columns))]
    types = [column.type for column in columns]
    if format == "csv":
        parts = _joined([_csv(c, t) for c, t in zip(cells, types, strict=True)], ",")
    else:
        values = [_json(c, t) for c, t in zip(cells, types, strict=True)]
        if format == "json":
            parts = ["'['", *_joined(values, ","), "']'"]
        else:
            parts = ["'{'"]
            for number, (key, value) in enumerate(zip(keys(columns), values, strict=True)):
                separator = "," if number else ""
                parts += [quoted(f"{separator}{_text(key)}:"), value]
            parts += ["'}'"]
    return f"SELECT concat({', '.join(parts)}) FROM (\n{statement}\n) AS t({', '.join(cells)})"


def opening(format: Format, columns: Sequence[ResultColumn]) -> str:
    """What stands before the first row."""
    if format == "csv":
        return ",".join(_csv_name(column.name) for column in columns) + "\n"
    if format == "json":
        listed = [{"name": column.name, "type": column.type} for column in columns]
        return f'{{"columns":{_text(listed)},"rows":[\n'
    return ""


def closing(format: Format, *, rows: int, truncated: bool) -> str:
    """What stands after the last row."""
    if format == "json":
        end = {"row_count": rows, "truncated": truncated}
        return "\n]," + json.dumps(end, separators=(",", ":"))[1:]
    return "\n" if rows else ""


def separator(format: Format) -> str:
    """What stands between two rows."""
    return ",\n" if format == "json" else "\n"


def keys(columns: Sequence[ResultColumn]) -> list[str]:
    """The names of columns, each once: what comes again gets a number."""
    found: dict[str, None] = {}
    for column in columns:
        name, number = column.name, 1
        while name in found:
            name, number = f"{column.name}_{number}", number + 1
        found[name] = None
    return list(found)


def may_hold_bare_numbers(columns: Sequence[ResultColumn]) -> bool:
    """Whether a row may hold NaN or Infinity as DuckDB writes them within a list or a struct,
    which is not JSON."""
    return any(_NESTED.fullmatch(one.type) and _FLOATS.search(one.type) for one in columns)


def mended(row: str) -> str:
    """A row of JSON with NaN and Infinity as texts, where they stood bare within a value."""
    if not any(text in row for text in _NOT_NUMBERS):
        return row
    return _TEXT_OR_BARE.sub(lambda one: one[0] if one[1] is None else f'"{one[1]}"', row)


def quoted(text: str) -> str:
    """A text as SQL has it."""
    return "'" + text.replace("'", "''") + "'"


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _joined(parts: Sequence[str], between: str) -> list[str]:
    found: list[str] = []
    for number, part in enumerate(parts):
        if number:
            found.append(quoted(between))
        found.append(part)
    return found or ["''"]


def _plain(cell: str, kind: str) -> str | None:
    """The text of a value that needs no quotes in any format; None for other types."""
    if _EXACT.fullmatch(kind):
        return f"{cell}::VARCHAR"
    return None


def _float(cell: str, quote: str) -> str:
    return (
        f"CASE WHEN isfinite({cell}) THEN {cell}::VARCHAR"
        f" WHEN isnan({cell}) THEN '{quote}NaN{quote}'"
        f" WHEN {cell} > 0 THEN '{quote}Infinity{quote}' WHEN {cell} < 0"
        f" THEN '{quote}-Infinity{quote}' END"
    )


def _json(cell: str, kind: str) -> str:
    plain = _plain(cell, kind)
    if plain is None:
        if kind in ("FLOAT", "DOUBLE"):
            plain = _float(cell, '"')
        elif kind == "BLOB":
            plain = f"to_json(to_base64({cell}))::VARCHAR"
        elif _NESTED.fullmatch(kind):
            plain = f"to_json({cell})::VARCHAR"
        else:
            plain = f"to_json({cell}::VARCHAR)::VARCHAR"
    return f"coalesce({plain}, 'null')"


def _csv(cell: str, kind: str) -> str:
    plain = _plain(cell, kind)
    if plain is None and kind in ("FLOAT", "DOUBLE"):
        plain = _float(cell, "")
    if plain is not None:
        return f"coalesce({plain}, '')"
    text = f"{cell}::VARCHAR"
    if kind == "BLOB":
        text = f"to_base64({cell})"
    elif _NESTED.fullmatch(kind):
        text = f"to_json({cell})::VARCHAR"
    # An empty text is quoted, a null is not.
    return (
        f"coalesce(CASE WHEN {text} = '' OR regexp_matches({text}, '[\",\\r\\n]|^\\s|\\s$')"
        f" THEN '\"' || replace({text}, '\"', '\"\"') || '\"' ELSE {text} END, '')"
    )


def _csv_name(name: str) -> str:
    if name == "" or re.search(r'[",\r\n]|^\s|\s$', name):
        return '"' + name.replace('"', '""') + '"'
    return name
