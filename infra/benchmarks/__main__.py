"""The command line: `infra/scripts/benchmark`, or `python -m infra.benchmarks`."""

from __future__ import annotations

import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import click

from infra.benchmarks import report
from infra.benchmarks.bench import Bench, Case, Options
from infra.benchmarks.cases.catalog import CASES
from infra.benchmarks.machine import file_system, machine, versions
from infra.benchmarks.peers import VERSIONS, Peers
from infra.benchmarks.rows import REFERENCE_RATES, RUNFOLD, SERVERS, YARDSTICK
from infra.benchmarks.servers import ROOT

CACHE = Path("~/.cache/runfold-benchmarks")
DOCS = ROOT / "docs" / "benchmarks"
QUICK = Options(seconds=2.0, sustained_seconds=5.0, repeat=1, scale=0.06, peers_scale=1.0)
BY_NAME = {case.name: case for case in CASES}


class Names(click.ParamType[Sequence[str]]):
    """Some of a set of names, parted by commas."""

    name = "names"

    def __init__(self, known: Sequence[str]) -> None:
        self._known = known

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> Sequence[str]:
        """The names, or click's error where one is not known."""
        names = value.split(",") if isinstance(value, str) else [str(value)]
        for name in names:
            if name not in self._known:
                self.fail(f"{name!r} is not one of {', '.join(self._known)}", param, ctx)
        return names


def measure(bench: Bench, case: Case, name: str) -> None:
    """Runs a case on a server; a failure is a problem of that case and stops nothing else."""
    bench.case = case.name
    started = time.monotonic()
    try:
        case.run(bench, name)
    except Exception as error:
        traceback.print_exc()
        bench.problem(name, f"failed: {type(error).__name__}: {str(error)[:300]}")
    finally:
        bench.clean(name)
    click.echo(f"  {case.name} on {name}: {time.monotonic() - started:.0f} s", err=True)


def run_case(bench: Bench, case: Case, servers: Sequence[str]) -> None:
    """Runs a case on each of the servers in turn, as often as asked."""
    click.echo(f"{case.name}: {case.about}", err=True)
    for _ in range(bench.options.repeat if case.repeats else 1):
        for name in case.servers:
            if name in servers:
                measure(bench, case, name)


def calibrate(bench: Bench) -> None:
    """Sees to it that the yardstick has run: the absolute targets scale by it."""
    if not any(bench.results.median(row, YARDSTICK) for row in REFERENCE_RATES):
        measure(bench, BY_NAME["log-batch"], YARDSTICK)


def head_of(bench: Bench) -> report.Head:
    """What the table says of this run."""
    return report.Head(
        command=" ".join(["infra/scripts/benchmark", *sys.argv[1:]]),
        machine=machine(bench.work),
        versions=versions(),
        settings=asdict(bench.options),
        cases={case.name: case.rows for case in CASES},
    )


def _options(quick: bool, given: dict[str, float | int | None]) -> Options:
    options = QUICK if quick else Options()
    asked = {name: value for name, value in given.items() if value is not None}
    return replace(options, **asked)  # type: ignore[arg-type]


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--cases", type=Names(list(BY_NAME)), help="Only these, parted by commas.")
@click.option("--servers", type=Names(SERVERS), help="Only these, parted by commas.")
@click.option("--list", "listing", is_flag=True, help="Name the cases and end.")
@click.option("--quick", is_flag=True, help="Small data, short loads: only to see that it works.")
@click.option(
    "--repeat",
    type=click.IntRange(1),
    help="How often loads, searches and histories run.  [default: 3]",
)
@click.option("--seconds", type=float, help="How long a load runs.  [default: 5]")
@click.option("--sustained-seconds", type=float, help="How long `sustained` runs.  [default: 60]")
@click.option("--scale", type=float, help="Shrinks the data sets.  [default: 1]")
@click.option("--peers-scale", type=float, help="Shrinks what MLflow must load.  [default: 1]")
@click.option(
    "--peers",
    type=click.Path(path_type=Path, file_okay=False),
    default=CACHE / "peers",
    show_default=True,
    help="Where MLflow and FastTrackML are installed, each in an environment of its own.",
)
@click.option(
    "--work",
    type=click.Path(path_type=Path, file_okay=False),
    default=CACHE / "work",
    show_default=True,
    help="Where the servers keep their data meanwhile; on a real disk.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the table and the charts go.  [default: docs/benchmarks for a whole run]",
)
@click.option(
    "--name",
    default=report.NAME,
    show_default=True,
    help="What the table is called; charts are drawn for the default alone.",
)
def main(
    cases: Sequence[str] | None,
    servers: Sequence[str] | None,
    listing: bool,
    quick: bool,
    peers: Path,
    work: Path,
    output: Path | None,
    name: str,
    **given: float | int | None,
) -> None:
    """Measure Runfold beside MLflow, FastTrackML and the yardstick."""
    if listing:
        for case in CASES:
            click.echo(f"{case.name:14} {case.about}")
        return
    # So that servers are stopped then too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options = _options(quick, given)
    work = work.expanduser().resolve()
    work.mkdir(parents=True, exist_ok=True)
    # The servers that Runfold builds on have temporary folders.
    for place, remedy in ((work, "--work"), (Path(tempfile.gettempdir()), "TMPDIR")):
        if file_system(place) == "tmpfs":
            raise click.ClickException(
                f"{place} is in memory, where an fsync costs nothing: {remedy}"
            )
    bench = Bench(options, Peers(peers.expanduser().resolve()), work)
    chosen = list(servers or SERVERS)
    for peer in VERSIONS:
        if peer in chosen:
            bench.peers.program(peer)
    whole = not (cases or servers or quick)
    folder = output or (DOCS if whole else work / "results")
    for case_name in cases or BY_NAME:
        run_case(bench, BY_NAME[case_name], chosen)
        # Written after each case, so that what was measured stays when the rest is cut short.
        report.write(bench.results, head_of(bench), folder, name)
    if RUNFOLD in chosen:
        calibrate(bench)
    report.write(bench.results, head_of(bench), folder, name)
    click.echo((folder / f"{name}.md").read_text("utf-8"))
    click.echo(f"Written to {folder}", err=True)


if __name__ == "__main__":
    main()
