"""The process that seals the points of views that are being made: its errors, and its end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

import workers.rebuild
from projections.lake import Lake
from tests.homes import Home, open_home
from workers.build_sealer import BATCHES, BuildSealer
from workers.lifeline import ORPHANED
from workers.maintenance import MaintenanceError
from workers.rebuild import SEALING, run_rebuild

END_S_MAX = 20.0


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """A run with points."""
    opened = open_home(tmp_path / "home")
    opened.experiment("1", "one")
    opened.run("a" * 32, "1", "a")
    opened.fold()
    yield opened
    opened.close()


def wait_until_gone(pid: int) -> None:
    """Waits for the end of a process that is nobody's child, or has been waited for."""
    deadline = time.monotonic() + END_S_MAX
    while True:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return
        if state == "Z":
            return
        assert time.monotonic() < deadline, f"{pid} still runs"
        time.sleep(0.02)


def test_what_could_not_be_sealed_fails_the_rebuild(home: Home, tmp_path: Path) -> None:
    """The command says why, the live views stay, and the process is gone."""
    before = home.content()
    lake = Lake(tmp_path / "no-folder")
    lake.folder.touch()
    with pytest.raises(MaintenanceError, match=r"could not be sealed: .*no-folder"):
        run_rebuild(home.log, home.views, lake, echo=home.said.append)
    assert home.content() == before
    assert home.said == []
    assert not list(home.folder.glob("*making*"))


def test_a_sealing_process_that_dies_fails_the_rebuild(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is put in the live views' place without all its points."""
    before = home.content()

    class Dying(BuildSealer):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            self._process.kill()

    monkeypatch.setattr(workers.rebuild, "BuildSealer", Dying)
    with pytest.raises(MaintenanceError, match="ended with -9"):
        run_rebuild(home.log, home.views, home.gc.lake, echo=home.said.append)
    assert home.content() == before


def test_it_ends_with_close(home: Home) -> None:
    """Also where it was never asked for anything, or is in the middle of it."""
    for order in (False, True):
        with home.views.making() as made:
            sealer = BuildSealer(made, home.log, home.gc.lake, SEALING)
            if order:
                sealer.seal_batches()
            sealer.close()
        assert sealer._process.returncode in (0, ORPHANED)


def test_it_ends_with_a_killed_owner(tmp_path: Path) -> None:
    """No process is left of a command that was killed."""
    work = {"views": str(tmp_path / "none.db"), "log_id": "x", "lake": asdict(Lake(tmp_path).place)}
    first = json.dumps({**work, "settings": {}})
    script = (
        "import subprocess, sys, time\n"
        "command = [sys.executable, '-m', 'workers.cli', 'worker', 'build-sealer']\n"
        "pipes = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE, 'text': True}\n"
        "child = subprocess.Popen(command, **pipes)\n"
        f"child.stdin.write({first!r} + '\\n' + {BATCHES!r} + '\\n')\n"
        "child.stdin.flush()\n"
        "print(child.pid, child.stdout.readline(), flush=True)\n"
        "time.sleep(60)\n"
    )
    owner = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    pid, answer = owner.stdout.readline().split(maxsplit=1)
    assert "TemporarilyUnavailable" in answer
    os.kill(owner.pid, signal.SIGKILL)
    owner.wait()
    owner.stdout.close()
    wait_until_gone(int(pid))
    assert not Path(f"/proc/{pid}/exe").exists()
