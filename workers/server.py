"""`runfold server`: starts the API, the projector and the sealer, and keeps them running.

This process imports next to nothing, so that it costs little and can't fail with its children.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from types import FrameType

import click

from events.settings import Settings
from workers.options import arguments_of, environment_of

STOP_S = 15.0
"""How long a child may take to finish what it is doing before it is killed."""
RESTART_DELAYS_S = (0.1, 0.5, 1.0, 2.0, 5.0)
HEALTHY_S = 20.0
"""A child that ran this long is started again at once."""
TEND_S = 0.1
SEALER_AFTER_S = 2.0
"""The first answer does not need the sealer, so it leaves the processors to the others' start."""
PORT_TAKEN, FOLDER_TAKEN, SETTING_REFUSED = 98, 97, 96
"""Exit codes for what another try does not help; all but the second are the API's too."""


@dataclass
class _Child:
    role: str
    command: tuple[str, ...]
    arguments: list[str]
    fds: dict[str, int]
    """The ends of pipes that it inherits, by the flag that tells it so."""
    environment: dict[str, str]
    wanted_fd: int | None = None
    """A pipe that has a byte from when the child is needed on; None: it always is."""
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    failures: int = 0
    restart_at: float = 0.0

    def due(self, now: float) -> bool:
        """Whether to start it."""
        if self.wanted_fd is not None and not select.select([self.wanted_fd], [], [], 0)[0]:
            return False
        return now >= self.restart_at

    def start(self) -> None:
        command = [sys.executable, "-m", "workers.cli", *self.command]
        for flag, fd in self.fds.items():
            command += [flag, str(fd)]
        self.process = subprocess.Popen(
            command + self.arguments,
            stdin=subprocess.DEVNULL,
            pass_fds=tuple(self.fds.values()),
            env=self.environment,
        )
        self.started = time.monotonic()


def run_server(settings: Settings) -> int:
    """Runs until SIGTERM or Ctrl-C; returns the exit code."""
    settings.home.mkdir(parents=True, exist_ok=True)
    lock = os.open(settings.home / "server.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        click.echo(
            f"runfold: another server runs on the folder {settings.home} already. Stop it first, "
            "or give this one another folder with --home.",
            err=True,
        )
        return FOLDER_TAKEN
    children = _children(settings)
    stopping = False

    def stop(_signal: int, _frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    code = 0
    while not stopping and code == 0:
        code = _tend(children)
        time.sleep(TEND_S)
    _stop(children)
    return code


def _children(settings: Settings) -> list[_Child]:
    """What is to run, in the order of starting; nothing is started yet."""
    arguments, environment = arguments_of(settings), environment_of(settings)
    to_projector, from_api = os.pipe()
    to_api, from_projector = os.pipe()
    # Only this process holds the writing end, so that its death is an end of file to the children.
    lifeline, _held = os.pipe()
    of_all = {"--lifeline-fd": lifeline, **_shared_counts()}
    fds = {"--wake-fd": to_api, "--notify-fd": from_api, **of_all}
    api = _Child("api", ("api",), arguments, fds, environment)
    if settings.artifacts_only:
        return [api]
    # What is in this pipe is never read: the sealer, once wanted, is started again when it ends.
    sealer_wanted, wants_sealer = os.pipe()
    fds = {"--wake-fd": to_projector, "--notify-fd": from_projector, **of_all}
    fds["--sealer-fd"] = wants_sealer
    projector = _Child("projector", ("worker", "projector"), arguments, fds, environment)
    sealer = _Child("sealer", ("worker", "sealer"), arguments, of_all, environment, sealer_wanted)
    sealer.restart_at = time.monotonic() + SEALER_AFTER_S
    return [sealer, projector, api]


def _shared_counts() -> dict[str, int]:
    """Memory in which the workers count, for the API's /metrics; only Linux has one without a
    file."""
    shared: dict[str, int] = {}
    if sys.platform == "linux":
        shared["--counts-fd"] = os.memfd_create("runfold-counts")
    return shared


def _tend(children: list[_Child]) -> int:
    """Starts what is due, also again; returns an exit code other than 0 where that is hopeless."""
    now = time.monotonic()
    for child in children:
        if child.process is None:
            if child.due(now):
                child.start()
            continue
        ended = child.process.poll()
        if ended is None:
            continue
        if ended in (PORT_TAKEN, SETTING_REFUSED):
            return ended
        child.failures = 0 if now - child.started > HEALTHY_S else child.failures + 1
        delay_s = RESTART_DELAYS_S[min(child.failures, len(RESTART_DELAYS_S) - 1)]
        click.echo(
            f"runfold: the {child.role} process ended with {ended}; starting it again in "
            f"{delay_s} s",
            err=True,
        )
        child.process = None
        child.restart_at = now + delay_s
    return 0


def _stop(children: list[_Child]) -> None:
    """Ends the children: the API first, so that the projector folds what it still appends."""
    for child in reversed(children):
        if child.process is None or child.process.poll() is not None:
            continue
        child.process.terminate()
        try:
            child.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            child.process.kill()
            child.process.wait()
