"""A soak: Runfold under half of what it can take, with readers, for half an hour.

`python -m infra.benchmarks.soak`. Memory, latency and lag must stay flat, the names of files within
the bound for what was logged, and `runfold verify` must be clean at the end. Writes soak.md and
soak.json.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from infra.benchmarks.bench import Bench, Options, wait_for_views
from infra.benchmarks.bodies import Stream, get, post
from infra.benchmarks.cases.logging import BATCH, LagWatch, streams_for
from infra.benchmarks.checks import wrong_points, wrong_statuses
from infra.benchmarks.load import Clients, Outcome, run_load, run_loads, same_request
from infra.benchmarks.machine import machine
from infra.benchmarks.peers import Peers
from infra.benchmarks.results import number_text, percentile
from infra.benchmarks.rows import RUNFOLD
from infra.benchmarks.servers import ROOT, Server, runfold_command

CACHE = Path("~/.cache/runfold-benchmarks")
TRIAL_S = 10.0
READ_EVERY_S = 0.5
LAG_EVERY_S = 1.0
KINDS = ("log-batch", "runs/get", "runs/search", "chart")
FULL_POINTS = 15_000_000
"""A segment of a busy experiment that is full has more."""
FULL_NAMES = 3
"""It is one file with a link, and has a second link for the seconds in which folders change."""
OTHER_NAMES = 300
"""Segments that are not full, those of the last minute that were merged, and all other files."""


@dataclass(frozen=True)
class Moment:
    """What one interval was like."""

    minute: float
    points_s: float
    p99_ms: dict[str, float]
    """By kind of request."""
    lag_max: int
    """Events not folded yet, at worst."""
    memory_mb: float
    names: int
    """Of files; one with links has several."""
    segments: int
    """Those of them that are segments, also merged ones that are about to go,"""
    links: int
    """and those that other engines read them by."""
    names_max: int
    """There must not be more names for the points logged by then."""
    disk_mb: float


def names_max(points: int) -> int:
    """How many names of files there may be for so many points of one experiment."""
    return OTHER_NAMES + FULL_NAMES * points // FULL_POINTS


def names_in(home: Path) -> tuple[Counter[str], int]:
    """How many names files have by what they are, and the bytes of the files."""
    names: Counter[str] = Counter()
    sizes: dict[int, int] = {}
    for folder, _, files in os.walk(home):
        inside = Path(folder).relative_to(home).parts
        kind = "others"
        if inside[:2] == ("lake", ".segments"):
            kind = "segments"
        elif inside[:1] == ("lake",) and inside[1:2] and inside[1].startswith("experiment_id="):
            kind = "links"
        for file in files:
            # Files come and go meanwhile.
            with contextlib.suppress(FileNotFoundError):
                found = (Path(folder) / file).lstat()
                names[kind] += 1
                sizes[found.st_ino] = found.st_size
    return names, sum(sizes.values())


class Recorder:
    """Looks at the server and at what the load gave, once an interval."""

    def __init__(self, server: Server, outcomes: Sequence[Outcome], watch: LagWatch) -> None:
        self._server = server
        self._outcomes = outcomes
        self._watch = watch
        self._seen = [0] * len(outcomes)
        self._lags_seen = 0
        self.moments: list[Moment] = []

    def run(self, interval_s: float, stop: threading.Event) -> None:
        """Looks until told to stop."""
        while not stop.wait(interval_s):
            self._look(interval_s)

    def _look(self, interval_s: float) -> None:
        latencies = []
        for place, outcome in enumerate(self._outcomes):
            latencies.append(outcome.latencies_s[self._seen[place] :])
            self._seen[place] += len(latencies[-1])
        lags = self._watch.lags[self._lags_seen :]
        self._lags_seen += len(lags)
        names, size_bytes = names_in(self._server.home)
        moment = Moment(
            (len(self.moments) + 1) * interval_s / 60,
            len(latencies[0]) * BATCH.points / interval_s,
            {
                kind: round(percentile(of_kind, 0.99) * 1000, 2)
                for kind, of_kind in zip(KINDS, latencies, strict=True)
            },
            max(lags, default=0),
            self._server.memory_mb(),
            names.total(),
            names["segments"],
            names["links"],
            names_max(self._seen[0] * BATCH.points),
            size_bytes / 1e6,
        )
        self.moments.append(moment)
        click.echo(json.dumps(asdict(moment)), err=True)


def readers(streams: Sequence[Stream]) -> list[Clients]:
    """One connection a kind of reading."""
    run_id, key = streams[0].run_id, streams[0].keys[0]
    chart = f"run_ids={run_id}&metric_key={key}&max_results=320"
    requests = (
        get(f"runs/get?run_id={run_id}"),
        post("runs/search", {"experiment_ids": ["0"], "max_results": 100}),
        get(f"metrics/get-history-bulk-interval?{chart}"),
    )
    return [Clients([same_request(request)], READ_EVERY_S) for request in requests]


def trial_rate(server: Server, streams: Sequence[Stream]) -> float:
    """Points a second that the server takes at full load."""
    outcome = run_load(server.port, streams, TRIAL_S)
    wait_for_views(server)
    return outcome.answered * BATCH.points / outcome.seconds


def soak(
    server: Server, minutes: float, rate: float, interval_s: float
) -> tuple[list[Moment], list[str]]:
    """Runs the load; returns what each interval was like and what was wrong."""
    streams = streams_for(server, BATCH)
    rate = rate or trial_rate(server, streams) / 2
    watch = LagWatch()
    every_s = BATCH.connections * BATCH.points / rate
    groups = [Clients(streams, every_s), *readers(streams), Clients([watch], LAG_EVERY_S)]
    outcomes = [Outcome() for _ in groups]
    recorder = Recorder(server, outcomes[: len(KINDS)], watch)
    stop = threading.Event()
    beside = threading.Thread(target=recorder.run, args=(interval_s, stop))
    beside.start()
    try:
        run_loads(server.port, groups, 60 * minutes, outcomes)
    finally:
        stop.set()
        beside.join()
    wait_for_views(server)
    problems = [problem for outcome in outcomes for problem in wrong_statuses(outcome)]
    problems += [
        f"minute {moment.minute:g}: {moment.names} names of files, at most {moment.names_max}"
        for moment in recorder.moments
        if moment.names > moment.names_max
    ]
    return recorder.moments, problems + list(wrong_points(server.client(), streams))


def page(moments: Sequence[Moment], problems: Sequence[str], facts: dict[str, str]) -> str:
    """The page."""
    heads = ["minute", "points/s", *(f"{kind}, p99 ms" for kind in KINDS)]
    heads += ["lag, events", "memory, MB", "names of files", "of segments", "of links", "at most"]
    heads += ["disk, MB"]
    rows = [heads, ["---:"] * len(heads)]
    for moment in moments:
        values = [moment.minute, moment.points_s, *(moment.p99_ms[kind] for kind in KINDS)]
        values += [moment.lag_max, moment.memory_mb, moment.names, moment.segments, moment.links]
        values += [moment.names_max, moment.disk_mb]
        rows.append([number_text(value) for value in values])
    wrong = [f"- {problem}" for problem in problems] or ["Nothing was wrong."]
    lines = ["# Soak", "", "<!-- Made by python -m infra.benchmarks.soak. -->", ""]
    lines += [f"- {name}: {text}" for name, text in facts.items()]
    lines += ["", *("| " + " | ".join(row) + " |" for row in rows), "", *wrong]
    return "\n".join(lines) + "\n"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--minutes", type=float, default=30.0, show_default=True)
@click.option("--rate", type=float, default=0.0, help="Points/s; by default half of a trial's.")
@click.option("--interval", type=float, default=60.0, show_default=True, help="Seconds a line.")
@click.option("--work", type=click.Path(path_type=Path), default=CACHE / "work", show_default=True)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=ROOT / "docs" / "benchmarks",
    help="Where soak.md and soak.json go.  [default: docs/benchmarks]",
)
def main(minutes: float, rate: float, interval: float, work: Path, output: Path) -> None:
    """Load Runfold for long, with readers, then verify its views."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    work = work.expanduser().resolve()
    bench = Bench(Options(), Peers(work), work, case="soak")
    folder = bench.home_of(RUNFOLD)
    try:
        with bench.started(RUNFOLD, folder) as server:
            moments, problems = soak(server, minutes, rate, interval)
            home = server.home
        verified = subprocess.run(
            runfold_command("verify", "--home", str(home)), capture_output=True, text=True
        )
    finally:
        bench.clean(RUNFOLD)
    said = (verified.stdout.strip().splitlines() or ["(nothing)"])[-1]
    facts = {**machine(work), "`runfold verify`": f"exit {verified.returncode}: {said}"}
    output.mkdir(parents=True, exist_ok=True)
    (output / "soak.md").write_text(page(moments, problems, facts), "utf-8")
    document = {"facts": facts, "problems": problems, "moments": [asdict(m) for m in moments]}
    (output / "soak.json").write_text(json.dumps(document, indent=2) + "\n", "utf-8")
    click.echo(page(moments, problems, facts))
    sys.exit(1 if problems or verified.returncode else 0)


if __name__ == "__main__":
    main()
