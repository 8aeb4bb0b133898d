"""Group commit: who waits at the same time shares a transaction, and everybody is told."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest

from events import group_commit
from events.errors import TemporarilyUnavailable
from events.event import POINTS, NewEvent
from events.group_commit import GroupCommit, Settled
from events.log import PartlyAppended
from events.memory_log import MemoryLog
from events.wake import GROWN


class SlowLog(MemoryLog):
    """A log whose appends wait until they are let go, and which may be full."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.begun = threading.Event()
        self.sizes: list[int] = []
        self.is_full = False

    def append(self, events: Sequence[NewEvent]) -> list[int]:
        """See Log.append."""
        self.begun.set()
        assert self.go.wait(5)
        self.sizes.append(len(events))
        if self.is_full:
            raise OSError("no space left")
        return super().append(events)


def event(subject: str = "r") -> NewEvent:
    """An event of the points lane."""
    return NewEvent("points", "points.logged", 1, subject, 1, b"data")


class Told:
    """What the thread has called."""

    def __init__(self) -> None:
        self.settled: list[Settled] = []
        self.bytes: list[tuple[float, bytes]] = []

    def settle(self, settled: list[Settled]) -> None:
        """Calls everybody."""
        self.settled += settled
        for done, result in settled:
            done(result)

    def woken(self, byte: bytes) -> None:
        """Notes the byte and its time."""
        self.bytes.append((time.monotonic(), byte))


def ignore(_result: list[int] | Exception) -> None:
    """A writer that is gone."""


def test_what_waits_during_a_commit_is_the_next_one() -> None:
    """Requests gather while the disk is busy; each gets its own positions, in order."""
    log, told = SlowLog(), Told()
    commit = GroupCommit(log, told.woken, told.settle)
    got: dict[int, list[int] | Exception] = {}
    commit.submit([event()], lambda result: got.update({0: result}))
    assert log.begun.wait(5)
    for place in range(1, 6):
        events = [event()] * place
        commit.submit(events, lambda result, place=place: got.update({place: result}))  # type: ignore[misc]
    log.go.set()
    commit.close()
    assert log.sizes == [1, 15]


@pytest.mark.parametrize("is_near", [True, False])
def test_a_log_on_a_server_gets_few_large_commits(
    monkeypatch: pytest.MonkeyPatch, is_near: bool
) -> None:
    """The next commit there waits for those who were answered together. One alone is not held up,
    and nobody is for long, nor where the log is near."""
    monkeypatch.setattr(group_commit, "GATHER_S", 60.0)
    log, told, answered = SlowLog(), Told(), threading.Semaphore(0)
    log.is_near = is_near
    commit = GroupCommit(log, told.woken, told.settle)

    def ask() -> None:
        commit.submit([event()], lambda _result: answered.release())

    ask()
    assert log.begun.wait(5)
    ask()
    ask()
    log.go.set()
    assert answered.acquire(timeout=5)
    if is_near:
        assert answered.acquire(timeout=5)
        assert answered.acquire(timeout=5)
        assert log.sizes == [1, 2]
    else:
        ask()
        for _ in range(3):
            assert answered.acquire(timeout=5)
        monkeypatch.setattr(group_commit, "GATHER_S", 0.01)
        ask()
        assert answered.acquire(timeout=5)
        monkeypatch.setattr(group_commit, "GATHER_S", 60.0)
        ask()
        assert answered.acquire(timeout=5)
        assert log.sizes == [1, 3, 1, 1]
    commit.close()


def test_a_commit_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many requests are many transactions, by number and by size; none is lost."""
    monkeypatch.setattr(group_commit, "COMMIT_EVENTS_MAX", 10)
    log, told = SlowLog(), Told()
    log.go.set()
    commit = GroupCommit(log, told.woken, told.settle)
    for _ in range(100):
        commit.submit([event()], ignore)
    monkeypatch.setattr(group_commit, "COMMIT_BYTES_MAX", 8)
    for _ in range(10):
        commit.submit([event()], ignore)
    commit.close()
    assert sum(log.sizes) == log.head(POINTS) == 110
    assert max(log.sizes) <= 10


def test_a_commit_that_fails_is_told_to_all_and_ends_nothing() -> None:
    """Everybody in it gets the refusal, and the next commit is made."""
    log, told = SlowLog(), Told()
    log.is_full = True
    log.go.set()
    commit = GroupCommit(log, told.woken, told.settle)
    failed = threading.Event()
    commit.submit([event()], lambda _result: failed.set())
    assert failed.wait(5)
    log.is_full = False
    commit.submit([event()], ignore)
    commit.close()
    (_, refusal), (_, positions) = told.settled
    assert isinstance(refusal, TemporarilyUnavailable)
    assert positions == [1]
    assert (commit.counts.errors, commit.counts.events.total) == (1, 1)


def test_too_many_waiting_writers_are_told_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Past the bound nothing is taken in."""
    monkeypatch.setattr(group_commit, "WAITING_MAX", 2)
    log, told = SlowLog(), Told()
    commit = GroupCommit(log, told.woken, told.settle)
    commit.submit([event()], ignore)
    assert log.begun.wait(5)
    commit.submit([event()], ignore)
    commit.submit([event()], ignore)
    with pytest.raises(TemporarilyUnavailable):
        commit.submit([event()], ignore)
    log.go.set()
    commit.close()
    assert log.head(POINTS) == 3


def test_an_append_that_takes_too_long_holds_up_nobody_new(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While a log is away writers are told to come back, and nothing of theirs is appended; those
    who came before wait for what becomes of theirs."""
    log, told = SlowLog(), Told()
    commit = GroupCommit(log, told.woken, told.settle)
    commit.submit([event()], ignore)
    assert log.begun.wait(5)
    commit.submit([event()], ignore)
    monkeypatch.setattr(group_commit, "STALLED_S", 0.0)
    with pytest.raises(TemporarilyUnavailable, match="not answered"):
        commit.submit([event()], ignore)
    log.go.set()
    commit.close()
    assert log.head(POINTS) == 2


class HalfLog(MemoryLog):
    """A log that takes every second event alone."""

    def append(self, events: Sequence[NewEvent]) -> list[int]:
        """See Log.append."""
        outcomes: list[int | Exception] = []
        for place, one in enumerate(events):
            taken = super().append([one]) if place % 2 == 0 else [OSError("full")]
            outcomes += taken
        if len(events) > 1:
            raise PartlyAppended(outcomes)
        return [outcome for outcome in outcomes if isinstance(outcome, int)]


def test_of_an_append_that_was_made_in_part_each_is_told_his_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who is in the log gets the position, and only who is not in it is refused."""
    told = Told()
    go = threading.Event()
    gather = GroupCommit._gather

    def gather_late(commit: GroupCommit) -> Any:
        assert go.wait(5)
        return gather(commit)

    monkeypatch.setattr(GroupCommit, "_gather", gather_late)
    commit = GroupCommit(HalfLog(), told.woken, told.settle)
    for _ in range(4):
        commit.submit([event()], ignore)
    go.set()
    commit.close()
    results = [result for _, result in told.settled]
    assert (results[0], results[2]) == ([1], [2])
    assert [type(result) for result in results[1::2]] == [OSError, OSError]
    assert told.bytes, "what was appended must be folded"
    assert commit.counts.errors == 1


def test_the_projector_is_told_now_and_then_and_of_the_last_commit() -> None:
    """Many commits are a few bytes; after the last one there is always another byte soon."""
    log, told = SlowLog(), Told()
    log.go.set()
    commit = GroupCommit(log, told.woken, told.settle)
    started = time.monotonic()
    for _ in range(50):
        done = threading.Event()
        commit.submit([event()], lambda _result, done=done: done.set())  # type: ignore[misc]
        assert done.wait(5)
    last = time.monotonic()
    deadline = last + 5
    while told.bytes[-1][0] < last - 0.001 and time.monotonic() < deadline:
        time.sleep(0.002)
    time.sleep(3 * group_commit.WAKE_EVERY_S)
    commit.close()
    assert {byte for _, byte in told.bytes} == {GROWN}
    assert told.bytes[0][0] - started < 1
    between_s = [
        later - sooner for (sooner, _), (later, _) in zip(told.bytes, told.bytes[1:], strict=False)
    ]
    assert all(gap_s >= group_commit.WAKE_EVERY_S * 0.99 for gap_s in between_s)
    assert len(told.bytes) <= 2 + (told.bytes[-1][0] - started) / group_commit.WAKE_EVERY_S
