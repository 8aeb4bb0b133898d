"""The log's contract, run over every backend."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pysqlite3.dbapi2 as sqlite
import pytest

from events.event import JOURNAL, LANES, Event, Lane, NewEvent, Partition
from events.kafka_log import KafkaLog, init_log
from events.kafka_settings import KafkaAccess
from events.log import Log, LogError
from events.memory_log import MemoryLog
from events.sql_log import SqlLog
from events.sqlite_log import SqliteLog

pytestmark = pytest.mark.services

BACKENDS = ("memory", "memory-divided", "sqlite", "postgresql", "mariadb", "kafka")


@pytest.fixture(params=BACKENDS)
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Log]:
    """An empty log of each backend."""
    opened: Log
    if request.param == "sqlite":
        opened = SqliteLog(tmp_path / "log.db")
    elif request.param in ("postgresql", "mariadb"):
        opened = SqlLog(request.getfixturevalue(f"{request.param}_uri"))
    elif request.param == "kafka":
        uri = request.getfixturevalue("kafka_uri")
        init_log(uri, KafkaAccess(), partitions=3)
        opened = KafkaLog(uri, KafkaAccess())
    else:
        opened = MemoryLog(points_partitions=3 if request.param == "memory-divided" else 1)
    yield opened
    opened.close()


def journal(subject: str, data: bytes = b"{}", kind: str = "run.updated") -> NewEvent:
    """A journal event about a subject."""
    return NewEvent("journal", kind, 1, subject, 1_000, data, "somebody", "127.0.0.1 test")


def points(subject: str, data: bytes = b"\x00\x01") -> NewEvent:
    """A points event about a subject."""
    return NewEvent("points", "points.logged", 1, subject, 2_000, data)


def partition_of(log: Log, subject: str) -> Partition:
    """The points partition that has this subject's events."""
    (event, *_) = log.about("points", subject)
    return Partition("points", event.partition)


def everything(log: Log, lane: Lane) -> list[Event]:
    """All events of a lane."""
    partitions = [one for one in log.partitions() if one.lane == lane]
    return [event for partition in partitions for event in log.read(partition, 0, 10_000)]


def heads(log: Log) -> dict[Lane, int]:
    """How many events each lane of a log without gaps has."""
    counts = dict.fromkeys(LANES, 0)
    for partition in log.partitions():
        counts[partition.lane] += log.head(partition)
    return counts


def nothing(_event: Event) -> bytes:
    """What a scrub keeps of an event that leaves nothing."""
    return b"{}" if _event.lane == "journal" else b""


def test_each_partition_counts_its_own_positions_from_one(log: Log) -> None:
    """Positions are 1, 2, 3 … in each partition, in the order of the append."""
    assert log.append([journal("a"), points("a"), journal("b")]) == [1, 1, 2]
    assert log.append([points("a"), journal("c")]) == [2, 3]
    assert log.head(JOURNAL) == 3
    assert log.head(partition_of(log, "a")) == 2


def test_the_journal_is_one_partition_and_comes_first(log: Log) -> None:
    """Only one sequence can be in total order; the points lane may have several."""
    first, *others = log.partitions()
    assert first == JOURNAL
    assert others == [Partition("points", number) for number in range(len(others))]
    assert others


def test_the_points_of_a_subject_are_in_one_partition(log: Log) -> None:
    """Each event says where it is, and a subject's are read in the order of their appends."""
    log.append([points(f"r{n % 7}", bytes([n])) for n in range(70)])
    for number in range(7):
        found = list(log.about("points", f"r{number}"))
        assert [event.data[0] % 7 for event in found] == [number] * 10
        assert [event.data for event in found] == sorted(event.data for event in found)
        partition = partition_of(log, f"r{number}")
        assert {event.partition for event in found} == {partition.number}
        there = log.read(partition, 0, 100)
        assert [event for event in there if event.subject == f"r{number}"] == found


@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 128, 200])
def test_an_append_of_any_size_counts_on(log: Log, count: int) -> None:
    """Positions go on without a gap and in order, whether lanes are mixed or not."""
    log.append([points("run", b"first")])
    sent = [points("run", b"p%d" % number) for number in range(count)]
    assert log.append(sent) == list(range(2, count + 2))
    numbers = [str(number) for number in range(count)]
    mixed = [event for one in numbers for event in (journal(one), points("run", one.encode()))]
    expected = [
        position for number in range(count) for position in (number + 1, count + 2 + number)
    ]
    assert log.append(mixed) == expected
    read = log.read(partition_of(log, "run"), 0, 1_000)
    assert [event.data.decode() for event in read] == [
        "first",
        *(f"p{number}" for number in range(count)),
        *numbers,
    ]
    assert [event.position for event in read] == list(range(1, 2 * count + 2))
    assert [event.subject for event in log.read(JOURNAL, 0, 1_000)] == numbers


def test_an_append_that_fails_leaves_nothing(log: Log) -> None:
    """All or none: also of many events, of which the last can't be stored."""
    bad = NewEvent("points", "points.logged", 1, None, 1, b"")  # type: ignore[arg-type]
    for count in (0, 1, 70):
        if isinstance(log, MemoryLog):
            break
        refused = (sqlite.IntegrityError, LogError, AttributeError)
        with pytest.raises(refused):
            log.append([journal("a"), *(points("b") for _ in range(count)), bad])
        with pytest.raises(refused):
            log.append([*(points("b") for _ in range(count)), bad])
    assert heads(log) == {"journal": 0, "points": 0}
    assert log.append([points("c")]) == [1]


def test_an_empty_log_has_head_zero(log: Log) -> None:
    """Nothing is read from an empty log, and its heads are 0."""
    assert heads(log) == {"journal": 0, "points": 0}
    assert everything(log, "journal") + everything(log, "points") == []


def test_what_was_appended_is_read_back_whole(log: Log) -> None:
    """Every part of the envelope comes back, also bytes that are no text."""
    sent = journal("run-é", '{"key": "日本"}'.encode())
    block = points("run-é", bytes(range(256)))
    log.append([sent, block])
    (read,) = log.read(JOURNAL, 0, 10)
    assert read == Event(
        "journal",
        1,
        sent.type,
        1,
        "run-é",
        1_000,
        sent.data,
        "somebody",
        "127.0.0.1 test",
        False,
    )
    assert everything(log, "points")[0].data == bytes(range(256))


@pytest.mark.parametrize("lane", LANES)
def test_reading_goes_on_behind_a_position(log: Log, lane: Lane) -> None:
    """A reader that goes from page to page sees each event once, in order."""
    make = journal if lane == "journal" else points
    log.append([make("a", b"%d" % number) for number in range(25)])
    partition = JOURNAL if lane == "journal" else partition_of(log, "a")
    seen: list[str] = []
    after = 0
    while page := log.read(partition, after, 10):
        seen += [event.data.decode() for event in page]
        after = page[-1].position
    assert seen == [str(number) for number in range(25)]


def test_the_events_about_a_subject_come_in_order(log: Log) -> None:
    """`about` gives one subject's events of a lane and no other's, however alike they are."""
    log.append([journal("a"), journal("b"), journal("a"), points("a")])
    assert [event.position for event in log.about("journal", "a")] == [1, 3]
    assert [event.position for event in log.about("points", "a")] == [1]
    assert list(log.about("journal", "nobody")) == []
    alike = ["A", "a ", "\u00e4"]
    log.append([journal(subject) for subject in alike])
    for subject, position in zip(alike, (4, 5, 6), strict=True):
        assert [event.position for event in log.about("journal", subject)] == [position]
    assert [event.position for event in log.about("journal", "a")] == [1, 3]


def test_appends_of_many_threads_leave_no_gap_and_lose_nothing(log: Log) -> None:
    """Concurrent appends get distinct positions without gaps, and a batch stays together."""
    taken: list[list[int]] = []

    def write(name: int) -> None:
        for _ in range(20):
            taken.append(log.append([journal(str(name)), journal(str(name))]))

    threads = [threading.Thread(target=write, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(position for pair in taken for position in pair) == list(range(1, 321))
    assert all(second == first + 1 for first, second in taken)
    assert log.head(JOURNAL) == 320


def test_a_reader_beside_writers_never_misses_a_position(log: Log) -> None:
    """Whoever has read position n finds nothing new at or before n later."""
    done = threading.Event()

    def write(name: int) -> None:
        for _ in range(60):
            log.append([journal(str(name))])

    threads = [threading.Thread(target=write, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    seen: list[int] = []
    while len(seen) < 240 and not done.is_set():
        seen += [event.position for event in log.read(JOURNAL, seen[-1] if seen else 0, 50)]
    for thread in threads:
        thread.join()
    assert seen == list(range(1, 241))


def test_a_log_says_whether_it_has_grown(log: Log) -> None:
    """Since certain heads; and of the partitions that they are of alone."""
    before = log.heads()
    assert not log.has_grown(before, 0.1)
    log.append([points("a")])
    assert log.has_grown(before, 5.0)
    assert not log.has_grown({JOURNAL: before[JOURNAL]}, 0.1)
    assert not log.has_grown(log.heads(), 0.1)
    log.append([journal("a")])
    assert log.has_grown({JOURNAL: before[JOURNAL]}, 5.0)
    assert log.has_grown(before, 5.0)


def test_a_purged_subject_is_scrubbed_and_its_positions_stay(log: Log) -> None:
    """Scrubbing empties the data of the subject's events in both lanes and nothing else."""
    if not log.can_scrub:
        assert log.unscrubbed(["a"]) == set()
        with pytest.raises(LogError, match="can't be scrubbed"):
            log.scrub(["a"], nothing)
        return
    log.append([journal("a", b'{"secret":1}'), points("a"), journal("b"), points("b")])
    log.append([points("a "), journal("a", kind="run.purged")])
    assert log.unscrubbed(["a", "b", "c"]) == {"a", "b"}
    assert log.scrub(["a"], nothing) == 2
    assert log.unscrubbed(["a", "b", "c"]) == {"b"}
    first, other, purge = log.read(JOURNAL, 0, 10)
    assert (first.data, first.scrubbed, first.position, first.type) == (
        b"{}",
        True,
        1,
        "run.updated",
    )
    assert (other.data, other.scrubbed) == (b"{}", False)
    assert (purge.type, purge.scrubbed) == ("run.purged", False)
    assert {(e.subject, e.data, e.scrubbed) for e in everything(log, "points")} == {
        ("a", b"", True),
        ("b", b"\x00\x01", False),
        ("a ", b"\x00\x01", False),
    }
    assert log.scrub(["a"], nothing) == 0


def test_a_subject_that_is_not_purged_can_not_be_scrubbed(log: Log) -> None:
    """Append-only: the data of a subject without a purge event can't be changed."""
    log.append([journal("a", b'{"kept":1}')])
    with pytest.raises(Exception, match=r"append-only|can't be scrubbed"):
        log.scrub(["a"], nothing)
    assert log.read(JOURNAL, 0, 1)[0].data == b'{"kept":1}'


def test_the_identity_stays_the_same(log: Log) -> None:
    """A log has an id and a secret of at least 32 bytes, the same whenever asked."""
    assert log.identity == log.identity
    assert len(log.identity.secret) >= 32
    assert log.identity.log_id


def test_another_opener_of_a_sqlite_log_sees_the_same(tmp_path: Path) -> None:
    """A second opening has the identity and the events of the first, and appends go on."""
    first = SqliteLog(tmp_path / "log.db")
    first.append([journal("a")])
    second = SqliteLog(tmp_path / "log.db")
    assert second.identity == first.identity
    assert second.append([journal("b")]) == [2]
    assert [event.subject for event in first.read(JOURNAL, 0, 9)] == ["a", "b"]
    first.close()
    second.close()


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM journal",
        "UPDATE journal SET data = 'x'",
        "UPDATE journal SET position = 9",
        "UPDATE journal SET scrubbed = 1",
        "UPDATE journal SET type = 'run.purged'",
        "DELETE FROM points",
        "UPDATE points SET data = x'00'",
    ],
)
def test_the_database_itself_refuses_to_change_events(tmp_path: Path, statement: str) -> None:
    """UPDATE and DELETE are refused by triggers, whoever opens the file."""
    log = SqliteLog(tmp_path / "log.db")
    log.append([journal("a"), points("a")])
    connection = sqlite.connect(str(tmp_path / "log.db"))
    with pytest.raises(sqlite.IntegrityError, match="append-only"):
        connection.execute(statement)
    connection.close()
    log.close()


def test_a_log_of_a_later_version_is_refused(tmp_path: Path) -> None:
    """A schema that this code does not know is refused with the reason."""
    SqliteLog(tmp_path / "log.db").close()
    connection = sqlite.connect(str(tmp_path / "log.db"))
    connection.execute("UPDATE log_meta SET value = 99 WHERE name = 'schema_version'")
    connection.commit()
    connection.close()
    with pytest.raises(LogError, match="schema version 99"):
        SqliteLog(tmp_path / "log.db")


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    """A file that SQLite can't open gives a message, not a traceback of its own."""
    (tmp_path / "log.db").write_bytes(b"not a database" * 100)
    with pytest.raises(LogError, match="can't be used as a log"):
        SqliteLog(tmp_path / "log.db")


def test_the_sqlite_log_is_durable_by_its_settings(tmp_path: Path) -> None:
    """The writer's connection runs in WAL mode with synchronous=FULL (2)."""
    log = SqliteLog(tmp_path / "log.db")
    with log._writer.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
    log.close()
