"""Whose turn it is among the workers of a role."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from events.errors import TemporarilyUnavailable
from projections.database import SEALER, Views
from projections.sqlite_views import SqliteViews
from workers import worker_process
from workers.worker_process import Turns


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_process, "STANDBY_S", 0.02)


def worker(path: Path, role: str = SEALER) -> tuple[Turns, threading.Thread]:
    """A worker with views of its own that works until it is told to end."""
    turns = Turns()
    views = SqliteViews(path, "log")
    thread = threading.Thread(target=turns.run, args=(views, role, turns.ended.wait))
    thread.start()
    return turns, thread


def until(holds: Callable[[], bool]) -> None:
    """Waits for what comes soon."""
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_one_works_and_the_others_stand_by(tmp_path: Path) -> None:
    """Of three one is active; when it ends another is, and never two at once."""
    made = [worker(tmp_path / "views.db") for _ in range(3)]
    while made:
        until(lambda: any(turns.is_active for turns, _ in made))
        time.sleep(0.1)
        [active] = [one for one in made if one[0].is_active]
        active[0].end()
        active[1].join(10)
        assert not active[1].is_alive()
        made.remove(active)


def test_roles_do_not_stand_by_for_each_other(tmp_path: Path) -> None:
    """A sealer works while a projector does."""
    made = [worker(tmp_path / "views.db", role) for role in ("projector", "sealer", "gc")]
    until(lambda: all(turns.is_active for turns, _ in made))
    for turns, thread in made:
        turns.end()
        thread.join(10)
    assert not any(turns.is_active for turns, _ in made)


class Away:
    """Views whose server goes away now and then, as their lock tells it."""

    def __init__(self) -> None:
        self.lost: list[Callable[[], None]] = []
        self.is_away = True

    @contextlib.contextmanager
    def lock(self, name: str, wait_s: float, lost: Callable[[], None]) -> Iterator[None]:
        """A lock that can be had while the server is there."""
        assert (name, wait_s) == (SEALER, 0.0)
        if self.is_away:
            raise TemporarilyUnavailable("away")
        self.lost.append(lost)
        yield


def test_a_lost_lock_ends_the_work_and_not_the_worker() -> None:
    """Where the views' server goes away, work ends, and begins again with a new lock."""
    views, turns = Away(), Turns()
    thread = threading.Thread(
        target=turns.run, args=(cast("Views", views), SEALER, turns.ended.wait)
    )
    thread.start()
    time.sleep(0.1)
    assert not turns.is_active
    views.is_away = False
    until(lambda: turns.is_active)
    views.is_away = True
    views.lost[0]()
    until(lambda: not turns.is_active)
    views.is_away = False
    until(lambda: turns.is_active)
    assert len(views.lost) == 2
    turns.end()
    thread.join(10)
    assert not thread.is_alive()


def test_work_that_is_done_ends_the_worker(tmp_path: Path) -> None:
    """Work that returns by itself has found that its server is gone; it is not begun again."""
    count: list[Any] = []
    Turns().run(SqliteViews(tmp_path / "views.db", "log"), SEALER, lambda: count.append(1))
    assert count == [1]
