"""Queries beside each other in one API process."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response

from api import sql
from api.query_slots import query_slots
from events.settings import Settings
from projections.pressure import OthersUse, Pressure
from projections.query_forks import Forked
from projections.sql_snapshot import take_snapshot
from tests.sql_cases import SqlCase


class Watching:
    """Takes snapshots, slowly, and counts how many are taken at once."""

    def __init__(self, take: Callable[..., Any]) -> None:
        self._take = take
        self._lock = threading.Lock()
        self._now = 0
        self.most = 0
        self.taken = 0

    def __call__(self, *args: Any) -> Any:
        with self._lock:
            self._now += 1
            self.taken += 1
            self.most = max(self.most, self._now)
        time.sleep(0.2)
        try:
            return self._take(*args)
        finally:
            with self._lock:
                self._now -= 1


async def _fresh(_read: object) -> None:
    """The views are as fresh as the log."""


def a_request(state: SimpleNamespace, statement: str) -> Request:
    """A request for a query, of a client that stays."""
    sent = [{"type": "http.request", "body": json.dumps({"statement": statement}).encode()}]

    async def receive() -> Any:
        if not sent:
            await asyncio.sleep(60)
        return sent.pop()

    headers = [(b"content-type", b"application/json")]
    app = SimpleNamespace(state=state)
    scope = {"type": "http", "method": "POST", "path": "/", "headers": headers, "app": app}
    return Request(scope, receive)


def answers(case: SqlCase, settings: Settings, *statements: str) -> list[Any]:
    """The rows of queries that are asked at once."""

    async def ask() -> list[Response]:
        async with query_slots(settings, case.lake) as slots:
            services = SimpleNamespace(
                settings=settings,
                views=SimpleNamespace(read=_fresh),
                views_file=case.views,
                log=case.log,
                lake=case.lake,
            )
            state = SimpleNamespace(services=services, query_slots=slots)
            asked = [a_request(state, statement) for statement in statements]
            return list(await asyncio.gather(*map(sql.run_sql, asked)))

    return [json.loads(bytes(one.body))["rows"] for one in asyncio.run(ask())]


@pytest.mark.parametrize(("share", "threads"), [(0.9, "1"), (0.1, "2")])
def test_a_query_has_one_thread_while_others_want_the_processors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float, threads: str
) -> None:
    """It has as many as it may where nobody waits for a processor."""
    case = SqlCase(tmp_path)
    monkeypatch.setattr(Pressure, "share", lambda _self: share)
    settings = Settings(home=tmp_path, sql_threads=2, sql_memory_mb=300)
    asked = "SELECT current_setting('threads')::VARCHAR"
    assert answers(case, settings, asked) == [[[threads]]]
    case.close()


@pytest.mark.parametrize(("share", "rests"), [(0.9, True), (0.4, False)])
def test_a_query_rests_while_others_take_the_processors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float, rests: bool
) -> None:
    """It is stopped now and then, and comes to its end; otherwise it never is."""
    case = SqlCase(tmp_path)
    monkeypatch.setattr(OthersUse, "share", lambda _self: share)
    stopped, stop = [], Forked.stopped

    def counted(process: Forked) -> AbstractContextManager[None]:
        stopped.append(process)
        return stop(process)

    monkeypatch.setattr(Forked, "stopped", counted)
    settings = Settings(home=tmp_path, sql_memory_mb=300)
    asked = "SELECT count(*) FROM range(20000000) AS t(a) WHERE hash(a) % 7 < 9"
    assert answers(case, settings, asked) == [[[20_000_000]]]
    assert bool(stopped) is rests
    case.close()


def test_one_snapshot_is_taken_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two queries run at once, but the work that the server does for them comes one by one."""
    case = SqlCase(tmp_path)
    watching = Watching(take_snapshot)
    monkeypatch.setattr(sql, "take_snapshot", watching)
    settings = Settings(home=tmp_path, sql_concurrent=2, sql_memory_mb=300)
    asked = [f"SELECT count(*), {n} FROM metrics" for n in (1, 2)]
    assert answers(case, settings, *asked) == [[[0, 1]], [[0, 2]]]
    assert (watching.taken, watching.most) == (2, 1)
    case.close()
