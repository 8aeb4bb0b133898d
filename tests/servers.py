"""Starts and stops the real servers that the tests talk to: Runfold, and MLflow's own.

Each runs as its own process group on a free port of 127.0.0.1, in a folder of the test's, with
standard input from nothing and its output in a file, so that no server outlives its test or waits
for a terminal.
"""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
START_SECONDS_MAX = 180.0
STOP_SECONDS_MAX = 15.0

# MLflow's server sends usage data and starts a job runner of several processes unless told not to.
MLFLOW_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}


def require(present: bool, what: str) -> None:
    """Skips on a user's machine that lacks something optional; on the CI machine it is a failure.

    A skip that nobody reads would let a part of the acceptance disappear without a word.
    """
    if present:
        return
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(f"This machine runs as CI (CI=true) and lacks {what}.")
    pytest.skip(f"needs {what}")


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Server:
    """One server: how it is started, where it answers, and the file that holds what it printed."""

    name: str
    command: Sequence[str]
    folder: Path
    port: int
    environment: Mapping[str, str] = field(default_factory=dict)
    home: Path | None = None
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def output(self) -> Path:
        return self.folder / f"{self.name}.output"

    def start(self) -> "Server":
        """Starts the process and returns when `/health` answers 200."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.output.open("ab") as out:
            self.process = subprocess.Popen(
                list(self.command),
                cwd=self.folder,
                env={**os.environ, **MLFLOW_QUIET, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS_MAX
        while not self._answers():
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.name} ended at its start:\n{self.tail()}")
            if time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"{self.name} did not answer in time:\n{self.tail()}")
            time.sleep(0.05)
        return self

    def stop(self) -> None:
        """Asks the server to end, as a user does with Ctrl-C or systemd with SIGTERM."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.kill()
            raise RuntimeError(f"{self.name} did not end on SIGTERM:\n{self.tail()}") from None
        self._end_group()

    def kill(self) -> None:
        """Ends the server and its children at once, as kill -9 does."""
        if self.process is None:
            return
        self._end_group()
        self.process.wait()
        self.process = None

    def tail(self, lines: int = 40) -> str:
        """The end of what the server printed."""
        if not self.output.exists():
            return "(it printed nothing)"
        return "\n".join(self.output.read_text(errors="replace").splitlines()[-lines:])

    def _end_group(self) -> None:
        assert self.process is not None
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()


def runfold(home: Path, *flags: str, environment: Mapping[str, str] | None = None) -> Server:
    """A Runfold server over the folder `home`; not started yet."""
    port = free_port()
    command = [str(BIN / "runfold"), "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--home", str(home), *flags]
    folder = home.parent / f"{home.name}-server"
    return Server("runfold", command, folder, port, environment or {}, home)


def role(
    home: Path, words: str, *flags: str, environment: Mapping[str, str] | None = None
) -> Server:
    """One role of Runfold alone, `api` or `worker projector`, over the folder `home`; not started
    yet. A worker answers on its metrics port."""
    port = free_port()
    command = [str(BIN / "runfold"), *words.split(), "--host", "127.0.0.1", "--home", str(home)]
    command += ["--port" if words == "api" else "--metrics-port", str(port), *flags]
    name = f"{words.replace(' ', '-')}-{port}"
    folder = home.parent / f"{home.name}-roles"
    return Server(name, command, folder, port, environment or {}, home)


def command(name: str, home: Path, environment: Mapping[str, str], *flags: str) -> str:
    """What one of Runfold's commands on this home says, which must succeed."""
    done = subprocess.run(
        [BIN / "runfold", name, "--home", home, *flags],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def mlflow(folder: Path, *flags: str) -> Server:
    """MLflow's own server over SQLite, with one worker; not started yet. It takes about 10 s."""
    port = free_port()
    command = [str(BIN / "mlflow"), "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    command += ["--artifacts-destination", str(folder / "artifacts"), *flags]
    return Server("mlflow", command, folder, port)


@dataclass(frozen=True)
class Answer:
    """What came back: the status, the headers by lower-case name, the bytes."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> object:
        return json.loads(self.body)


def send(
    url: str,
    method: str,
    target: str,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """One HTTP request as it stands: nothing is added to it but Host and Content-Length."""
    host, _, port = url.removeprefix("http://").partition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=60)
    try:
        connection.request(method, target, body=body, headers=dict(headers or {}))
        response = connection.getresponse()
        names = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, names, response.read())
    finally:
        connection.close()
