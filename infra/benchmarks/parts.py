"""Runfold in parts: API processes and workers apart, over real servers started for them."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from infra.backends.catalog import BACKENDS
from infra.backends.service import Service
from infra.benchmarks.servers import Server, free_port, runfold_command, running_command

PARTITIONS = 4
"""Of the points on Kafka."""
TOPICS = "benchmark"
"""What the names of the topics begin with."""
INIT_S_MAX = 60.0


@contextlib.contextmanager
def service(name: str) -> Iterator[Service]:
    """A real server of this kind on an empty folder, which goes at the end."""
    made = BACKENDS[name].make(None)
    try:
        yield made.start()
    finally:
        made.remove()


@dataclass(frozen=True)
class Parts:
    """Where an installation keeps everything; starts its parts."""

    folder: Path
    flags: Sequence[str]
    services: Mapping[str, Service]
    """The servers below it, by their kind."""

    @property
    def home(self) -> Path:
        """The folder of what is on no server."""
        return self.folder / "home"

    @contextlib.contextmanager
    def part(self, words: str) -> Iterator[Server]:
        """One process, such as `api` or `worker projector`, once it answers."""
        port = free_port()
        of_port = "--port" if words == "api" else "--metrics-port"
        command = runfold_command(
            *words.split(), of_port, str(port), "--home", str(self.home), *self.flags
        )
        with running_command(words.split()[-1], command, port, self.folder) as server:
            yield server


@contextlib.contextmanager
def backed(folder: Path, log: str, views: str, partitions: int = PARTITIONS) -> Iterator[Parts]:
    """An installation without a process yet, its log and its views on servers of these kinds."""
    with contextlib.ExitStack() as running:
        kinds = sorted({log, views} - {"sqlite"})
        services = {kind: running.enter_context(service(kind)) for kind in kinds}
        flags: list[str] = []
        if log != "sqlite":
            uri = services[log].uri + (f"/{TOPICS}" if log == "kafka" else "")
            flags += ["--log-uri", uri]
            if log == "kafka":
                init = runfold_command("log", "init", uri, "--partitions", str(partitions))
                subprocess.run(init, check=True, stdout=subprocess.DEVNULL, timeout=INIT_S_MAX)
        if views != "sqlite":
            flags += ["--views-uri", services[views].uri]
        parts = Parts(folder, flags, services)
        parts.home.mkdir(parents=True)
        yield parts
