"""Starts each server in a fresh folder, and stops it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from infra.benchmarks.client import Client
from infra.benchmarks.memory import resident_mb
from infra.benchmarks.peers import Peers
from infra.benchmarks.rows import FASTTRACKML, MLFLOW, RUNFOLD, YARDSTICK

ROOT = Path(__file__).resolve().parents[2]
START_S_MAX = 240.0
STOP_S_MAX = 30.0
QUIET = {"DO_NOT_TRACK": "true", "MLFLOW_DISABLE_TELEMETRY": "true"}
"""Keeps the peers from sending usage data; all else is their default."""
HOME = "runfold-data"
YARDSTICK_FILE = "yardstick.db"


def free_port() -> int:
    """A port that nothing listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def folder_bytes(folder: Path) -> int:
    """The size of all files below a folder; one of several names counts once."""
    sizes: dict[int, int] = {}
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            found = path.stat()
            sizes[found.st_ino] = found.st_size
    return sum(sizes.values())


def runfold_command(*arguments: str) -> list[str]:
    """A command of this environment's Runfold."""
    return [str(Path(sys.executable).parent / "runfold"), *arguments]


def command_of(name: str, port: int, peers: Peers, flags: Sequence[str]) -> list[str]:
    """How a server is started, with its defaults: SQLite in the current folder."""
    if name == RUNFOLD:
        return runfold_command("server", "--port", str(port), *flags)
    if name == MLFLOW:
        return [str(peers.program(MLFLOW)), "server", "--port", str(port), *flags]
    if name == FASTTRACKML:
        address = f"127.0.0.1:{port}"
        return [str(peers.program(FASTTRACKML)), "server", "--listen-address", address, *flags]
    return [sys.executable, "-m", "infra.benchmarks.yardstick", str(port), YARDSTICK_FILE]


@dataclass
class Server:
    """One running server."""

    name: str
    port: int
    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        """The process at the root of its tree."""
        return self.process.pid

    @property
    def home(self) -> Path:
        """Runfold's folder."""
        return self.folder / HOME

    @property
    def output(self) -> Path:
        """What it printed."""
        return self.folder.with_name(self.folder.name + ".output")

    def client(self) -> Client:
        """A client for what is not timed."""
        return Client(self.port)

    def memory_mb(self) -> float:
        """The resident memory of its processes."""
        return resident_mb(self.pid)

    def stop(self) -> None:
        """Asks it to end, then makes it."""
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        try:
            self.process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            self.process.kill()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            # It is the leader of its group: nothing that it has started stays behind.
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _answers(self) -> bool:
        if self.name != YARDSTICK:
            return self.client().status("GET", "/health") == 200
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def wait_for_answer(self) -> None:
        """Returns when it answers. Raises RuntimeError where it does not."""
        deadline = time.monotonic() + START_S_MAX
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                end = self.output.read_text(errors="replace")[-2000:]
                self.stop()
                raise RuntimeError(f"{self.name} did not start:\n{end}")
            time.sleep(0.1)


@contextlib.contextmanager
def running(name: str, folder: Path, peers: Peers, flags: Sequence[str] = ()) -> Iterator[Server]:
    """A server over a folder, which may hold data already; stopped at the end."""
    port = free_port()
    with running_command(name, command_of(name, port, peers, flags), port, folder) as server:
        yield server


@contextlib.contextmanager
def running_command(name: str, command: Sequence[str], port: int, folder: Path) -> Iterator[Server]:
    """What a command starts in a folder, once it answers on a port; stopped at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    output = folder.with_name(folder.name + ".output")
    with output.open("ab") as out:
        process = subprocess.Popen(
            list(command),
            cwd=folder,
            env={**os.environ, **QUIET, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = Server(name, port, folder, process)
    try:
        server.wait_for_answer()
        yield server
    finally:
        server.stop()


def fresh_folder(folder: Path) -> Path:
    """The folder, empty."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
