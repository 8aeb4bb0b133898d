"""The log on database servers: commits that finish out of order, and connections that are lost."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from events import sql_writer
from events.errors import OutcomeUnknown, TemporarilyUnavailable
from events.event import JOURNAL, POINTS, Event, NewEvent
from events.log import LogError
from events.settings import DATABASE_SCHEMES
from events.sql_log import SqlLog
from events.sql_servers import kind_of, open_server
from infra.backends.postgresql import RESTART_AT_ONCE
from infra.backends.service import Service
from tests.tcp_relay import Relay, relay_to

SERVERS = ("postgresql", "mariadb")
WRITERS = 6
ROLLED_BACK = 0.1
READ = 50


@pytest.fixture(params=SERVERS)
def uri(request: pytest.FixtureRequest) -> str:
    """An empty database on each kind of server."""
    return str(request.getfixturevalue(f"{request.param}_uri"))


def event(subject: str, lane: str = "journal") -> NewEvent:
    """An event about a subject."""
    if lane == "points":
        return NewEvent("points", "points.logged", 1, subject, 1, b"\x00")
    return NewEvent("journal", "run.updated", 1, subject, 1, b"{}")


def subjects(log: SqlLog, after: int = 0) -> list[str]:
    """The journal's events behind a position."""
    return [one.subject for one in log.read(JOURNAL, after, 10_000)]


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


def test_two_open_transactions_do_not_pass_each_other(uri: str) -> None:
    """The second gets no position, and shows nothing, before the first has ended; an append of
    the log waits in the same row."""
    log = SqlLog(uri)
    first = OpenTransaction(uri, "first").begin()
    second = OpenTransaction(uri, "second").begin()
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
def test_three_open_transactions_leave_no_gap(uri: str, fates: str) -> None:
    """Whichever of three is rolled back, a reader that follows sees the others once, in order,
    and never a position before one that may still come."""
    log = SqlLog(uri)
    transactions = {name: OpenTransaction(uri, name) for name in ("0", "1", "2")}
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


def test_six_writers_and_a_reader(uri: str, pytestconfig: pytest.Config) -> None:
    """With a tenth of the transactions rolled back, every committed event is read exactly once,
    in the order of its position, which has no gaps (`--storm-seconds` says how long)."""
    SqlLog(uri).close()
    until = time.monotonic() + pytestconfig.getoption("--storm-seconds")
    committed: list[list[tuple[int, str]]] = [[] for _ in range(WRITERS)]
    follower = Follower(uri)
    follower.start()
    writers = [
        threading.Thread(target=write, args=(uri, name, until, committed[name]))
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
    assert all(len(of_writer) > 20 for of_writer in committed)


@pytest.fixture
def relayed(uri: str) -> Iterator[tuple[SqlLog, Relay, SqlLog]]:
    """A log behind a relay, the relay, and the same log without one."""
    url = sa.make_url(uri)
    assert url.port is not None
    with relay_to(url.port) as relay:
        direct = SqlLog(uri)
        through = SqlLog(url.set(port=relay.port).render_as_string(hide_password=False))
        yield through, relay, direct
        through.close()
        direct.close()


def once(part: bytes, then: Callable[[], None] = lambda: None) -> Callable[[bytes], bytes | None]:
    """Loses the first piece that has this in it, and no other."""
    lost = threading.Event()

    def judge(data: bytes) -> bytes | None:
        if part in data and not lost.is_set():
            lost.set()
            then()
            return None
        return data

    return judge


def test_an_append_whose_answer_is_lost_is_there_once(
    relayed: tuple[SqlLog, Relay, SqlLog],
) -> None:
    """The commit was made and nobody said so: the append finds that out and gives the position."""
    log, relay, direct = relayed
    assert log.append([event("before")]) == [1]
    sent = threading.Event()

    def request(data: bytes) -> bytes:
        if b"the lost one" in data:
            sent.set()
        return data

    def answer(data: bytes) -> bytes | None:
        if sent.is_set():
            sent.clear()
            return None
        return data

    relay.on_request, relay.on_answer = request, answer
    assert log.append([event("the lost one"), event("its second")]) == [2, 3]
    assert log.append([event("after")]) == [4]
    assert subjects(direct) == ["before", "the lost one", "its second", "after"]


def test_an_append_that_did_not_arrive_is_made_again(
    relayed: tuple[SqlLog, Relay, SqlLog],
) -> None:
    """The connection broke before the server had anything: the same call appends, once."""
    log, relay, direct = relayed
    log.append([event("before")])
    relay.on_request = once(b"the lost one")
    assert log.append([event("the lost one")]) == [2]
    assert subjects(direct) == ["before", "the lost one"]


def test_an_append_that_arrives_late_is_not_made_twice(
    relayed: tuple[SqlLog, Relay, SqlLog],
) -> None:
    """What was still on its way when it was given up and made again changes nothing."""
    log, relay, direct = relayed
    log.append([event("before")])
    held: list[bytes] = []

    def judge(data: bytes) -> bytes | None:
        if b"the late one" in data and not held:
            held.append(data)
            return None
        return data

    relay.keeps_server = True
    relay.on_request = judge
    assert log.append([event("the late one")]) == [2]
    assert subjects(direct) == ["before", "the late one"]
    (server,) = relay.kept
    server.sendall(held[0])
    time.sleep(0.5)
    assert subjects(direct) == ["before", "the late one"]
    assert log.append([event("after")]) == [3]
    assert direct.append([event("of another")]) == [4]


def test_what_became_of_an_append_may_stay_unknown(
    relayed: tuple[SqlLog, Relay, SqlLog], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the server does not come back in time the caller is told just that; the next append
    is made when it is back, and the one before is there at most once."""
    monkeypatch.setattr(sql_writer, "SETTLE_S", 0.5)
    log, relay, direct = relayed
    log.append([event("before")])
    sent = threading.Event()

    def request(data: bytes) -> bytes | None:
        if b"the lost one" in data:
            sent.set()
            return data
        return None if sent.is_set() else data

    relay.on_request = request
    relay.on_answer = lambda data: None if sent.is_set() else data
    with pytest.raises(OutcomeUnknown):
        log.append([event("the lost one")])
    with pytest.raises(TemporarilyUnavailable):
        log.append([event("refused")])
    relay.on_request = relay.on_answer = bytes
    assert log.append([event("after")]) == [3]
    assert subjects(direct) == ["before", "the lost one", "after"]


def test_a_server_that_is_away_refuses_before_anything_is_there(own_postgresql: Service) -> None:
    """While it is away appends and reads are refused with the reason, and after an immediate
    restart the same log goes on."""
    log = SqlLog(own_postgresql.uri)
    log.append([event("before")])
    own_postgresql.end(RESTART_AT_ONCE)
    for call in (lambda: log.append([event("refused")]), lambda: log.head(JOURNAL)):
        with pytest.raises(TemporarilyUnavailable, match="can't be reached"):
            call()
    own_postgresql.start()
    assert log.append([event("after")]) == [2]
    assert subjects(log) == ["before", "after"]
    log.close()


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM log_journal",
        "UPDATE log_journal SET data = 'x'",
        "UPDATE log_journal SET position = 9",
        "UPDATE log_journal SET scrubbed = true",
        "UPDATE log_journal SET type = 'run.purged'",
        "DELETE FROM log_points",
        "UPDATE log_points SET data = ''",
    ],
)
def test_the_server_itself_refuses_to_change_events(uri: str, statement: str) -> None:
    """UPDATE and DELETE are refused by triggers, whoever is connected."""
    log = SqlLog(uri)
    log.append([event("a"), event("a", "points")])
    engine = open_server(uri)
    with (
        pytest.raises(sa.exc.DBAPIError, match="append-only"),
        engine.connect() as connection,
    ):
        connection.exec_driver_sql(statement)
    engine.dispose()
    assert [one.data for one in log.read(JOURNAL, 0, 9)] == [b"{}"]
    log.close()


def test_postgresql_refuses_to_empty_the_log(postgresql_uri: str) -> None:
    """TRUNCATE is refused too."""
    SqlLog(postgresql_uri).close()
    engine = open_server(postgresql_uri)
    with (
        pytest.raises(sa.exc.DBAPIError, match="append-only"),
        engine.connect() as connection,
    ):
        connection.exec_driver_sql("TRUNCATE log_points")
    engine.dispose()


def test_another_opener_sees_the_same(uri: str) -> None:
    """A second opening has the identity and the events of the first, and appends go on."""
    first, second = SqlLog(uri), SqlLog(uri, make=False)
    first.append([event("a")])
    assert second.identity == first.identity
    assert second.append([event("b")]) == [2]
    assert subjects(first) == ["a", "b"]
    first.close()
    second.close()


def test_two_that_begin_at_once_make_one_log(uri: str) -> None:
    """Six processes that open an empty database have one log."""
    found: list[str] = []

    def begin() -> None:
        log = SqlLog(uri)
        found.append(log.identity.log_id)
        log.append([event("x")])
        log.close()

    threads = [threading.Thread(target=begin) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log = SqlLog(uri)
    assert (len(found), len(set(found)), log.head(JOURNAL)) == (6, 1, 6)
    log.close()


def test_a_log_of_a_later_version_is_refused(uri: str) -> None:
    """A schema that this code does not know is refused with the reason; so is a missing log where
    none is to be made."""
    with pytest.raises(LogError, match="there is no log in"):
        SqlLog(uri, make=False)
    SqlLog(uri).close()
    engine = open_server(uri)
    with engine.connect() as connection:
        connection.exec_driver_sql("UPDATE log_meta SET value = '99' WHERE name = 'schema_version'")
    engine.dispose()
    with pytest.raises(LogError, match="schema version 99"):
        SqlLog(uri)


def test_a_server_that_does_not_keep_its_word_is_refused(
    own_postgresql: Service, own_mariadb: Service
) -> None:
    """Settings with which a commit can be lost are refused at the start, each by its name."""
    engine = open_server(own_postgresql.uri)
    with engine.connect() as connection:
        connection.exec_driver_sql("ALTER ROLE postgres SET synchronous_commit = off")
    engine.dispose()
    with pytest.raises(LogError, match="synchronous_commit=off"):
        SqlLog(own_postgresql.uri)
    engine = open_server(own_mariadb.uri)
    with engine.connect() as connection:
        connection.exec_driver_sql("SET GLOBAL innodb_flush_log_at_trx_commit = 2")
    engine.dispose()
    with pytest.raises(LogError, match="innodb_flush_log_at_trx_commit=2"):
        SqlLog(own_mariadb.uri)


def test_a_server_that_is_not_there_says_so() -> None:
    """The message names the server, and no password."""
    with pytest.raises(LogError, match="can't be reached") as refused:
        SqlLog("postgresql://me:hidden@127.0.0.1:1/nothing")
    assert "hidden" not in str(refused.value)


def test_every_scheme_that_the_settings_take_has_a_kind() -> None:
    """What --log-uri lets through can be opened."""
    assert {kind_of(f"{scheme}://host/db") for scheme in DATABASE_SCHEMES} == {
        "postgresql",
        "mysql",
    }
    assert kind_of("oracle://host/db") is None


def test_a_large_append_goes_in_several_messages(mariadb: Service, mariadb_uri: str) -> None:
    """MariaDB takes no message beyond a bound; an append of more than that is one transaction all
    the same, and text of any kind comes back as it was."""
    log = SqlLog(mariadb_uri)
    large = [
        NewEvent("points", "points.logged", 1, str(number), 1, bytes(range(256)) * 20_000)
        for number in range(8)
    ]
    told = NewEvent("journal", "run.updated", 1, "é", 1, '{"%s": "日本 \'\\" ; 😀"}'.encode())
    assert log.append([*large, told]) == [*range(1, 9), 1]
    assert [one.data for one in log.read(POINTS, 0, 9)] == [one.data for one in large]
    assert log.read(JOURNAL, 0, 9)[0].data == told.data
    assert mariadb.process is not None
    log.close()
