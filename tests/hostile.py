"""The hostile statements of tests/hostile_statements.sql, and what tells that one did harm."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).with_name("hostile_statements.sql")
SECRET = "zq7-the-canary-sings"
"""Stands in the canary file, in the environment of the server, and in nothing that may be read."""
OTHERS = "zq7-others"
"""Stands in everything of the experiment that the caller may not see."""
_HEAD = re.compile(r"-- (refused|stopped|harmless|contained): (.*)")
_REPEATED = re.compile(r"«(.+?)×(\d+)»", re.DOTALL)
WRITTEN = ("written*", "exported", "out", "profile.json", "log.txt")


@dataclass(frozen=True)
class Hostile:
    """A statement, and what must become of it."""

    expected: str
    about: str
    statement: str


def hostile_statements(home: Path, canary: Path) -> Iterator[Hostile]:
    """The statements, with these paths in them."""
    head: re.Match[str] | None = None
    lines: list[str] = []
    for line in [*FILE.read_text().split("\n"), "-- refused: the end"]:
        found = _HEAD.fullmatch(line)
        if found is None:
            lines.append(line)
            continue
        if head is not None:
            text = "\n".join(lines).strip("\n")
            for name, path in (("canary", canary), ("home", home), ("lake", home / "lake")):
                text = text.replace(f"{{{name}}}", str(path))
            text = _REPEATED.sub(lambda one: one[1] * int(one[2]), text)
            yield Hostile(head[1], head[2], text)
        head, lines = found, []


def written_by(folder: Path) -> list[Path]:
    """The files that a statement wrote, below the folder."""
    return [path for pattern in WRITTEN for path in folder.rglob(pattern)]


def complaint(hostile: Hostile, *, answered: bool, limit: bool | None, text: str) -> str | None:
    """What is wrong with how a statement ended. `limit`: whether a limit ended it, None where that
    is not told."""
    where = f"{hostile.about} ({hostile.statement[:80]!r}): "
    for secret in (SECRET, OTHERS):
        if secret in text:
            return f"{where}the answer holds {secret!r}: {text[:300]!r}"
    if hostile.expected == "contained":
        return None
    if answered != (hostile.expected == "harmless"):
        return f"{where}it is {hostile.expected}, but got {text[:300]!r}"
    if limit is not None and limit != (hostile.expected == "stopped"):
        return f"{where}it is {hostile.expected}, but got {text[:300]!r}"
    return None
