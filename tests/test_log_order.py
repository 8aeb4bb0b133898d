"""Commits on database servers that finish out of order, and a reader that misses none."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from events import sql_log
from events.event import JOURNAL, Event, NewEvent
from events.experiments import EXPERIMENT_CREATED, ExperimentCreated
from events.log import LogError
from events.runs import RUN_CREATED, RunCreated
from events.sql_log import SqlLog
from events.sql_servers import open_server
from projections.runs import runs
from projections.schema import rejections
from projections.sqlite_views import SqliteViews
from tests.sql_logs import event, subjects
from workers.projector import Projector

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


def put(uri: str, position: int) -> None:
    """An event in the journal, past the log."""
    engine = open_server(uri)
    with engine.connect() as connection:
        connection.exec_driver_sql(
            "INSERT INTO log_journal (position, type, version, subject, time, data) "
            f"VALUES ({position}, 'run.updated', 1, '{position}', 1, '{{}}')"
        )
    engine.dispose()


def test_nothing_behind_a_gap_is_believed(server_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot that has a later event and not the one before is taken for a moment's; where it
    stays the log has lost an event, and says so."""
    log = SqlLog(server_uri)
    for position in (1, 2, 4, 5):
        put(server_uri, position)
    assert subjects(log) == ["1", "2"]
    late = threading.Timer(0.3, put, (server_uri, 3))
    late.start()
    assert subjects(log, 2) == ["3", "4", "5"]
    late.join()
    put(server_uri, 7)
    monkeypatch.setattr(sql_log, "GAP_S_MAX", 0.2)
    assert subjects(log, 4) == ["5"]
    with pytest.raises(LogError, match="no event journal 6 but has later ones, up to 7"):
        subjects(log, 5)
    log.close()


class Reader(threading.Thread):
    """Whatever goes through the journal from its last position on, until it is told that nothing
    is to come and there is nothing."""

    def __init__(self, uri: str) -> None:
        super().__init__()
        self._log = SqlLog(uri)
        self.seen: list[tuple[int, str]] = []
        self.done = threading.Event()

    def run(self) -> None:
        after = 0
        while True:
            ends = self.done.is_set()
            events = self._log.read(JOURNAL, after, READ)
            head = self._log.head(JOURNAL)
            self.seen += [(one.position, one.subject) for one in events]
            after = events[-1].position if events else after
            assert head >= after
            if ends and not events:
                break
        self._log.close()


class Folder(threading.Thread):
    """A projector of the same events, into SQLite views of its own."""

    def __init__(self, uri: str, path: Path) -> None:
        super().__init__()
        self._log = SqlLog(uri)
        self._views = SqliteViews(path, self._log.identity.log_id)
        self.runs: list[str] = []
        self.rejected = 0
        self.position = 0
        self.done = threading.Event()

    def run(self) -> None:
        self._views.create()
        projector = Projector(self._log, self._views)
        ends = False
        while not ends:
            ends = self.done.is_set()
            projector.catch_up()
        with self._views.read() as connection:
            self.runs = list(connection.execute(sa.select(runs.c.run_id)).scalars())
            self.rejected = len(connection.execute(sa.select(rejections)).all())
        self.position = self._views.checkpoints()[JOURNAL].position
        self._views.close()
        self._log.close()


class Writer(threading.Thread):
    """Creates runs in batches of different sizes, of which a tenth has an event that the database
    refuses, until the time is up and it has done its least."""

    def __init__(self, uri: str, name: int, start: threading.Barrier, seconds: float) -> None:
        super().__init__()
        self._log = SqlLog(uri)
        self._name = name
        self._start = start
        self._seconds = seconds
        self.committed: list[tuple[int, str]] = []
        self.commits = self.rollbacks = 0

    def run(self) -> None:
        chance = random.Random(self._name)
        number = 0
        self._start.wait(60)
        until = time.monotonic() + self._seconds
        while time.monotonic() < until or min(self.commits / 20, self.rollbacks) < 1:
            count = chance.choice((1, 1, 2, 30))
            names = [f"{self._name}-{number + place}" for place in range(count)]
            number += count
            batch = [_run_created(name) for name in names]
            if chance.random() < ROLLED_BACK:
                with pytest.raises(LogError, match="refused an append"):
                    self._log.append([*batch, REFUSED])
                self.rollbacks += 1
            else:
                self.committed += zip(self._log.append(batch), names, strict=True)
                self.commits += 1
        self._log.close()


REFUSED = NewEvent("journal", "run.created", 1, None, 1, b"")  # type: ignore[arg-type]


def _run_created(run_id: str) -> NewEvent:
    return RUN_CREATED.new(run_id, RunCreated("1", run_id, "u", 1, "uri"), time=1)


def test_six_writers_and_who_follows(
    server_uri: str, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    """With a tenth of the transactions rolled back, every committed event is read exactly once, in
    the order of its position, which has no gaps, and folded exactly once (`--storm-seconds` says
    for how long; each writer commits twenty times and is refused once, however slow the machine).
    """
    log = SqlLog(server_uri)
    log.append([EXPERIMENT_CREATED.new("1", ExperimentCreated("e", "a", 1), time=1)])
    log.close()
    reader, folder = Reader(server_uri), Folder(server_uri, tmp_path / "views.db")
    start = threading.Barrier(WRITERS)
    seconds = pytestconfig.getoption("--storm-seconds")
    writers = [Writer(server_uri, name, start, seconds) for name in range(WRITERS)]
    threads = [reader, folder, *writers]
    for thread in threads:
        thread.start()
    for writer in writers:
        writer.join()
    for follower in (reader, folder):
        follower.done.set()
        follower.join()
    assert all(writer.commits >= 20 and writer.rollbacks for writer in writers)
    expected = sorted(one for writer in writers for one in writer.committed)
    assert [position for position, _ in expected] == list(range(2, len(expected) + 2))
    assert reader.seen[1:] == expected
    assert sorted(folder.runs) == sorted(name for _, name in expected)
    assert (folder.position, folder.rejected) == (len(expected) + 1, 0)
