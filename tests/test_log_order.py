"""Commits on database servers that finish out of order, and a reader that misses none."""

from __future__ import annotations

import random
import threading
import time
from typing import Any

import pytest

from events.event import JOURNAL, POINTS, Event, NewEvent
from events.log import LogError
from events.sql_log import SqlLog
from events.sql_servers import open_server
from tests.sql_logs import event, subjects

WRITERS = 6
ROLLED_BACK = 0.1
READ = 50


class OpenTransaction:
    """An append that has done all but its commit, as another process would have it."""

    def __init__(self, uri: str, subject: str) -> None:
        self._engine = open_server(uri)
        self._subject = subject
        self._connection = self._engine.raw_connection()
        self._cursor: Any = self._connection.cursor()
        self._thread = threading.Thread(target=self._append)

    def _append(self) -> None:
        execute = self._cursor.execute
        execute("BEGIN")
        execute("UPDATE log_heads SET journal = journal + 1 WHERE id = 1")
        execute("SELECT journal FROM log_heads")
        (position,) = self._cursor.fetchone()
        execute(
            "INSERT INTO log_journal (position, type, version, subject, time, data) "
            "VALUES (%s, 'run.updated', 1, %s, 1, '{}')",
            (position, self._subject),
        )

    def begin(self) -> OpenTransaction:
        """Has it appended, as far as the others let it."""
        self._thread.start()
        self._thread.join(0.3)
        return self

    @property
    def waits(self) -> bool:
        """Whether it still waits for another's end."""
        return self._thread.is_alive()

    def end(self, how: str) -> None:
        """COMMIT or ROLLBACK, once it is its turn."""
        self._thread.join(10)
        assert not self._thread.is_alive()
        self._cursor.execute(how)
        self._connection.close()
        self._engine.dispose()


def test_two_open_transactions_do_not_pass_each_other(server_uri: str) -> None:
    """The second gets no position, and shows nothing, before the first has ended; an append of
    the log waits in the same row."""
    log = SqlLog(server_uri)
    first = OpenTransaction(server_uri, "first").begin()
    second = OpenTransaction(server_uri, "second").begin()
    assert (first.waits, second.waits) == (False, True)
    assert (subjects(log), log.head(JOURNAL)) == ([], 0)
    third = threading.Thread(target=log.append, args=([event("third")],))
    third.start()
    third.join(0.3)
    assert third.is_alive()
    assert subjects(log) == []
    first.end("COMMIT")
    assert subjects(log)[:1] == ["first"]
    second.end("COMMIT")
    third.join(10)
    assert sorted(subjects(log)) == ["first", "second", "third"]
    assert [one.position for one in log.read(JOURNAL, 0, 9)] == [1, 2, 3]
    log.close()


@pytest.mark.parametrize("fates", ["crc", "rcc", "ccr", "rrc", "crr"])
def test_three_open_transactions_leave_no_gap(server_uri: str, fates: str) -> None:
    """Whichever of three is rolled back, a reader that follows sees the others once, in order,
    and never a position before one that may still come."""
    log = SqlLog(server_uri)
    transactions = {name: OpenTransaction(server_uri, name) for name in ("0", "1", "2")}
    seen: list[Event] = []

    def look() -> None:
        new = log.read(JOURNAL, seen[-1].position if seen else 0, 9)
        assert [one.position for one in new] == list(range(len(seen) + 1, len(seen) + len(new) + 1))
        assert log.head(JOURNAL) >= len(seen) + len(new)
        seen.extend(new)

    for one in transactions.values():
        one.begin()
        look()
    ended: list[str] = []
    while len(ended) < 3:
        # Whoever has got the row: who is next is the server's choice.
        name = next(n for n, one in transactions.items() if n not in ended and not one.waits)
        transactions[name].end("COMMIT" if fates[int(name)] == "c" else "ROLLBACK")
        ended.append(name)
        look()
        time.sleep(0.2)
    look()
    assert [one.subject for one in seen] == [name for name in ended if fates[int(name)] == "c"]
    log.append([event("after")])
    look()
    assert seen[-1].subject == "after"
    log.close()


class Follower(threading.Thread):
    """A projector's way through a lane: page after page, from the last position on."""

    def __init__(self, uri: str) -> None:
        super().__init__()
        self._log = SqlLog(uri)
        self.seen: list[tuple[int, str]] = []
        self.done = threading.Event()

    def run(self) -> None:
        after = 0
        while True:
            ends = self.done.is_set()
            events = self._log.read(POINTS, after, READ)
            head = self._log.head(POINTS)
            self.seen += [(one.position, one.subject) for one in events]
            after = events[-1].position if events else after
            assert head >= after
            if ends and not events:
                break
        self._log.close()


def write(uri: str, name: int, until: float, committed: list[tuple[int, str]]) -> None:
    """Appends in batches of different sizes; a tenth of them has an event that is refused."""
    log = SqlLog(uri)
    chance = random.Random(name)
    number = 0
    while time.monotonic() < until:
        count = chance.choice((1, 1, 2, 30))
        names = [f"{name}-{number + place}" for place in range(count)]
        number += count
        batch = [event(one, "points") for one in names]
        if chance.random() < ROLLED_BACK:
            bad = NewEvent("points", "points.logged", 1, None, 1, b"")  # type: ignore[arg-type]
            with pytest.raises(LogError):
                log.append([*batch, bad])
            continue
        committed += zip(log.append(batch), names, strict=True)
    log.close()


def test_six_writers_and_a_reader(server_uri: str, pytestconfig: pytest.Config) -> None:
    """With a tenth of the transactions rolled back, every committed event is read exactly once,
    in the order of its position, which has no gaps (`--storm-seconds` says how long)."""
    SqlLog(server_uri).close()
    until = time.monotonic() + pytestconfig.getoption("--storm-seconds")
    committed: list[list[tuple[int, str]]] = [[] for _ in range(WRITERS)]
    follower = Follower(server_uri)
    follower.start()
    writers = [
        threading.Thread(target=write, args=(server_uri, name, until, committed[name]))
        for name in range(WRITERS)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    follower.done.set()
    follower.join()
    expected = sorted(one for of_writer in committed for one in of_writer)
    assert follower.seen == expected
    assert [position for position, _ in expected] == list(range(1, len(expected) + 1))
    # How many is the machine's affair; that all six took part makes it a storm.
    assert all(committed)
