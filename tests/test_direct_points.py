"""Points that were written into the log past the API: checked and folded, or set aside."""

from __future__ import annotations

import numpy as np
import pytest
import zstandard

from events.codec import Block, Series, encode_block, make_block
from events.event import DIRECT, NewEvent, Partition
from events.memory_log import MemoryLog
from events.metrics import POINTS_LOGGED
from events.runs import RUN_DELETED, RUN_PURGED, RunDeleted, RunPurged
from projections import direct_points
from projections.direct_points import set_aside_in_all
from projections.folding import fold_batch
from tests.folds import Folds


def direct(
    run_id: str, data: bytes, kind: str = "points.logged", version: int = 1, time: int = 5
) -> NewEvent:
    """An event that nobody has checked."""
    return NewEvent("points", kind, version, run_id, time, data, None, DIRECT)


def block(key: str = "loss", *about: str | None, timestamp: int = 1) -> bytes:
    """One point."""
    return encode_block(make_block([(Series(key, *about), 1, timestamp, 0.5)]))


def many_points() -> bytes:
    """More points than a record may have."""
    count = direct_points.RECORD_POINTS_MAX + 1
    zeros = np.zeros(count, np.int64)
    return encode_block(
        Block([Series("a")], np.zeros(count, np.uint32), zeros, zeros, np.zeros(count))
    )


BAD = [
    (direct("run", block(), "points.dropped"), direct_points.NO_POINTS),
    (direct("run", block(), "run.purged"), direct_points.NO_POINTS),
    (direct("run", block(), version=2), direct_points.NO_POINTS),
    (direct("", block()), direct_points.NO_RUN),
    (direct("../etc", block()), direct_points.NO_RUN),
    (direct("run", b""), direct_points.NO_BLOCK),
    (direct("run", b"{}"), direct_points.NO_BLOCK),
    (direct("run", b"\x01garbage"), direct_points.NO_BLOCK),
    (direct("run", block()[:-3]), direct_points.NO_BLOCK),
    (direct("run", encode_block(make_block([]))), direct_points.NO_BLOCK),
    (direct("run", many_points()), direct_points.TOO_MUCH),
    (direct("run", b"\x01" + zstandard.compress(bytes(17 << 20))), direct_points.TOO_MUCH),
    (direct("run", block("")), direct_points.NO_KEY),
    (direct("run", block("a/../b")), direct_points.NO_KEY),
    (direct("run", block("k" * 251)), direct_points.NO_KEY),
    (direct("run", block("loss", None, "data")), direct_points.NO_DATASET),
    (direct("run", block("loss", "m" * 501)), direct_points.NO_DATASET),
    (direct("run", block(timestamp=-1)), direct_points.NEGATIVE_TIME),
]


def folds_with_run(points_partitions: int = 1) -> Folds:
    """Views with a run, `run`."""
    folds = Folds(MemoryLog(points_partitions))
    folds.experiment()
    folds.run()
    return folds


@pytest.mark.parametrize(("event", "reason"), BAD)
def test_what_can_not_be_taken_is_set_aside_and_holds_up_nobody(
    event: NewEvent, reason: str
) -> None:
    """It is counted with its reason, and what comes after it is folded."""
    folds = folds_with_run()
    folds.log.append([event, direct("run", block("after"))])
    folds.catch_up()
    assert [row[1] for row in folds.rows("latest_metrics")] == ["after"]
    assert folds.rows("set_aside") == [(reason, 0, 1, 1, event.subject, 5)]
    assert folds.rebuilt().content("latest_metrics", "set_aside") == folds.content(
        "latest_metrics", "set_aside"
    )


def test_reasons_are_counted_by_partition_and_the_last_is_told() -> None:
    """However many records are bad, there is a row for a reason in a partition, and no more."""
    folds = folds_with_run(points_partitions=2)
    folds.log.append([direct(f"r{number}", b"bad", time=number) for number in range(50)])
    folds.catch_up()
    found = folds.rows("set_aside")
    assert [row[:2] for row in found] == [(direct_points.NO_BLOCK, 0), (direct_points.NO_BLOCK, 1)]
    assert sum(row[2] for row in found) == 50
    with folds.engine.connect() as connection:
        told = set_aside_in_all(connection)
    assert told["count"] == 50
    assert (told["last"]["subject"], told["last"]["reason"]) == ("r49", direct_points.NO_BLOCK)
    with folds_with_run().engine.connect() as connection:
        assert set_aside_in_all(connection) == {"count": 0, "last": None}


def test_good_points_are_folded_as_those_of_the_api() -> None:
    """Also on a model and a dataset, and of a run that is created only later."""
    folds = folds_with_run()
    folds.log.append([direct("run", block("loss", "m-1", "data", "abc"))])
    folds.log.append([direct("later", block())])
    folds.catch_up()
    same = folds_with_run()
    same.log.append([POINTS_LOGGED.holding("run", block("loss", "m-1", "data", "abc"), time=5)])
    same.log.append([POINTS_LOGGED.holding("later", block(), time=5)])
    same.catch_up()
    names = ("latest_metrics", "blocks", "set_aside")
    assert folds.content(*names) == same.content(*names)


@pytest.mark.parametrize("data", [block(), b"bad"])
def test_points_of_a_purged_run_are_dropped_however_late_they_come(data: bytes) -> None:
    """The views are the same whether the purge was folded before or after."""
    folds = folds_with_run()
    folds.log.append([direct("run", data)])
    folds.catch_up()
    folds.given(RUN_DELETED, "run", RunDeleted())
    folds.given(RUN_PURGED, "run", RunPurged())
    folds.log.append([direct("run", data)])
    folds.catch_up()
    assert folds.rows("latest_metrics") == []
    names = ("latest_metrics", "blocks", "set_aside")
    assert folds.rebuilt().content(*names) == folds.content(*names)
    assert folds.rebuilt(("points", "journal")).content(*names) == folds.content(*names)


def test_nobody_writes_into_the_journal_past_the_api() -> None:
    """Such an event stops folding: rules that all rows rest on were not asked."""
    folds = folds_with_run()
    forged = NewEvent("journal", "run.deleted", 1, "run", 1, b"{}", None, DIRECT)
    (position,) = folds.log.append([forged])
    with folds.engine.begin() as connection:
        events = folds.log.read(Partition("journal"), position - 1, 10)
        stopped = fold_batch(connection, Partition("journal"), events).stopped
    assert stopped is not None
    assert "past the API" in stopped
