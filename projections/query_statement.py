"""What a statement has to be before it is run, and where in it an error stands."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

_LINE = re.compile(r"\n*LINE (\d+): (.*)\n( *\^[~^]*) *$")
_EXPLAIN = re.compile(r"\s*EXPLAIN\b\s*(ANALYZE\b)?\s*(\([^()';]*\))?", re.IGNORECASE)
_QUERY_WORDS = frozenset(
    {"select", "from", "with", "values", "table", "pivot", "pivot_wider", "unpivot", "describe"}
    | {"desc", "summarize", "show", "pivot_longer"}
)
_FIRST_WORD = re.compile(r"(?:\s|\(|--[^\n]*\n|/\*.*?\*/)*(\w+)", re.DOTALL)


class StatementError(Exception):
    """A statement can't be run: the message is for whoever wrote it."""

    def __init__(self, message: str, line: int | None = None, column: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.line = line
        self.column = column


@dataclass(frozen=True, slots=True)
class Explained:
    """An EXPLAIN statement, and what it is about."""

    inner: str


def explained(statement: str) -> Explained | None:
    """The query of an EXPLAIN statement; None where it does not begin so."""
    found = _EXPLAIN.match(statement)
    return None if found is None else Explained(statement[found.end() :])


def begins_as_query(statement: str) -> bool:
    """Whether the first word is one that a query begins with."""
    found = _FIRST_WORD.match(statement)
    return found is not None and found[1].lower() in _QUERY_WORDS


def located(message: str, statement: str, lines_before: int = 0) -> StatementError:
    """DuckDB's message as an error with its place in the statement, both counted from 1.

    `lines_before` is how many lines stood before the statement in what DuckDB was given; a place
    in those is left out.
    """
    found = _LINE.search(message)
    if found is None:
        return StatementError(message.strip())
    text = message[: found.start()].rstrip()
    number = int(found[1]) - lines_before
    lines = statement.split("\n")
    if not 1 <= number <= len(lines):
        return StatementError(text)
    shown = found[2]
    prefix = len(f"LINE {found[1]}: ")
    caret = found[3].index("^") - prefix
    # DuckDB shows a part of a long line, with dots where it was cut.
    part = shown.removeprefix("...").removesuffix("...")
    at = lines[number - 1].find(part)
    cut = len(shown) - len(shown.removeprefix("..."))
    column = at + caret - cut + 1 if at >= 0 and caret >= cut else None
    pointer = " " * (len(f"LINE {number}: ") + max(caret, 0)) + "^"
    return StatementError(f"{text}\n\nLINE {number}: {shown}\n{pointer}", number, column)


_WORD = re.compile(r"\w+")
_NAMES_AT_RUN_TIME = re.compile(
    r"(query|query_table|show|information_schema|sqlite_\w+|pg_\w+|duckdb_\w+|pragma_\w+|json_\w+)"
)


def names_in(statement: str, known: Collection[str]) -> set[str] | None:
    """Which of these tables and macros a statement can be about, from the words in it; None where
    it may find names that are not written in it, or ask which there are."""
    words = {word.lower() for word in _WORD.findall(statement)}
    if any(_NAMES_AT_RUN_TIME.fullmatch(word) for word in words):
        return None
    return words & set(known)
