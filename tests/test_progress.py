"""Progress: how much is done, how fast, how long still."""

from __future__ import annotations

import io

import pytest

from workers.progress import LINES_EVERY_S, TERMINAL_EVERY_S, Progress, duration


class Terminal(io.StringIO):
    """A stream that says it is one."""

    def isatty(self) -> bool:
        """A person watches."""
        return True


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_rate_and_time_left() -> None:
    """After 100 of 1,000 in 10 s another 90 s are needed."""
    clock, stream = Clock(), io.StringIO()
    progress = Progress("folding", 1_000, "events", stream=stream, clock=clock)
    clock.now = LINES_EVERY_S
    progress.add(100)
    assert stream.getvalue() == ("folding: 100 of 1,000 events (10 %), 10 events/s, 1m 30s left\n")


def test_short_work_says_nothing() -> None:
    """What is done before the first line is due is not worth one."""
    stream = io.StringIO()
    progress = Progress("folding", 10, "events", stream=stream, clock=Clock())
    progress.add(10)
    progress.finish()
    assert stream.getvalue() == ""


def test_a_terminal_gets_one_line_that_changes() -> None:
    """Each state takes the place of the one before; the last stays."""
    clock, stream = Clock(), Terminal()
    progress = Progress("folding", 2, "events", stream=stream, clock=clock)
    for _ in range(2):
        clock.now += TERMINAL_EVERY_S
        progress.add(1)
    progress.finish()
    told = stream.getvalue()
    assert told.count("\n") == 1
    assert told.endswith("folding: 2 of 2 events (100 %), 4 events/s\x1b[K\n")


def test_more_than_was_expected() -> None:
    """A log that grows meanwhile never gives more than 100 %."""
    clock = Clock()
    progress = Progress("folding", 2, "events", stream=io.StringIO(), clock=clock)
    progress.add(5)
    assert "5 of 5 events (100 %)" in progress.text(1.0)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0s"), (59, "59s"), (60, "1m"), (125, "2m 5s"), (7_261, "2h 1m"), (90_000, "1d 1h")],
)
def test_durations(seconds: float, text: str) -> None:
    """The two largest units are enough."""
    assert duration(seconds) == text
