"""What each role costs: the processor's time for a million points, memory, and bytes a point.

`python -m infra.benchmarks.sizing`: starts API processes, a projector and a sealer as processes of
their own over the log and views that are asked for, sends them a fixed number of points, waits
until all is folded and the sealer rests, and prints a table. Processor time hardly depends on what
else the machine does; the rate and the reads do.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from infra.benchmarks.bodies import Shape, Stream
from infra.benchmarks.client import Client
from infra.benchmarks.load import Outcome, Source, run_load
from infra.benchmarks.memory import PeakMemory, cpu_s, wait_until_quiet
from infra.benchmarks.parts import PARTITIONS, backed
from infra.benchmarks.results import percentile
from infra.benchmarks.servers import folder_bytes

CONNECTIONS = 4
"""To each API process, each with a run of its own."""
POINTS, KEYS = 1_000, 20
"""Points of a request, and the keys they are of."""
WARM_UP = 20
"""Requests of each connection that don't count."""
READS = 200
LOGS = ("sqlite", "postgresql", "mariadb", "kafka")
VIEWS = ("sqlite", "postgresql", "mariadb")
CATCH_UP_S_MAX = 600.0
MILLION = 1e6


@dataclass(frozen=True)
class Role:
    """A process of Runfold's, or another server that it uses."""

    name: str
    pid: int
    port: int = 0


def limited(stream: Stream, count: int) -> Source:
    """A connection's next so many requests."""
    end = stream.sent + count
    return lambda answer: stream(answer) if stream.sent < end else None


def send(ports: Mapping[int, Sequence[Stream]], count: int) -> list[Outcome]:
    """Sends so many requests over each connection, to all API processes at once."""
    outcomes: list[Outcome] = []

    def load(port: int, streams: Sequence[Stream]) -> None:
        outcomes.append(run_load(port, [limited(stream, count) for stream in streams]))

    threads = [threading.Thread(target=load, args=item) for item in ports.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    refused = [outcome.refused for outcome in outcomes if outcome.refused]
    if refused or len(outcomes) != len(ports):
        raise click.ClickException(f"not every request was answered with 200: {refused}")
    return outcomes


def fresh_reads_s(client: Client) -> list[float]:
    """How long a read of a run takes right after a metric was logged to it."""
    run_id = client.create_run("read")
    taken = []
    for step in range(READS):
        point = {"run_id": run_id, "key": "m", "value": step, "timestamp": step, "step": step}
        client.call("POST", "runs/log-metric", point)
        begun = time.perf_counter()
        found = client.latest(run_id)["m"]
        taken.append(time.perf_counter() - begun)
        if found != (step, float(step)):
            raise click.ClickException(f"a read after step {step} found {found}")
    return taken


def measured(roles: Sequence[Role], requests: int) -> str:
    """Loads the API processes and tells of all roles, as Markdown."""
    apis = [role for role in roles if role.name == "api"]
    client = Client(apis[0].port)
    rest(roles, client)
    ports = {
        api.port: [
            Stream(client.create_run(), CONNECTIONS * place + number, Shape(POINTS, KEYS, 50))
            for number in range(CONNECTIONS)
        ]
        for place, api in enumerate(apis)
    }
    send(ports, WARM_UP)
    rest(roles, client)
    reads = fresh_reads_s(client)
    before = {role.pid: cpu_s(role.pid) for role in roles}
    with contextlib.ExitStack() as watching:
        peaks = {role.pid: watching.enter_context(PeakMemory(role.pid)) for role in roles}
        outcomes = send(ports, requests)
        rest(roles, client)
    points = requests * CONNECTIONS * POINTS * len(apis)
    lines = [
        "| process | processor s for a million points | memory, MB at most |",
        "|---|---:|---:|",
    ]
    for role in roles:
        used = (cpu_s(role.pid) - before[role.pid]) / points * MILLION
        lines.append(f"| {role.name} | {used:.2f} | {peaks[role.pid].mb:.0f} |")
    seconds = max(one.ended for one in outcomes) - min(one.started for one in outcomes)
    half, most = (percentile(reads, share) * 1000 for share in (0.5, 0.99))
    lines += [
        "",
        f"{points / MILLION:.1f} million points, {points / seconds:,.0f} a second.",
        f"A read right after a write: half within {half:.1f} ms, 99 of 100 within {most:.1f} ms.",
    ]
    return "\n".join(lines)


def rest(roles: Sequence[Role], client: Client) -> None:
    """Waits until all is folded, and what was sealed and merged."""
    deadline = time.monotonic() + CATCH_UP_S_MAX
    while client.lag() != 0:
        if time.monotonic() > deadline:
            raise click.ClickException("folding does not catch up")
        time.sleep(0.1)
    for role in roles:
        if role.name == "sealer":
            wait_until_quiet(role.pid)


@click.command()
@click.option("--log", "log_name", type=click.Choice(LOGS), default="sqlite", show_default=True)
@click.option(
    "--views", "views_name", type=click.Choice(VIEWS), default="sqlite", show_default=True
)
@click.option("--partitions", default=PARTITIONS, show_default=True, help="Of points on Kafka.")
@click.option("--apis", default=1, show_default=True, help="API processes.")
@click.option("--projectors", default=1, show_default=True, help="Projectors.")
@click.option("--requests", default=500, show_default=True, help="Requests of each connection.")
def main(
    log_name: str, views_name: str, partitions: int, apis: int, projectors: int, requests: int
) -> None:
    """Measures what each role costs, and prints a table in Markdown."""
    folder = Path(tempfile.mkdtemp(prefix="runfold-sizing-"))
    with contextlib.ExitStack() as running:
        running.callback(shutil.rmtree, folder, ignore_errors=True)
        parts = running.enter_context(backed(folder / "all", log_name, views_name, partitions))
        roles = [Role(name, one.process.pid) for name, one in parts.services.items() if one.process]
        workers = ["worker projector"] * projectors + ["worker sealer"]
        for words in [*workers, *["api"] * apis]:
            part = running.enter_context(parts.part(words))
            roles.insert(0, Role(part.name, part.pid, part.port))
        click.echo(f"The log on {log_name}, the views on {views_name}.\n")
        click.echo(measured(roles, requests))
        lake = folder_bytes(parts.home / "lake")
        points = (requests + WARM_UP) * CONNECTIONS * POINTS * apis
        click.echo(f"The lake has {lake / points:.2f} bytes a point.")


if __name__ == "__main__":
    main()
