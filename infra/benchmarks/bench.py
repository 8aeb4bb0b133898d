"""What a case works with: the options, a way to start servers, and where results go."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from infra.benchmarks.client import Refused
from infra.benchmarks.memory import wait_until_quiet
from infra.benchmarks.peers import Peers
from infra.benchmarks.results import Results
from infra.benchmarks.rows import MLFLOW, RUNFOLD
from infra.benchmarks.servers import Server, fresh_folder, running

CATCH_UP_S_MAX = 900.0
LAG_POLL_S = 0.02


@dataclass(frozen=True)
class Options:
    """How much is measured."""

    seconds: float = 5.0
    """How long a load runs."""
    sustained_seconds: float = 60.0
    repeat: int = 3
    scale: float = 1.0
    """Shrinks the large data sets; 1 is what the targets are about."""
    peers_scale: float = 1.0
    """Shrinks what MLflow has to load, on top of that."""


@dataclass
class Bench:
    """One run of the benchmark."""

    options: Options
    peers: Peers
    work: Path
    results: Results = field(default_factory=Results)
    case: str = ""
    """The case that runs now."""

    def scaled(self, count: int, server: str = RUNFOLD, least: int = 1) -> int:
        """So many, shrunk as the options say."""
        scale = self.options.scale
        if server == MLFLOW:
            scale *= self.options.peers_scale
        return max(least, round(count * scale))

    def home_of(self, name: str) -> Path:
        """A fresh folder for this case and a server, which goes when the case is done."""
        return fresh_folder(self.work / f"{self.case}-{name}")

    def clean(self, name: str) -> None:
        """Removes what a case has left."""
        shutil.rmtree(self.work / f"{self.case}-{name}", ignore_errors=True)

    @contextlib.contextmanager
    def started(
        self, name: str, folder: Path | None = None, flags: Sequence[str] = ()
    ) -> Iterator[Server]:
        """A server in a fresh folder, or in one that has data already, once it rests."""
        with running(name, folder or self.home_of(name), self.peers, flags) as server:
            # MLflow answers while most of its processes are still starting.
            wait_until_quiet(server.pid)
            yield server

    def record(self, row: str, server: str, value: float) -> None:
        """Adds a value."""
        self.results.record(row, server, value)

    def problem(self, server: str, text: str) -> None:
        """Something is wrong with what a server answered in this case."""
        self.results.problem(self.case, server, text)

    def note(self, row: str, server: str, text: str) -> None:
        """Something that a reader of a value should know."""
        self.results.note(row, server, text)

    def settle(self, server: Server) -> None:
        """Waits until Runfold has folded everything and rests; does nothing for the others."""
        if server.name != RUNFOLD:
            return
        wait_for_views(server)
        if not wait_until_quiet(server.pid):
            self.problem(server.name, "did not come to rest")


def wait_for_views(server: Server) -> float:
    """Seconds until no event waits to be folded. Raises RuntimeError where that never comes."""
    client = server.client()
    started = time.monotonic()
    while True:
        with contextlib.suppress(Refused, OSError):
            if client.lag() == 0:
                return time.monotonic() - started
        if time.monotonic() - started > CATCH_UP_S_MAX:
            raise RuntimeError("the views did not catch up")
        time.sleep(LAG_POLL_S)


@dataclass(frozen=True)
class Case:
    """One thing that is measured, on one server at a time."""

    name: str
    about: str
    rows: tuple[str, ...]
    """The rows that it fills."""
    servers: tuple[str, ...]
    run: Callable[[Bench, str], None]
    """Measures a server, by its name."""
    repeats: bool = False
    """True where it runs as often as asked, on all servers in turn; others repeat within."""
