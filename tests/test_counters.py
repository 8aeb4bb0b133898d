"""Counters, and the text that Prometheus reads, as its own parser understands it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from events import worker_counts
from events.counters import Exposition, Histogram
from events.worker_counts import (
    EXPORT_ERRORS,
    FOLD_SECONDS,
    FOLDED_EVENTS,
    MEASURES,
    ROLES,
    WorkerCounts,
)


def parsed(text: bytes) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample by its name and labels; each is there once."""
    found: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found
            found[key] = sample.value
    return found


def value(found: Any, name: str, **labels: str) -> float:
    """One sample."""
    return float(found[name, frozenset(labels.items())])


def test_a_histogram_counts_what_is_at_most_its_bounds() -> None:
    """Buckets add up, a value on a bound belongs to it, and what is greater than all is in +Inf."""
    histogram = Histogram((1.0, 2.0))
    for one in (0.5, 1.0, 1.5, 2.0, 9.0):
        histogram.observe(one)
    exposition = Exposition()
    exposition.histogram("h", "help", [({"a": "b"}, histogram)])
    found = parsed(exposition.text())
    counts = [value(found, "h_bucket", a="b", le=le) for le in ("1.0", "2.0", "+Inf")]
    assert counts == [2, 4, 5]
    assert (value(found, "h_sum", a="b"), value(found, "h_count", a="b")) == (14.0, 5)


def test_any_text_can_be_a_label() -> None:
    """Quotes, backslashes and line ends come out as they went in; numbers keep their value."""
    odd = 'a"b\\c\nd'
    exposition = Exposition()
    exposition.counter("c_total", odd, ({"x": odd}, 0.1), ({"x": "y"}, 1e15))
    exposition.gauge("g", "help", ({}, True))
    found = parsed(exposition.text())
    assert value(found, "c_total", x=odd) == 0.1
    assert value(found, "c_total", x="y") == 1e15
    assert value(found, "g") == 1


def test_worker_counts_are_seen_by_who_shares_them(tmp_path: Path) -> None:
    """Two processes that have the same file open see one set of numbers, each measure apart."""
    fd = os.open(tmp_path / "counts", os.O_RDWR | os.O_CREAT)
    worker, api = WorkerCounts(fd), WorkerCounts(fd)
    worker.add(FOLDED_EVENTS["journal"], 7)
    worker.observe(FOLD_SECONDS["points"], 0.02)
    worker.observe(FOLD_SECONDS["points"], 99.0)
    WorkerCounts(fd).add(EXPORT_ERRORS)
    exposition = Exposition()
    api.write(exposition, ROLES)
    os.close(fd)
    found = parsed(exposition.text())
    assert value(found, "runfold_folded_events_total", lane="journal") == 7
    assert value(found, "runfold_folded_events_total", lane="points") == 0
    assert value(found, "runfold_fold_seconds_count", lane="points") == 2
    assert value(found, "runfold_fold_seconds_sum", lane="points") == 99.02
    assert value(found, "runfold_fold_seconds_bucket", lane="points", le="10.0") == 1
    assert value(found, "runfold_fold_seconds_count", lane="journal") == 0
    assert value(found, "runfold_export_errors_total") == 1
    assert sum(found.values()) < 150, "a number stands in a place that is not its own"


def test_a_role_tells_its_own_alone() -> None:
    """A worker that runs alone shows no zeros for the work of others."""
    exposition = Exposition()
    WorkerCounts().write(exposition, ["gc"])
    names = {name for name, _ in parsed(exposition.text())}
    assert "runfold_gc_purged_total" in names
    assert not any("_fold" in name or "seal" in name for name in names)


def test_every_measure_is_listed() -> None:
    """A measure that is declared but has no place would fail only once it is counted."""
    declared = [
        one
        for found in vars(worker_counts).values()
        for one in (found.values() if isinstance(found, dict) else [found])
        if isinstance(one, worker_counts.Measure)
    ]
    assert {id(one) for one in declared} == {id(one) for one in MEASURES}
