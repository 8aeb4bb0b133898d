"""Connections to the log's database that are lost: what is appended is there once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa

from events import sql_writer
from events.errors import OutcomeUnknown, TemporarilyUnavailable
from events.event import JOURNAL
from events.sql_log import SqlLog
from events.sql_servers import Pool
from infra.backends.postgresql import RESTART_AT_ONCE
from infra.backends.service import Service
from tests.sql_logs import event, subjects
from tests.tcp_relay import Relay, relay_to


@pytest.fixture
def relayed(server_uri: str) -> Iterator[tuple[SqlLog, Relay, SqlLog]]:
    """A log behind a relay, the relay, and the same log without one."""
    url = sa.make_url(server_uri)
    assert url.port is not None
    with relay_to(url.port) as relay:
        direct = SqlLog(server_uri)
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


def test_the_writers_connection_is_recycled(server_uri: str) -> None:
    """Its connection is the pool's only one, and is never given back; it is replaced all the
    same."""
    log = SqlLog(server_uri, Pool(recycle_s=0))
    connections = []
    for number in range(3):
        assert log.append([event(str(number))]) == [number + 1]
        connections.append(log._writer._connection)
    log.close()
    assert len(set(connections)) == 3
