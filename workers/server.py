"""`runfold server`: starts the API and the worker, and keeps them running.

This process imports next to nothing, so that it costs little and can't fail with its children.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from types import FrameType

import click

from events.settings import Settings
from workers.options import arguments_of

STOP_S = 15.0
"""How long a child may take to finish what it is doing before it is killed."""
RESTART_DELAYS_S = (0.1, 0.5, 1.0, 2.0, 5.0)
HEALTHY_S = 20.0
"""A child that ran this long is started again at once."""
TEND_S = 0.1
PORT_TAKEN, FOLDER_TAKEN = 98, 97
"""Exit codes of a child for which another try makes no sense."""


@dataclass
class _Child:
    role: str
    arguments: list[str]
    wake_fd: int
    notify_fd: int
    lifeline_fd: int
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    failures: int = 0
    restart_at: float = 0.0

    def start(self) -> None:
        fds = {
            "--wake-fd": self.wake_fd,
            "--notify-fd": self.notify_fd,
            "--lifeline-fd": self.lifeline_fd,
        }
        command = [sys.executable, "-m", "workers.cli", self.role]
        for flag, fd in fds.items():
            command += [flag, str(fd)]
        self.process = subprocess.Popen(
            command + self.arguments, stdin=subprocess.DEVNULL, pass_fds=tuple(fds.values())
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
    arguments = arguments_of(settings)
    to_worker, from_api = os.pipe()
    to_api, from_worker = os.pipe()
    # Only this process holds the writing end, so that its death is an end of file to the children.
    lifeline, _held = os.pipe()
    children = [_Child("api", arguments, to_api, from_api, lifeline)]
    if not settings.artifacts_only:
        children.insert(0, _Child("worker", arguments, to_worker, from_worker, lifeline))
    stopping = False

    def stop(_signal: int, _frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    for child in children:
        child.start()
    code = 0
    while not stopping and code == 0:
        code = _tend(children)
        time.sleep(TEND_S)
    _stop(children)
    return code


def _tend(children: list[_Child]) -> int:
    """Starts again what has ended; returns an exit code other than 0 where that is hopeless."""
    now = time.monotonic()
    for child in children:
        if child.process is None:
            if now >= child.restart_at:
                child.start()
            continue
        ended = child.process.poll()
        if ended is None:
            continue
        if ended in (PORT_TAKEN, FOLDER_TAKEN):
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
    """Ends the children: the API first, so that the worker folds what it still appends."""
    for child in reversed(children):
        if child.process is None or child.process.poll() is not None:
            continue
        child.process.terminate()
        try:
            child.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            child.process.kill()
            child.process.wait()
