"""How `runfold sql` shows an answer: as a table for people, or the bytes as they come."""

from __future__ import annotations

import contextlib
import json
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from projections.query_formats import Format

SHOWN = ("table", "markdown")
"""The formats that are made here, from JSON."""
BINARY = ("arrow", "parquet")
COLUMN_WIDTH_MIN = 8
_NUMBERS = ("INT", "DOUBLE", "FLOAT", "DECIMAL", "BIGNUM")


def wire_format(form: str) -> Format:
    """The format that the rows are asked for in."""
    formats: dict[str, Format] = {
        "csv": "csv",
        "ndjson": "ndjson",
        "arrow": "arrow",
        "parquet": "parquet",
    }
    return formats.get(form, "json")


def shown(form: str, pieces: Iterable[bytes], width: int | None) -> str:
    """An answer as a table or in Markdown. `width`: the terminal's, None: as wide as it needs."""
    answer = json.loads(b"".join(pieces))
    names = [visible(column["name"]) for column in answer["columns"]]
    if names == ["explain_key", "explain_value"] and form == "table":
        # A plan is a picture of several lines.
        lines = [visible(line) for _, plan in answer["rows"] for line in plan.split("\n")]
        return "\n".join(lines).rstrip() + "\n"
    rows = [[_cell(value) for value in row] for row in answer["rows"]]
    right = [any(kind in c["type"].split("(")[0] for kind in _NUMBERS) for c in answer["columns"]]
    if form == "markdown":
        lines = _markdown(names, rows, right)
    else:
        lines = _table(names, rows, right, width)
        count = answer["row_count"]
        more = ", more were left out (--max-rows)" if answer["truncated"] else ""
        lines.append(f"{count} row{'' if count == 1 else 's'}{more}")
    return "\n".join(lines) + "\n"


def visible(text: str) -> str:
    """A text without what a terminal would act on."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() if ord(c) < 0x110000 else "?"
        for c in text
    )


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return visible(value)
    return visible(json.dumps(value, ensure_ascii=False))


def _markdown(
    names: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool]
) -> list[str]:
    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    rule = line("--:" if is_right else "---" for is_right in right)
    return [line(names), rule, *map(line, rows)]


def _table(
    names: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool], width: int | None
) -> list[str]:
    widths = [max(text_width(cell) for cell in column) for column in zip(names, *rows, strict=True)]
    if width is not None:
        _narrow(widths, width)

    def line(cells: Sequence[str]) -> str:
        padded = [_fit(cell, widths[place], right[place]) for place, cell in enumerate(cells)]
        return "  ".join(padded).rstrip()

    rule = "  ".join("─" * one for one in widths)
    return [line(names), rule, *map(line, rows)]


def _narrow(widths: list[int], width: int) -> None:
    """Takes from the widest columns until the line fits, or none can give more."""
    while sum(widths) + 2 * (len(widths) - 1) > width:
        widest = max(range(len(widths)), key=widths.__getitem__)
        if widths[widest] <= COLUMN_WIDTH_MIN:
            return
        widths[widest] -= 1


def _fit(text: str, width: int, right: bool) -> str:
    if text_width(text) > width:
        while text and text_width(text) > width - 1:
            text = text[:-1]
        text += "…"
    space = " " * (width - text_width(text))
    return space + text if right else text + space


def text_width(text: str) -> int:
    """How many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file that is there once it is whole, and not at all where writing it failed."""
    temporary = path.with_name(path.name + ".partial")
    try:
        with temporary.open("wb") as file:
            yield file
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
