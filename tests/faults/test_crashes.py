"""Kills the server again and again under full load; the writers' journals are the judge."""

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from os import kill
from pathlib import Path

import pytest

from projections.lake import SEGMENTS
from tests.faults.conftest import Connect
from tests.faults.judge import (
    ACKNOWLEDGED,
    RunState,
    Told,
    complaints_about,
    complaints_about_runs,
    judge,
    read_journal,
    strays,
)
from tests.faults.processes import of_role
from tests.faults.writer import operation
from tests.servers import BIN, Server

ROUNDS = 40
WRITERS = 4
SEED = 20_260_731
# So that crashes meet the sealing of points too, and histories lie in segments and in blocks.
SEAL_OFTEN = ("--seal-points", "2000", "--seal-age", "2")
RESTART_S_MAX = 30.0
# In turn; the sealer has time to write before it is killed at last.
CRASHES = ("server", "projector", "server", *["projector"] * 4, "sealer")


def start_writer(
    server: Server, experiment_id: str, journal: Path, number: int
) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.faults.writer", server.url, experiment_id]
    command += [str(journal), f"writer{number}", str(SEED + number)]
    return subprocess.Popen(command, stdin=subprocess.PIPE)


def running(server: Server, role: str, other_than: int | None = None) -> int:
    """The process of this role, once there is one."""
    deadline = time.monotonic() + RESTART_S_MAX
    while (found := of_role(server, role)) in (None, other_than):
        assert time.monotonic() < deadline, server.tail()
        time.sleep(0.02)
    assert found is not None
    return found


def crash(server: Server, role: str) -> None:
    """Ends one process, or all of them with their supervisor, as kill -9 does, and waits for what
    takes its place."""
    if role == "server":
        server.kill()
        server.start()
        return
    old = running(server, role)
    kill(old, signal.SIGKILL)
    running(server, role, other_than=old)


@pytest.mark.timeout(600)
def test_crashes_under_load(
    tmp_path: Path, start_runfold: Callable[..., Server], connect: Connect
) -> None:
    """After forty crashes each acknowledged write is there once, each refused one never, each
    unknown one at most once and whole, and the views are what the log says."""
    server = start_runfold(tmp_path / "home", *SEAL_OFTEN)
    experiment_id = connect(server).experiment("crashes")
    journals = [tmp_path / f"journal{number}" for number in range(WRITERS)]
    writers = [
        start_writer(server, experiment_id, journal, number)
        for number, journal in enumerate(journals)
    ]
    chance = random.Random(SEED)
    try:
        for number in range(ROUNDS):
            time.sleep(chance.uniform(0.05, 1.5))
            assert [writer.poll() for writer in writers] == [None] * WRITERS
            crash(server, CRASHES[number % len(CRASHES)])
        time.sleep(0.5)
    finally:
        for writer in writers:
            writer.communicate(timeout=60)
    told = [read_journal(journal) for journal in journals]
    check_the_load_was_real([one for journal in told for one in journal])
    assert judge(connect(server), experiment_id, told) == []
    assert list((tmp_path / "home" / "lake" / SEGMENTS).rglob("*.parquet")), "nothing was sealed"
    verified = subprocess.run(
        [BIN / "runfold", "verify", "--home", tmp_path / "home"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert verified.returncode == 0, verified.stdout + verified.stderr


def check_the_load_was_real(told: list[Told]) -> None:
    """The crashes met requests under way, of which some were repeated and some were not."""
    fates = Counter(one.fate for one in told)
    assert fates[ACKNOWLEDGED] > 1_000, fates
    assert fates["unknown"] >= 5, fates
    assert sum(one.repeated_after_loss for one in told) >= 5
    print(f"{len(told)} operations: {dict(fates)}")


# The judge itself: each kind of damage is seen.


def told_of(kind: str, *statuses: int, lost: int = 0) -> Told:
    body = operation(kind, 7, "r", 1).body
    return Told(kind, "r", 7, body, list(statuses), len(statuses) + lost)


WHOLE = RunState(
    {"p7": "v7"}, {"t7": "v7"}, Counter({(f"m{n}", 7, 7 + n / 8): 1 for n in range(3)})
)
NOTHING = RunState({}, {}, Counter())
TWICE = RunState(WHOLE.params, WHOLE.tags, WHOLE.points + WHOLE.points)
HALF = RunState({}, {}, WHOLE.points)


@pytest.mark.parametrize(
    ("told", "state", "fine"),
    [
        (told_of("batch", 200), WHOLE, True),
        (told_of("batch", 200), NOTHING, False),
        (told_of("batch", 200), HALF, False),
        (told_of("batch", 200), TWICE, False),
        (told_of("batch", 500), NOTHING, False),
        (told_of("batch", 503), NOTHING, True),
        (told_of("batch", 503), WHOLE, False),
        (told_of("batch", lost=1), WHOLE, True),
        (told_of("batch", lost=1), NOTHING, True),
        (told_of("batch", lost=1), HALF, False),
        (told_of("batch", 200, lost=2), WHOLE, True),
        (told_of("batch", 503, lost=1), WHOLE, True),
        (told_of("points", lost=1), HALF, True),
        (told_of("batch", 504), WHOLE, True),
        (told_of("batch", 504), NOTHING, True),
        (told_of("batch", 504), HALF, False),
        (told_of("batch", 504, 503), TWICE, False),
        (told_of("refused", 400), NOTHING, True),
        (told_of("refused", 400), HALF, False),
        (told_of("refused", 200), NOTHING, False),
        (told_of("refused", lost=1), HALF, False),
    ],
)
def test_the_judge_sees_damage_to_a_run(told: Told, state: RunState, fine: bool) -> None:
    """What is lost, twice, by halves, or there against its answer is complained about."""
    assert (list(complaints_about(told, state)) == []) == fine


@pytest.mark.parametrize(
    ("statuses", "lost", "there", "fine"),
    [
        ((200,), 0, 1, True),
        ((200,), 0, 0, False),
        ((200,), 0, 2, False),
        ((503,), 0, 1, False),
        ((), 1, 1, True),
        ((), 1, 2, False),
    ],
)
def test_the_judge_counts_created_runs(
    statuses: tuple[int, ...], lost: int, there: int, fine: bool
) -> None:
    """A run is there as often as the answer to its creation allows."""
    told = Told("create", "", 7, {"run_name": "a"}, list(statuses), len(statuses) + lost)
    assert (list(complaints_about_runs([told], Counter({"a": there}))) == []) == fine


def test_the_judge_sees_strays() -> None:
    """What nobody sent is complained about."""
    assert list(strays([told_of("batch", 200)], WHOLE)) == []
    assert len(list(strays([], WHOLE))) == 5
