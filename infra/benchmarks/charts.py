"""Charts as SVG: panels of horizontal bars, readable on light and on dark paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from infra.benchmarks.results import Results, number_text
from infra.benchmarks.rows import QUERIES, ROWS, RUNFOLD, SERVERS, TITLES

WIDTH = 860
COLUMNS = 2
MARGIN = 24
GAP = 36
TOP = 76
PANEL_HEAD = 30
PANEL_FOOT = 22
BAR = 16
BAR_STEP = 24
NAME_WIDTH = 92
VALUE_WIDTH = 74
LEAST = 1.5
"""The least length of a bar, so that one can see that it is there."""

STYLE = """
    .paper { fill: #fbfaf7 }
    .title { fill: #1b2430; font-size: 18px; font-weight: 600 }
    .head { fill: #1b2430; font-weight: 600 }
    .name, .value, .note { fill: #5c6878 }
    .own { fill: #1b2430; font-weight: 600 }
    .bar { fill: #aab2bb }
    .limit { fill: #d9d4c7 }
    .runfold { fill: #c2542d }
    @media (prefers-color-scheme: dark) {
      .paper { fill: #15191e }
      .title, .head, .own { fill: #ece9e3 }
      .name, .value, .note { fill: #a9b3bd }
      .bar { fill: #67717c }
      .limit { fill: #3a424b }
      .runfold { fill: #ee8455 }
    }"""


@dataclass(frozen=True)
class Bar:
    """One server's value."""

    server: str
    value: float


@dataclass(frozen=True)
class Panel:
    """The servers side by side on one row of the table."""

    title: str
    unit: str
    better: str
    bars: Sequence[Bar]


@dataclass(frozen=True)
class Chart:
    """One file: a title and the rows that it shows, each with a short title."""

    file: str
    title: str
    rows: dict[str, str]


CHARTS = (
    Chart(
        "logging.svg",
        "Logging: what a server takes",
        {
            "log-batch": "log-batch, 1,000 points",
            "log-batch-50": "log-batch, 50 points",
            "log-metric": "log-metric",
            "one-run": "64 connections to one run",
            "runs": "create run and log its data",
        },
    ),
    Chart(
        "searching.svg",
        "Searching 5,000 runs for a page of 100",
        {
            **{f"search-{name}": title for name, title in QUERIES.items()},
            "search-metric-param": "metric and param, by metric",
            "page": "all 5,000, in five pages",
        },
    ),
    Chart(
        "history.svg",
        "Reading the history of a metric",
        {"read": "all of 100,000 points", "chart": "320 points of 100,000"},
    ),
    Chart(
        "questions.svg",
        "Questions over all runs: SQL, and REST in a loop",
        {
            "sql-curve-tenth": "mean of 200 curves",
            "sql-best-tenth": "best run at a step",
            "sql-table-tenth": "table of 500 runs",
        },
    ),
    Chart(
        "weight.svg",
        "What a server costs",
        {
            "idle": "memory, idle",
            "load-memory": "memory under log-batch",
            "disk-curves": "disk, a point",
        },
    ),
)


def panels_of(results: Results, chart: Chart) -> list[Panel]:
    """The chart's panels that have something to show."""
    by_name = {row.name: row for row in ROWS}
    panels = []
    for name, title in chart.rows.items():
        row = by_name[name]
        medians = [(server, results.median(name, server)) for server in SERVERS]
        bars = [Bar(server, value) for server, value in medians if value is not None]
        if bars:
            panels.append(Panel(title, row.unit, row.better, bars))
    return panels


def draw(title: str, panels: Sequence[Panel]) -> str:
    """The SVG."""
    width = (WIDTH - 2 * MARGIN - (COLUMNS - 1) * GAP) / COLUMNS
    parts = []
    top = float(TOP)
    for start in range(0, len(panels), COLUMNS):
        line = panels[start : start + COLUMNS]
        for column, panel in enumerate(line):
            parts += _panel(panel, MARGIN + column * (width + GAP), top, width)
        bars = max(len(panel.bars) for panel in line)
        top += PANEL_HEAD + bars * BAR_STEP + PANEL_FOOT
    described = "; ".join(_described(panel) for panel in panels)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top:.0f}" role="img"',
            '  aria-labelledby="title desc" font-size="14"',
            "  font-family=\"system-ui, -apple-system, 'Segoe UI', sans-serif\">",
            f'  <title id="title">{escape(title)}</title>',
            f'  <desc id="desc">{escape(described)}</desc>',
            f"  <style>{STYLE}\n  </style>",
            f'  <rect class="paper" width="{WIDTH}" height="{top:.0f}" rx="10"/>',
            f'  <text class="title" x="{MARGIN}" y="42">{escape(title)}</text>',
            *parts,
            "</svg>\n",
        ]
    )


def _described(panel: Panel) -> str:
    values = ", ".join(f"{TITLES[bar.server]} {number_text(bar.value)}" for bar in panel.bars)
    return f"{panel.title}, {panel.unit}: {values}"


def _panel(panel: Panel, left: float, top: float, width: float) -> list[str]:
    better = "more is better" if panel.better == "more" else "less is better"
    parts = [
        f'  <text class="head" x="{left:.1f}" y="{top + 12:.1f}">{escape(panel.title)}'
        f'<tspan class="note" font-weight="400" font-size="12" dx="8">'
        f"{escape(panel.unit)}, {better}</tspan></text>"
    ]
    greatest = max(bar.value for bar in panel.bars) or 1.0
    room = width - NAME_WIDTH - VALUE_WIDTH
    for place, bar in enumerate(panel.bars):
        y = top + PANEL_HEAD + place * BAR_STEP
        length = max(LEAST, room * bar.value / greatest)
        own = bar.server == RUNFOLD
        fill = "runfold" if own else "limit" if bar.server == "yardstick" else "bar"
        text = "own" if own else "name"
        x = left + NAME_WIDTH
        parts += [
            f'  <text class="{text}" x="{x - 8:.1f}" y="{y + 13:.1f}" text-anchor="end">'
            f"{escape(TITLES[bar.server])}</text>",
            f'  <rect class="{fill}" x="{x:.1f}" y="{y:.1f}" width="{length:.1f}" '
            f'height="{BAR}" rx="2"/>',
            f'  <text class="{text}" x="{x + length + 6:.1f}" y="{y + 13:.1f}">'
            f"{number_text(bar.value)}</text>",
        ]
    return parts


def charts(results: Results) -> dict[str, str]:
    """The charts by file name; none for what was not measured."""
    return {
        chart.file: draw(chart.title, panels)
        for chart in CHARTS
        if (panels := panels_of(results, chart))
    }
