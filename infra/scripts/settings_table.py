"""Writes the table of settings in docs/operations.md from the one table that the code has.

With --check it writes nothing and fails when the page is out of date.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from events.settings import SETTINGS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "operations.md"
BEGIN, END = "<!-- settings: made by infra/scripts/settings_table.py -->\n", "<!-- end -->\n"


def shown(default: Any) -> str:
    """A default as a reader types it; empty where there is none or the text tells it."""
    if default is None or default == "":
        return ""
    if isinstance(default, bool):
        return "yes" if default else "no"
    return f"`{default}`"


def table() -> str:
    lines = ["| flag | environment variable | default | what it does |", "|---|---|---|---|"]
    for setting in SETTINGS:
        variables = ", ".join(f"`{name}`" for name in setting.environment)
        flag = f"{setting.flag} {setting.metavar}" if setting.metavar else setting.flag
        lines.append(f"| `{flag}` | {variables} | {shown(setting.default)} | {setting.help} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> int:
    page = PAGE.read_text("utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    made = before + BEGIN + table() + END + after
    if "--check" not in arguments:
        PAGE.write_text(made, "utf-8")
        return 0
    if page != made:
        print("docs/operations.md is out of date: run infra/scripts/settings_table.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
