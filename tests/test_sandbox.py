"""The walls around a query, each alone: what the operating system refuses, whatever DuckDB does."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from projections.query_forks import ENVIRONMENT, Forks
from projections.query_process import Child, QueryLimits, threads_for
from projections.sandbox import SESSION_NICE, SLICE_NS

PROGRAM = """
import os, resource, socket, sys
from pathlib import Path
from projections.sandbox import confine, lower_priority
lower_priority()
os.chdir(sys.argv[1])
found = confine(Path.cwd())
walls = {{"": True, "landlock": found.landlock, "calls": found.system_calls}}
if not walls["{needs}"]:
    print("absent")
    sys.exit()
try:
    {attempt}
except OSError as error:
    print("refused", error.errno)
else:
    print("done")
"""


def attempt(folder: Path, code: str, needs: str = "") -> str:
    """What a confined process says to this attempt; skips where the kernel lacks the wall."""
    program = PROGRAM.format(attempt=code, needs=needs)
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        return (
            f"ended by {signal.Signals(-done.returncode).name}"
            if done.returncode < 0
            else done.stderr
        )
    if done.stdout.strip() == "absent":
        pytest.skip(f"this kernel has no {needs}")
    return done.stdout.strip().split(" ")[0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A private folder with a file, beside one that is nobody's business."""
    private = tmp_path / "private"
    private.mkdir()
    (private / "mine.txt").write_text("mine")
    (tmp_path / "others.txt").write_text("others")
    (private / "link.txt").symlink_to(tmp_path / "others.txt")
    return private


def test_its_own_files_can_be_read(folder: Path) -> None:
    """The walls leave what a query needs."""
    assert attempt(folder, "open('mine.txt').read()") == "done"


@pytest.mark.parametrize(
    "path", ["../others.txt", "link.txt", "/etc/passwd", "/proc/self/environ", "/proc/1/cmdline"]
)
def test_no_other_file_can_be_read(folder: Path, path: str) -> None:
    """Not beside the folder, not by a link in it, not of the process."""
    assert attempt(folder, f"open({path!r}).read()", "landlock") == "refused"


@pytest.mark.parametrize(
    "code",
    [
        "open('new.txt', 'w').write('x')",
        "open('mine.txt', 'r+').write('x')",
        "os.truncate('mine.txt', 0)",
    ],
)
def test_nothing_can_be_written(folder: Path, code: str) -> None:
    """No new file, no change of an old one."""
    assert attempt(folder, code, "landlock") == "refused"
    assert (folder / "mine.txt").read_text() == "mine"
    assert not (folder / "new.txt").exists()


@pytest.mark.parametrize(
    "code",
    [
        *(
            "os.fork()",
            "os.posix_spawn('/bin/true', ['true'], {{}})",
            "os.execv('/bin/true', ['true'])",
        ),
        *("socket.socket()", "socket.socketpair()", "os.kill(1, 0)", "os.unlink('mine.txt')"),
        *("os.rename('mine.txt', 'x')", "os.mkdir('x')", "os.symlink('mine.txt', 'x')"),
        *("os.link('mine.txt', 'x')", "os.chmod('mine.txt', 0)", "os.memfd_create('x')"),
    ],
)
def test_system_calls_that_no_query_needs(folder: Path, code: str) -> None:
    """No process is made, no connection opened, nothing renamed, removed or linked."""
    assert attempt(folder, code.replace("{{}}", "{}"), "calls") == "refused"
    assert (folder / "mine.txt").read_text() == "mine"


def test_files_stay_empty_where_the_kernel_has_no_walls(folder: Path) -> None:
    """The limit on files' sizes holds everywhere: a file that could be opened takes no byte."""
    code = (
        "from projections.sandbox import confine; import os, sys; from pathlib import Path;"
        "f = open('new.txt', 'wb', 0); confine(Path.cwd()); f.write(b'x')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, check=False, capture_output=True
    )
    assert done.returncode != 0
    assert (folder / "new.txt").read_bytes() == b""


def test_it_comes_after_everybody_else(folder: Path) -> None:
    """A query's process is idle for the scheduler, and has the lowest priority where that is not
    known."""
    found = "assert (os.nice(0), os.sched_getscheduler(0)) == (19, os.SCHED_IDLE)"
    assert attempt(folder, found) == "done"
    assert os.nice(0) < 19
    with ready_child(folder) as child:
        assert os.sched_getscheduler(child.process.pid) == os.SCHED_IDLE
    assert os.sched_getscheduler(0) != os.SCHED_IDLE


@contextlib.contextmanager
def ready_child(folder: Path) -> Iterator[Child]:
    """A query's process that waits for its job."""
    limits = QueryLimits(memory_mb=100)
    with (
        contextlib.closing(Forks()) as forks,
        contextlib.closing(Child(forks, folder / "queries", limits)) as child,
    ):
        assert b"ready" in os.read(child.control, 1_000)
        yield child


def test_its_session_comes_after_all_others(tmp_path: Path) -> None:
    """Where processor time is shared out by session, a query's session has little of it, and this
    one keeps its share."""
    try:
        before = Path("/proc/self/autogroup").read_text()
    except OSError:
        pytest.skip("this kernel shares by process")
    with ready_child(tmp_path) as child:
        autogroup = Path(f"/proc/{child.process.pid}/autogroup").read_text()
    assert autogroup.strip().endswith(f"nice {SESSION_NICE}")
    assert Path("/proc/self/autogroup").read_text() == before


def test_who_wakes_up_takes_its_place(tmp_path: Path) -> None:
    """A query's process asks for longer slices than others have: who wakes up must not wait until
    it has had its turn."""
    with ready_child(tmp_path) as child:
        try:
            told = Path(f"/proc/{child.process.pid}/sched").read_text()
        except FileNotFoundError:
            pytest.skip("this kernel does not tell")
    found = [line.split()[-1] for line in told.splitlines() if line.startswith("se.slice")]
    if not found:
        pytest.skip("this kernel has slices of one length")
    assert found == [str(SLICE_NS)]


def test_no_thread_is_there_before_the_walls() -> None:
    """What a query's process loads starts none: the walls would not hold for it."""
    code = "import os, projections.query_forker; print(len(os.listdir('/proc/self/task')))"
    done = subprocess.run(
        [sys.executable, "-I", "-c", code],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "1"


def test_a_query_has_the_processors_that_there_are() -> None:
    """Unless it is told how many threads it has; by itself it takes no more than four."""
    assert threads_for(0) == min(len(os.sched_getaffinity(0)), 4)
    assert [threads_for(wanted) for wanted in (1, 3, 8)] == [1, 3, 8]
