"""A real server of another project, run as a child, for a test or a developer."""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

START_S_MAX = 60.0
STOP_S_MAX = 30.0
PREPARE_S_MAX = 120.0


class ServiceError(Exception):
    """The server did not start or end as it should; the message has the end of its output."""


@dataclass
class Service:
    """One server in a folder of its own: how it starts, when it is ready, how it ends."""

    name: str
    uri: str
    """What Runfold, or a client, is told to find it."""
    folder: Path
    command: Sequence[str]
    answers: Callable[[], bool]
    """Whether it serves; asked until it says yes."""
    user: str | None = None
    """Whom it runs as, where that is another user than this process."""
    stop_signal: signal.Signals = signal.SIGTERM
    """What ends it in good order."""
    environment: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def output(self) -> Path:
        """The file with all that it printed."""
        return self.folder / "output"

    def start(self) -> "Service":
        """Starts it and returns when it serves. Raises ServiceError where it does not."""
        with self.output.open("ab") as out:
            self.process = subprocess.Popen(
                list(self.command),
                cwd=self.folder,
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **as_user(self.user),
            )
        deadline = time.monotonic() + START_S_MAX
        while not self.answers():
            if self.process.poll() is not None:
                raise ServiceError(f"{self.name} ended at its start:\n{self.tail()}")
            if time.monotonic() > deadline:
                self.kill()
                raise ServiceError(f"{self.name} did not answer in time:\n{self.tail()}")
            time.sleep(0.05)
        return self

    def end(self, by: signal.Signals | None = None) -> None:
        """Sends the signal, `stop_signal` by default, and waits for the process's end."""
        if self.process is None:
            return
        self.process.send_signal(by or self.stop_signal)
        try:
            self.process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ServiceError(f"{self.name} did not end:\n{self.tail()}") from None
        self.process = None

    def kill(self) -> None:
        """Ends it and its children at once, as kill -9 does."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process = None

    def remove(self) -> None:
        """Ends it and deletes its folder."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def tail(self, lines: int = 30) -> str:
        """The end of what it printed."""
        if not self.output.exists():
            return "(it printed nothing)"
        return "\n".join(self.output.read_text(errors="replace").splitlines()[-lines:])


def as_user(user: str | None) -> dict[str, Any]:
    """What makes subprocess run a program as this user."""
    if user is None:
        return {}
    return {"user": user, "group": user, "extra_groups": []}


def new_folder(name: str, user: str | None = None) -> Path:
    """An empty temporary folder that belongs to the user.

    It is made here and not by the caller, since another user could not enter the caller's own.
    """
    folder = Path(tempfile.mkdtemp(prefix=f"runfold-{name}-"))
    if user is not None:
        account = pwd.getpwnam(user)
        os.chown(folder, account.pw_uid, account.pw_gid)
    return folder


def prepare(
    command: Sequence[str],
    folder: Path,
    user: str | None = None,
    seconds_max: float = PREPARE_S_MAX,
) -> None:
    """Runs a program that must end well before the server can start; otherwise the folder goes."""
    try:
        done = subprocess.run(
            list(command),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds_max,
            check=False,
            **as_user(user),
        )
        if done.returncode != 0:
            raise ServiceError(f"{command[0]} ended with {done.returncode}:\n{done.stderr}")
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def program(name: str, *folders: str) -> str | None:
    """The path of a program, on the search path or in one of these folders; None without it."""
    places = [*os.environ.get("PATH", "").split(os.pathsep), "/usr/sbin", "/sbin", *folders]
    return shutil.which(name, path=os.pathsep.join(places))
