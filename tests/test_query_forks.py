"""Processes for queries are forked from one that has loaded everything: what they inherit, what
ends with what, and that a dead forker is replaced."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from projections.query_forks import ENVIRONMENT, Forks, QueryFault
from projections.query_process import Child, Job, QueryFailed, QueryLimits, RunningQuery, Spares
from tests.faults.processes import descendants

LIMITS = QueryLimits(memory_mb=300)
FOREVER = "SELECT count(*) FROM range(1000000000000)"
WAIT_S = 60.0
PROGRAM = """
import sys, time
from pathlib import Path
from projections.query_forks import Forks
from projections.query_process import Child, Job, QueryLimits, RunningQuery
forks = Forks()
waiting, busy = (Child(forks, Path(sys.argv[1]), QueryLimits(memory_mb=300)) for _ in range(2))
query = RunningQuery(busy, Job("{statement}"))
print(forks.pid, waiting.process.pid, busy.process.pid, flush=True)
query.begin()
"""


@pytest.fixture
def forks() -> Iterator[Forks]:
    """A forker that ends with the test."""
    with contextlib.closing(Forks()) as started:
        yield started


def a_child(forks: Forks, folder: Path) -> contextlib.closing[Child]:
    return contextlib.closing(Child(forks, folder / "queries", LIMITS))


def answer(child: Child, statement: str) -> str:
    query = RunningQuery(child, Job(statement, format="csv"))
    query.begin()
    return b"".join(iter(query.read, b"")).decode()


def wait_until(happened: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not happened():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def is_gone(pid: int) -> bool:
    """Whether no process of this number runs; one that nobody has asked about counts as gone."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        # Its first thread may be gone before the others, and it only with them.
        threads = list(Path(f"/proc/{pid}/task").iterdir())
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z" and len(threads) <= 1


def processor_s(child: Child) -> float:
    """The processor time that its process has taken."""
    words = Path(f"/proc/{child.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def test_a_query_that_gives_way_rests_half_of_its_time(forks: Forks, tmp_path: Path) -> None:
    """It has hardly more than half of a processor, comes to its end, and is ended at its limit of
    seconds and by who asked for it as others are."""
    counted = "SELECT count(*) FROM range(40000000) AS t(a) WHERE hash(a) % 7 = 1"
    with a_child(forks, tmp_path) as child:
        query = RunningQuery(child, Job(counted, format="csv"), gives_way=lambda: True)
        query.begin()
        assert b"count_star" in b"".join(iter(query.read, b""))
    limits = QueryLimits(memory_mb=300, seconds=2.0)
    with contextlib.closing(Child(forks, tmp_path / "queries", limits)) as child:
        query = RunningQuery(child, Job(FOREVER), gives_way=lambda: True)
        killer = threading.Timer(1.5, lambda: taken.append(processor_s(child)))
        taken: list[float] = []
        killer.start()
        with pytest.raises(QueryFailed, match="longer than 2 seconds"):
            query.begin()
        killer.join()
        assert 0.1 < taken[0] < 1.1
    with a_child(forks, tmp_path) as child:
        query = RunningQuery(child, Job(FOREVER), gives_way=lambda: True)
        threading.Timer(0.3, query.kill).start()
        with pytest.raises(QueryFailed, match="code -9"):
            query.begin()


def test_queries_are_forked_from_one_process(forks: Forks, tmp_path: Path) -> None:
    """Each has a process of its own, all of one forker, and no chance of one is another's."""
    found = []
    for _ in range(3):
        with a_child(forks, tmp_path) as child:
            status = Path(f"/proc/{child.process.pid}/status").read_text()
            assert f"\nPPid:\t{forks.pid}\n" in status
            found.append((child.process.pid, answer(child, "SELECT random(), uuid()")))
    assert len({pid for pid, _ in found}) == 3
    assert len({text for _, text in found}) == 3


def test_a_child_inherits_nothing(forks: Forks, tmp_path: Path) -> None:
    """It has its own three pipes and nothing of the forker's or of other queries'; in its
    environment is what is written down here, whatever the server's has."""
    with a_child(forks, tmp_path), a_child(forks, tmp_path) as child:
        assert b"ready" in os.read(child.control, 1_000)
        about = Path(f"/proc/{child.process.pid}")
        try:
            opened = {one.name: str(one.readlink()) for one in (about / "fd").iterdir()}
            environment = (about / "environ").read_text().split("\0")
        except PermissionError:
            pytest.skip("only root may look at what can't be read by other processes")
        assert sorted(opened) == ["0", "1", "2", "3"]
        ours = [
            str(Path(f"/proc/self/fd/{fd}").readlink())
            for fd in (child.given, child.output, child.control)
        ]
        assert [opened["0"], opened["1"], opened["3"]] == ours
        assert opened["2"] == "/dev/null"
        assert (about / "cwd").readlink() == child.folder
    assert dict(one.split("=", 1) for one in environment if one) == ENVIRONMENT


def test_a_child_that_is_killed_is_the_only_one(forks: Forks, tmp_path: Path) -> None:
    """Its query gets an error with the signal's number; the forker and other queries live."""
    with a_child(forks, tmp_path) as other:
        with a_child(forks, tmp_path) as child:
            os.kill(child.process.pid, signal.SIGSEGV)
            with pytest.raises(QueryFailed, match="code -11"):
                answer(child, "SELECT 1")
            assert not child.is_ready()
        assert answer(other, "SELECT 42 AS a").split() == ["a", "42"]


def test_a_dead_forker_is_replaced(forks: Forks, tmp_path: Path) -> None:
    """What it has made ends with it, as a fault of the server's; the next query has a new one."""
    with a_child(forks, tmp_path) as child:
        before = forks.pid
        assert before is not None
        os.kill(before, signal.SIGKILL)
        with pytest.raises(QueryFault):
            answer(child, FOREVER)
    with a_child(forks, tmp_path) as child:
        assert answer(child, "SELECT 42 AS a").split() == ["a", "42"]
    assert forks.pid != before


def test_spares_of_a_dead_forker_are_not_used(tmp_path: Path) -> None:
    """A child that stood ready when the forker died is left out."""
    with contextlib.closing(Spares(tmp_path / "queries", LIMITS, 1)) as spares:
        spares.refill()
        with contextlib.closing(spares.take()) as taken:
            spares.refill()
            parent = Path(f"/proc/{taken.process.pid}/status").read_text().split("PPid:\t")[1]
            forker = int(parent.split()[0])
        assert spares.count() == 1
        pids = list(descendants(forker))
        # The one that was taken has ended, but may not be buried yet.
        assert len(pids) >= 2
        os.kill(forker, signal.SIGKILL)
        wait_until(lambda: all(map(is_gone, pids)), "the forker or its child lives")
        with contextlib.closing(spares.take()) as child:
            assert answer(child, "SELECT 42 AS a").split() == ["a", "42"]


def test_a_forker_that_is_idle_ends(tmp_path: Path) -> None:
    """Its memory is free again, and the next query starts another; a child that waits keeps it."""
    with contextlib.closing(Forks(idle_s=0.2)) as forks:
        with a_child(forks, tmp_path):
            first = forks.pid
            assert first is not None
            time.sleep(0.5)
            assert not is_gone(first)
        wait_until(lambda: is_gone(first), "the forker waits for ever")
        with a_child(forks, tmp_path) as child:
            assert answer(child, "SELECT 42 AS a").split() == ["a", "42"]
        assert forks.pid != first


def test_nothing_outlives_who_asked(tmp_path: Path) -> None:
    """A process that is killed takes the forker with it, a query that runs, and one that waits."""
    program = PROGRAM.format(statement=FOREVER)
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as asking:
        assert asking.stdout is not None
        pids = [int(word) for word in asking.stdout.readline().split()]
        assert len(pids) == 3
        assert not any(is_gone(pid) for pid in pids)
        asking.kill()
    for pid in pids:
        wait_until(lambda pid=pid: is_gone(pid), f"process {pid} lives on")  # type: ignore[misc]


def test_closing_ends_what_runs(tmp_path: Path) -> None:
    """Who closes the forker ends its children, and can have no other."""
    forks = Forks()
    with a_child(forks, tmp_path) as child:
        forks.close()
        wait_until(lambda: not child.process.is_alive(), "a child lives on")
    with pytest.raises(QueryFault, match="the server ends"):
        a_child(forks, tmp_path)
    assert list((tmp_path / "queries").iterdir()) == []
