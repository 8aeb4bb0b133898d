"""A log that is copied to Kafka and from it is the same log, and so are views made from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from kafka import KafkaProducer

from events.codec import Series, encode_block, make_block
from events.event import JOURNAL, Event, Partition
from events.kafka_log import KafkaLog, init_log
from events.kafka_settings import KafkaAccess
from events.log import Log, LogError
from events.runs import RUN_DELETED, RUN_PURGED, RunDeleted, RunPurged
from events.sqlite_log import SqliteLog
from projections.lake import Lake
from projections.sqlite_views import SqliteViews
from tests.homes import Home, content, open_home
from workers import log_copy
from workers.cli import main
from workers.log_copy import CopyError, copy_log
from workers.maintenance import fold_to_head
from workers.stores import open_log

A, B, C = "a" * 32, "b" * 32, "c" * 32
ACCESS = KafkaAccess()


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a short log has many pages."""
    monkeypatch.setattr(log_copy, "PAGE_EVENTS", {"journal": 4, "points": 2})


@pytest.fixture
def home(kafka_uri: str, tmp_path: Path) -> Iterator[Home]:
    """A home whose log is on Kafka: runs, models, a purge, points past the API, good ones and bad
    ones, and offsets that hold nothing, in between and at the end."""
    init_log(kafka_uri, ACCESS, partitions=3)
    opened = open_home(tmp_path / "home", log=KafkaLog(kafka_uri, ACCESS))
    opened.experiment("1", "mark1")
    for run_id in (A, B, C):
        opened.run(run_id, "1", f"mark{run_id[0]}")
        write_past(kafka_uri, run_id)
    opened.model("m-a", "1", "markma")
    opened.append(RUN_DELETED, A, RunDeleted())
    opened.append(RUN_PURGED, A, RunPurged())
    yield opened
    opened.close()


def write_past(uri: str, run_id: str) -> None:
    """A point, and a record that is none, in a transaction, whose mark takes an offset."""
    brokers, _, prefix = uri.removeprefix("kafka://").partition("/")
    producer = KafkaProducer(bootstrap_servers=brokers, transactional_id=f"{prefix} {run_id}")
    producer.init_transactions()
    producer.begin_transaction()
    data = encode_block(make_block([(Series(f"mark{run_id[0]}-direct"), 1, 1, 0.5)]))
    headers = [("type", b"points.logged"), ("version", b"1"), ("actor", b"a job\0" + b"x" * 999)]
    for value in (data, b"nonsense"):
        producer.send(f"{prefix}.points", value, run_id.encode(), headers, timestamp_ms=7)
    bad_key = b"\0\xff" + b"k" * 2_000
    producer.send(f"{prefix}.points", b"nonsense", bad_key, headers, timestamp_ms=8)
    producer.commit_transaction()
    producer.close()


def run(*arguments: str) -> Result:
    """The command's result."""
    return CliRunner().invoke(main, ["log", *arguments])


def copied(*arguments: str) -> None:
    """Copies, and is told that both are the same."""
    result = run("copy", *arguments)
    assert result.exit_code == 0, result.output
    assert "the same in both" in result.output


def events_of(log: Log) -> Counter[tuple[Any, ...]]:
    """Everything in a log but where it lies: the journal's events with their place in it."""
    found: Counter[tuple[Any, ...]] = Counter()
    for partition, head in log.heads().items():
        after = 0
        while after < head:
            for event in log.read(partition, after, 50):
                after = event.position
                if event.type != "log.gap":
                    found[plain(event)] += 1
    return found


def plain(event: Event) -> tuple[Any, ...]:
    """An event without its place, if it has none in an order."""
    place = event.position if event.lane == "journal" else None
    about = (event.type, event.version, event.subject, event.time, event.actor, event.origin)
    return (event.lane, place, *about, event.scrubbed, event.data)


def views_of(log: Log, folder: Path) -> dict[str, Any]:
    """The rows of views that are made from a log, but where in the points lane they come from."""
    views = SqliteViews(folder / "views.db", log.identity.log_id)
    fold_to_head(log, views)
    found = content(views, Lake(folder / "lake"))
    views.close()
    del found["position of points"]
    set_aside: Counter[str] = Counter()
    for reason, _partition, count, *_last in found["set_aside"]:
        set_aside[reason] += count
    return {**found, "set_aside": set_aside}


def test_views_made_from_kafka_and_from_a_copy_in_sqlite_are_equal(
    home: Home, kafka_uri: str, tmp_path: Path
) -> None:
    """Row for row and point for point; and so are those made from a copy of the copy, on Kafka
    again with other partitions."""
    path = tmp_path / "copy" / "log.db"
    back = f"{kafka_uri}-back"
    init_log(back, ACCESS, partitions=5)
    copied(kafka_uri, f"sqlite:///{path}")
    copied(f"sqlite:///{path}", back)
    first = views_of(home.log, tmp_path / "of-kafka")
    assert {row[0] for row in first["runs"]} == {B, C}
    assert sum(first["set_aside"].values()) == 6
    assert (Series("markb-direct"), 1, 1, 0.5) in first[f"points of {B}"]
    sqlite, again = SqliteLog(path), KafkaLog(back, ACCESS)
    events = events_of(home.log)
    for log, name in ((sqlite, "of-sqlite"), (again, "of-copy")):
        assert events_of(log) == events
        assert views_of(log, tmp_path / name) == first
        log.close()


def test_a_copy_to_kafka_that_was_killed_is_gone_on_with(
    home: Home, kafka_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody opens it before it is whole; nothing is there twice, and what came since is brought by
    another copy."""
    source = SqliteLog(tmp_path / "source.db")
    copy_log(home.log, source, change=lambda event: event)
    uri = f"{kafka_uri}-killed"
    init_log(uri, ACCESS, partitions=2)
    adopt = KafkaLog.adopt
    left = iter(range(9))

    def until_killed(log: KafkaLog, events: list[Event]) -> list[int]:
        if next(left, None) is None:
            adopt(log, events[: len(events) // 2])
            raise KeyboardInterrupt
        return adopt(log, events)

    monkeypatch.setattr(KafkaLog, "adopt", until_killed)
    assert run("copy", f"sqlite:///{tmp_path / 'source.db'}", uri).exit_code != 0
    monkeypatch.undo()
    with pytest.raises(LogError, match="not finished"):
        open_log(uri)
    source.append([home.made(RUN_DELETED, B, RunDeleted())])
    monkeypatch.setattr(log_copy, "PAGE_EVENTS", {"journal": 4, "points": 2})
    for _ in range(2):
        copied(f"sqlite:///{tmp_path / 'source.db'}", uri)
    log = open_log(uri)
    assert events_of(log) == events_of(source)
    log.append([home.made(RUN_DELETED, C, RunDeleted())])
    with pytest.raises(CopyError, match="gone on by itself"):
        copy_log(source, KafkaLog(uri, ACCESS), change=lambda event: event)
    log.close()
    source.close()


def test_a_copy_to_another_prefix_leaves_purged_data_behind(
    home: Home, kafka_uri: str, tmp_path: Path
) -> None:
    """With --scrub the new topics hold no byte of what was purged and all of the rest, views made
    from both are equal, and the old topics can be dropped."""
    uri = f"{kafka_uri}-scrubbed"
    init_log(uri, ACCESS, partitions=3)
    copied(kafka_uri, uri, "--scrub")
    log = KafkaLog(uri, ACCESS)
    held = [str(one) for one in events_of(log)]
    assert any("marka-" in str(one) for one in events_of(home.log))
    assert not any("marka-" in one for one in held)
    assert any("markb-" in one for one in held)
    assert {one.subject for one in log.read(JOURNAL, 0, 999) if one.scrubbed} == {A}
    assert log.head(Partition("points", 0)) > 0
    before, after = (
        views_of(one, tmp_path / name) for one, name in ((home.log, "old"), (log, "new"))
    )
    # What was set aside of a purged run is scrubbed too: there is nothing in it to be set aside.
    assert after.pop("set_aside").total() <= before.pop("set_aside").total()
    assert after == before
    log.close()
