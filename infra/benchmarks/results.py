"""What was measured, and what it says: medians, ratios, verdicts."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from infra.benchmarks.rows import REFERENCE_RATES, RUNFOLD, TITLES, YARDSTICK, Limit, Row, Target


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which this share of the values lies; the greatest of few. 0 for none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


@dataclass
class Results:
    """All values of one run of the benchmark."""

    values: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    """By row and server, one value a repetition."""
    problems: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    """By case and server: wrong answers, failures."""
    notes: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    """By row and server: what a reader of the value should know."""

    def record(self, row: str, server: str, value: float) -> None:
        """Adds a repetition's value."""
        self.values.setdefault(row, {}).setdefault(server, []).append(value)

    def problem(self, case: str, server: str, text: str) -> None:
        """Something is wrong with what a server answered."""
        told = self.problems.setdefault(case, {}).setdefault(server, [])
        if text not in told:
            told.append(text)

    def note(self, row: str, server: str, text: str) -> None:
        """Something that a reader should know."""
        told = self.notes.setdefault(row, {}).setdefault(server, [])
        if text not in told:
            told.append(text)

    def median(self, row: str, server: str) -> float | None:
        """The median over the repetitions, or None where nothing was measured."""
        values = self.values.get(row, {}).get(server)
        return statistics.median(values) if values else None

    def machine_factor(self) -> float | None:
        """How fast this machine is, against the one of the absolute targets: the mean of the
        yardstick's ratios. None where the yardstick did not run."""
        ratios = [
            median / reference
            for row, reference in REFERENCE_RATES.items()
            if (median := self.median(row, YARDSTICK))
        ]
        return math.exp(statistics.mean(map(math.log, ratios))) if ratios else None


@dataclass(frozen=True)
class Verdict:
    """One target of one row."""

    wanted: str
    reached: str
    met: bool | None
    """None where it can't be said, for something was not measured."""


def times_as_good(row: Row, value: float, other: float) -> float:
    """How many times as good a value is as another: above 1 is better, whatever the unit."""
    above, below = (value, other) if row.better == "more" else (other, value)
    if below == 0:
        return 1.0 if above == 0 else math.inf
    return above / below


def ratio(results: Results, row: Row, server: str, other_row: str | None = None) -> float | None:
    """How many times as good Runfold is as a server in this run; None where not measured."""
    own = results.median(row.name, RUNFOLD)
    other = results.median(other_row or row.name, server)
    return None if own is None or other is None else times_as_good(row, own, other)


def verdicts(results: Results, row: Row) -> list[Verdict]:
    """What Runfold reached of a row's targets."""
    return [_verdict(results, row, target) for target in row.targets]


def _verdict(results: Results, row: Row, target: Target) -> Verdict:
    if isinstance(target, Limit):
        return _limit_verdict(results, row, target)
    reached = ratio(results, row, target.server, target.row)
    name = target.named or TITLES[target.server]
    met = None if reached is None else reached >= target.factor
    if target.server == RUNFOLD and row.better == "less":
        # Read as a person asks it: how many times as long.
        shown = "not measured" if reached is None else f"{1 / reached:.2g} ×"
        return Verdict(f"≤ {1 / target.factor:.3g} × {name}", shown, met)
    shown = "not measured" if reached is None else times_text(reached)
    return Verdict(f"{times_text(target.factor)} {name}", shown, met)


def _limit_verdict(results: Results, row: Row, target: Limit) -> Verdict:
    factor = results.machine_factor() if target.scales else 1.0
    own = results.median(row.name, RUNFOLD)
    sign = "≥" if row.better == "more" else "≤"
    if factor is None:
        return Verdict(f"{sign} {number_text(target.value)} {row.unit}, scaled", "", None)
    value = target.value * factor if row.better == "more" else target.value / factor
    wanted = f"{sign} {number_text(value)} {row.unit}"
    if own is None:
        return Verdict(wanted, "not measured", None)
    met = own >= value if row.better == "more" else own <= value
    return Verdict(wanted, number_text(own), met)


def row_met(results: Results, row: Row, problems: Sequence[str] = ()) -> bool | None:
    """Whether a row is at or past all of its targets; None where one can't be said, or it has
    none. Wrong answers miss every target."""
    found = [verdict.met for verdict in verdicts(results, row)]
    if problems or False in found:
        return False
    return None if not found or None in found else True


def times_text(value: float) -> str:
    """A ratio, as many digits as one reads."""
    if math.isinf(value):
        return "∞ ×"
    return f"{value:.0f} ×" if value >= 20 else f"{value:.2g} ×"


def number_text(value: float) -> str:
    """A value with three digits or so, thousands parted."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def problems_of(results: Results, cases: Mapping[str, Sequence[str]], row: str) -> list[str]:
    """What is wrong with Runfold's answers in the cases that measure a row."""
    return [
        text
        for case, rows in cases.items()
        if row in rows
        for text in results.problems.get(case, {}).get(RUNFOLD, [])
    ]
