"""Disk: what a point takes, once all is at rest."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing

from infra.benchmarks.bench import Bench, Case
from infra.benchmarks.cases.history import load_points
from infra.benchmarks.curves import Values, training
from infra.benchmarks.memory import wait_until_quiet
from infra.benchmarks.rows import FASTTRACKML, MLFLOW, RUNFOLD
from infra.benchmarks.servers import Server, folder_bytes

POINTS = {RUNFOLD: 2_000_000, FASTTRACKML: 200_000, MLFLOW: 50_000}
RUNS = 5
KEYS = 20
SEALED_WITHIN_S = 240.0
FIRST_ROUND_S = 4.0
SEAL_NOW = ("--seal-points", "1", "--seal-age", "0.1", "--export-age", "1")
"""What stays in blocks for the last points of an experiment would count for little in a large
store; here all is sealed."""


def wait_until_sealed(server: Server, within_s: float = SEALED_WITHIN_S) -> None:
    """Returns when no point is in a block, and the files that were merged into others, which are
    kept for a while for readers that have begun, are gone."""
    deadline = time.monotonic() + within_s
    # What an earlier server has sealed is merged in the first round, before which all is at rest.
    time.sleep(FIRST_ROUND_S)
    while wait_until_quiet(server.pid) and time.monotonic() < deadline:
        with closing(sqlite3.connect(server.home / "views.db")) as connection:
            names = ("blocks", "retired_segments")
            counts = [connection.execute(f"SELECT count(*) FROM {name}") for name in names]
            waiting = sum(count.fetchone()[0] for count in counts)
        # What the lake's folders showed before the last merge, for readers that are at it.
        replaced = server.home.glob("lake/experiment_id=*/.*.gone")
        if not waiting and not any(replaced):
            return
        time.sleep(1)


def _load(bench: Bench, name: str, values: Values) -> tuple[int, int, int, int]:
    """Logs the points; returns how many there are, what was added to the server's folder, and for
    Runfold the log's and the lake's share of it."""
    steps = max(1, bench.scaled(POINTS[name], name, least=20_000) // (RUNS * KEYS))
    folder = bench.home_of(name)
    with bench.started(name, folder) as server:
        client = server.client()
        runs = [client.create_run(f"run-{place}") for place in range(RUNS)]
    before = folder_bytes(folder)
    with bench.started(name, folder) as server:
        for place, run_id in enumerate(runs):
            points = training(place, steps, KEYS, values)
            load_points(bench, server, run_id, points)
            found = len(server.client().history(run_id, points.keys[place]))
            if found != steps:
                bench.problem(name, f"{found} of {steps} points read back")
    if name == RUNFOLD:
        with bench.started(name, folder, SEAL_NOW) as server:
            wait_until_sealed(server)
    home = folder / "runfold-data"
    log = sum(path.stat().st_size for path in home.glob("log.db*"))
    lake = folder_bytes(home / "lake")
    added = folder_bytes(folder) - before
    return steps * KEYS * RUNS, added, log, lake


def _curves(bench: Bench, name: str) -> None:
    points, added, log, lake = _load(bench, name, "curves")
    if name != RUNFOLD:
        bench.record("disk-curves", name, added / points)
        bench.note("disk-curves", name, f"over {points:,} points")
        return
    bench.record("disk-curves", name, (log + lake) / points)
    bench.record("disk-curves-lake", name, lake / points)


def _random(bench: Bench, name: str) -> None:
    points, _, log, lake = _load(bench, name, "random")
    bench.record("disk-random", name, (log + lake) / points)


CASES = (
    Case(
        "disk",
        "bytes that a point of a noisy float32 curve takes, in the log and the lake",
        ("disk-curves", "disk-curves-lake"),
        (MLFLOW, FASTTRACKML, RUNFOLD),
        _curves,
    ),
    Case(
        "disk-random",
        "the same for values that no compressor can help",
        ("disk-random",),
        (RUNFOLD,),
        _random,
    ),
)
