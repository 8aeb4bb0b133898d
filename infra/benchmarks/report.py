"""The table as Markdown, and everything as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from infra.benchmarks.charts import CHARTS, charts
from infra.benchmarks.results import (
    Results,
    number_text,
    problems_of,
    ratio,
    row_met,
    times_text,
    verdicts,
)
from infra.benchmarks.rows import ROWS, RUNFOLD, SERVERS, TITLES, Row

NAME = "results"
"""What the table and the JSON are called, where nothing else is asked for."""
MET = {True: "yes", False: "**no**", None: ""}


@dataclass(frozen=True)
class Head:
    """What stands above the table."""

    command: str
    machine: Mapping[str, str]
    versions: Mapping[str, str]
    settings: Mapping[str, float]
    cases: Mapping[str, Sequence[str]]
    """The rows of each case, by its name."""


def measured(results: Results) -> list[Row]:
    """The rows that have a value."""
    return [row for row in ROWS if results.values.get(row.name)]


def _cells(results: Results, row: Row, cases: Mapping[str, Sequence[str]]) -> list[str]:
    values = [results.median(row.name, server) for server in SERVERS]
    ratios = [ratio(results, row, server) for server in SERVERS if server != RUNFOLD]
    wanted = "; ".join(verdict.wanted for verdict in verdicts(results, row))
    met = row_met(results, row, problems_of(results, cases, row.name))
    return [
        row.title,
        row.unit,
        *("" if value is None else number_text(value) for value in values),
        *("" if value is None else times_text(value) for value in ratios),
        wanted,
        MET[met],
    ]


def _table(results: Results, rows: Iterable[Row], cases: Mapping[str, Sequence[str]]) -> list[str]:
    others = [TITLES[server] for server in SERVERS if server != RUNFOLD]
    heads = ["case", "unit", *(TITLES[server] for server in SERVERS)]
    heads += [f"against {name}" for name in others] + ["wanted", "met"]
    marks = ["---", "---", *("---:" for _ in range(len(SERVERS) + len(others))), "---", "---"]
    lines = [heads, marks, *(_cells(results, row, cases) for row in rows)]
    return ["| " + " | ".join(line) + " |" for line in lines]


def _notes(results: Results) -> list[str]:
    titles = {row.name: row.title for row in ROWS}
    return [
        f"- {titles.get(row, row)}, {TITLES[server]}: {text}."
        for row, of_row in results.notes.items()
        for server, texts in of_row.items()
        for text in texts
    ]


def _problems(results: Results) -> list[str]:
    return [
        f"- case `{case}`, {TITLES[server]}: {text}"
        for case, of_case in results.problems.items()
        for server, texts in of_case.items()
        for text in texts
    ]


def summary(results: Results, cases: Mapping[str, Sequence[str]]) -> str:
    """How many rows with a target are met, in one sentence."""
    found = [
        row_met(results, row, problems_of(results, cases, row.name))
        for row in measured(results)
        if row.targets
    ]
    unknown = f" {found.count(None)} can't be said." if None in found else ""
    return f"{found.count(True)} of {len(found)} rows are at or past what is wanted.{unknown}"


def markdown(results: Results, head: Head, chart_files: Iterable[str]) -> str:
    """The page."""
    lines = [
        "# Results",
        "",
        "<!-- Made by infra/scripts/benchmark; run that, don't change this page. -->",
        "",
        f"Made by `{head.command}`. [README.md](README.md) says what each case is and how to read",
        "the ratios.",
        "",
        *(f"- {name}: {text}" for name, text in head.machine.items()),
        "- versions: " + ", ".join(f"{name} {text}" for name, text in head.versions.items()),
        "- settings: " + ", ".join(f"{name} {value:g}" for name, value in head.settings.items()),
    ]
    factor = results.machine_factor()
    if factor is not None:
        lines += [
            f"- the yardstick ran at {factor:.2f} of its speed on the machine that the absolute",
            "  targets were set on; times and rates among them are scaled by that",
        ]
    if head.settings.get("scale", 1) != 1:
        lines.append("- **the data sets were shrunk: the titles name their whole size**")
    lines += ["", summary(results, head.cases)]
    rows = measured(results)
    titles = {chart.file: chart.title for chart in CHARTS}
    for group in dict.fromkeys(row.group for row in rows):
        of_group = [row for row in rows if row.group == group]
        lines += ["", f"## {group}", "", *_table(results, of_group, head.cases)]
    drawn = [line for file in chart_files for line in ("", f"![{titles[file]}]({file})")]
    if drawn:
        lines += ["", "## Charts", *drawn]
    for title, found in (("Notes", _notes(results)), ("Wrong answers", _problems(results))):
        if found:
            lines += ["", f"## {title}", "", *found]
    return "\n".join(lines) + "\n"


def as_json(results: Results, head: Head) -> str:
    """All values, ratios and verdicts."""
    rows = {
        row.name: {
            "title": row.title,
            "unit": row.unit,
            "better": row.better,
            "values": results.values[row.name],
            "medians": {
                server: results.median(row.name, server) for server in results.values[row.name]
            },
            "times_as_good_as": {
                server: ratio(results, row, server) for server in SERVERS if server != RUNFOLD
            },
            "targets": [asdict(verdict) for verdict in verdicts(results, row)],
            "met": row_met(results, row, problems_of(results, head.cases, row.name)),
        }
        for row in measured(results)
    }
    document = {
        "command": head.command,
        "machine": head.machine,
        "versions": head.versions,
        "settings": head.settings,
        "machine_factor": results.machine_factor(),
        "rows": rows,
        "notes": results.notes,
        "problems": results.problems,
    }
    return json.dumps(document, indent=2) + "\n"


def write(results: Results, head: Head, folder: Path, name: str = NAME) -> None:
    """Writes the table and the JSON, and the charts where it is the usual name."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = charts(results) if name == NAME else {}
    for file, text in drawn.items():
        (folder / file).write_text(text, "utf-8")
    (folder / f"{name}.json").write_text(as_json(results, head), "utf-8")
    (folder / f"{name}.md").write_text(markdown(results, head, drawn), "utf-8")
