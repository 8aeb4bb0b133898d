"""How much memory a server takes: the resident memory of its process and all below it."""

from __future__ import annotations

import contextlib
import threading
import time

import psutil  # type: ignore[import-untyped]

SAMPLE_S = 0.2
QUIET_CPU_SHARE = 0.04
QUIET_FOR_S = 1.0
QUIET_WITHIN_S = 120.0


def _tree(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    return []


def resident_mb(*pids: int) -> float:
    """The resident memory of these processes and their children, in MB (10⁶ bytes). Pages that
    processes share count in each."""
    total = 0
    for pid in pids:
        for process in _tree(pid):
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
    return total / 1e6


def cpu_s(pid: int) -> float:
    """The processor time that a process and its children have used, in seconds; of children that
    have ended it knows nothing."""
    total = 0.0
    for process in _tree(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def wait_until_quiet(pid: int) -> bool:
    """Waits until a server and its children do next to nothing; False where they never rest."""
    deadline = time.monotonic() + QUIET_WITHIN_S
    while time.monotonic() < deadline:
        before = cpu_s(pid)
        time.sleep(QUIET_FOR_S)
        if cpu_s(pid) - before < QUIET_CPU_SHARE * QUIET_FOR_S:
            return True
    return False


class PeakMemory:
    """Watches processes for as long as the block runs; `mb` is the most that they had together."""

    def __init__(self, *pids: int, every_s: float = SAMPLE_S) -> None:
        self._pids = pids
        self._every_s = every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.mb = resident_mb(*pids)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(self._every_s):
            self.mb = max(self.mb, resident_mb(*self._pids))
