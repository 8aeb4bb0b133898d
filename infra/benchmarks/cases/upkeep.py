"""Upkeep: idle memory, rebuilding the views, gc."""

from __future__ import annotations

import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from events.event import NewEvent
from infra.benchmarks.bench import Bench, Case
from infra.benchmarks.fill import (
    JOURNAL_EVENTS_A_RUN,
    KEYS,
    fill,
    lively_run,
    run_id_of,
    run_with_points,
    trainings,
)
from infra.benchmarks.memory import PeakMemory, wait_until_quiet
from infra.benchmarks.rows import FASTTRACKML, MLFLOW, RUNFOLD
from infra.benchmarks.servers import Server, runfold_command

REBUILT_POINTS = 50_000_000
REBUILT_JOURNAL_EVENTS = 500_000
TRAININGS = 500
PURGED_POINTS = 6_500_000
WATCH_S = 0.2


def _idle(bench: Bench, name: str) -> None:
    with bench.started(name) as server:
        server.client().create_run()
        wait_until_quiet(server.pid)
        bench.record("idle", name, server.memory_mb())


@dataclass
class Lane:
    """When a rebuild was at the first and at the last events of a lane."""

    events: int
    started: float = 0.0
    ended: float = 0.0
    _seen: int = field(default=0)

    def saw(self, position: int, before: float, now: float) -> None:
        """The lane stands at this position."""
        if position > 0 and not self.started:
            self.started = before
        if position > self._seen:
            self._seen, self.ended = position, now

    @property
    def seconds(self) -> float:
        """From the look before the first event was folded until the last was."""
        return max(self.ended - self.started, WATCH_S)


def _positions(home: Path) -> dict[str, int]:
    """Where the views that are being made stand, by lane."""
    for path in home.glob("views.db.making-*"):
        if path.suffix in {".lock"} or path.name.endswith(("-wal", "-shm")):
            continue
        uri = f"file:{path}?mode=ro"
        with suppress(sqlite3.Error), closing(sqlite3.connect(uri, uri=True)) as connection:
            return dict(connection.execute("SELECT lane, position FROM checkpoints"))
    return {}


def _watched_rebuild(home: Path, lanes: dict[str, Lane]) -> tuple[int, float]:
    """Runs `runfold rebuild`; returns its exit code and the most memory that it took, in MB."""
    before = time.monotonic()
    process = subprocess.Popen(runfold_command("rebuild", "--home", str(home)))
    with PeakMemory(process.pid) as peak:
        while process.poll() is None:
            positions = _positions(home)
            now = time.monotonic()
            for name, lane in lanes.items():
                lane.saw(positions.get(name, 0), before, now)
            before = now
            time.sleep(WATCH_S)
    # What is sealed after the last point was folded is the points' time too.
    lanes["points"].ended = time.monotonic()
    return process.returncode, peak.mb


def _rebuilt_events(points: int, journal_events: int) -> Iterator[NewEvent]:
    yield from trainings(points, TRAININGS)
    for place in range(journal_events // JOURNAL_EVENTS_A_RUN):
        yield from lively_run(TRAININGS + place)


def _rebuild(bench: Bench, name: str) -> None:
    points = bench.scaled(REBUILT_POINTS)
    steps = -(-(points // TRAININGS) // KEYS)
    points = steps * KEYS * TRAININGS
    journal_events = bench.scaled(REBUILT_JOURNAL_EVENTS)
    folder = bench.home_of(name)
    home = folder / "runfold-data"
    fill(home, _rebuilt_events(points, journal_events))
    lanes = {"journal": Lane(journal_events), "points": Lane(points)}
    code, memory_mb = _watched_rebuild(home, lanes)
    if code:
        bench.problem(name, f"runfold rebuild ended with {code}")
    bench.record("rebuild-journal", name, journal_events / lanes["journal"].seconds)
    bench.record("rebuild-points", name, points / lanes["points"].seconds)
    bench.record("rebuild-memory", name, memory_mb)
    bench.note("rebuild-points", name, f"{points:,} points, {journal_events:,} journal events")
    with bench.started(name, folder) as server:
        found = len(server.client().history(run_id_of(TRAININGS - 1), "train/metric_07"))
        if found != steps:
            bench.problem(name, f"{found} of {steps} points read back")


def _purge(bench: Bench, server: Server, run_id: str) -> None:
    client = server.client()
    idle_mb = server.memory_mb()
    client.call("POST", "runs/delete", {"run_id": run_id})
    started = time.monotonic()
    process = subprocess.Popen(runfold_command("gc", "--home", str(server.home)))
    with PeakMemory(server.pid, process.pid) as peak:
        code = process.wait()
    bench.record("gc-time", server.name, time.monotonic() - started)
    bench.record("gc-memory", server.name, peak.mb - idle_mb)
    if code:
        bench.problem(server.name, f"runfold gc ended with {code}")
    if client.status("GET", f"/api/2.0/mlflow/runs/get?run_id={run_id}") != 404:
        bench.problem(server.name, "the purged run is still there")


def _gc(bench: Bench, name: str) -> None:
    folder = bench.home_of(name)
    events = run_with_points(run_id_of(1), bench.scaled(PURGED_POINTS))
    fill(folder / "runfold-data", (*events, *run_with_points(run_id_of(2), 100_000, seed=2)))
    with bench.started(name, folder) as server:
        bench.settle(server)
    with bench.started(name, folder) as server:
        bench.settle(server)
        _purge(bench, server, run_id_of(1))


CASES = (
    Case(
        "idle",
        "the memory of a server that has nothing to do",
        ("idle",),
        (MLFLOW, FASTTRACKML, RUNFOLD),
        _idle,
    ),
    Case(
        "rebuild",
        "all views are made again from a log of 50 million points and 500,000 journal events",
        ("rebuild-points", "rebuild-journal", "rebuild-memory"),
        (RUNFOLD,),
        _rebuild,
    ),
    Case(
        "gc",
        "a deleted run with 6.5 million points is purged beside the running server",
        ("gc-memory", "gc-time"),
        (RUNFOLD,),
        _gc,
    ),
)
