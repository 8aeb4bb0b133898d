"""`runfold log`: a log that was copied from one kind to another is the same log."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from events.event import JOURNAL, LANES, Event, Partition
from events.log import CopyTarget, Log
from events.memory_log import MemoryLog
from events.runs import RUN_DELETED, RUN_PURGED, RunDeleted, RunPurged
from events.sql_log import SqlLog
from events.sqlite_log import SqliteLog
from projections.lake import Lake
from projections.sqlite_views import SqliteViews
from tests.homes import Home, content, content_by_number, open_home
from workers import log_command, log_copy
from workers.cli import main
from workers.log_copy import CopyError, copy_log
from workers.maintenance import fold_to_head

A, B, C = "a" * 32, "b" * 32, "c" * 32


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """A home with three runs and two models, of which run a is deleted and purged."""
    opened = open_home(tmp_path / "home")
    opened.experiment("1", "mark1")
    opened.experiment("2", "mark2")
    for run_id, experiment_id in ((A, "1"), (B, "1"), (C, "2")):
        opened.run(run_id, experiment_id, f"mark{run_id[0]}")
    opened.model("m-a", "1", "markma")
    opened.append(RUN_DELETED, A, RunDeleted())
    opened.append(RUN_PURGED, A, RunPurged())
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def no_log_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands run in the tests' own process, whose log lines stay as they are."""
    monkeypatch.setattr(log_command, "configure_logs", lambda _level, _role: None)


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a short log has many pages."""
    monkeypatch.setattr(log_copy, "PAGE_EVENTS", {"journal": 4, "points": 2})


def same(event: Event) -> Event:
    """Copies nothing but what is there."""
    return event


def events_of(log: Log) -> dict[Partition, list[Event]]:
    """Everything in a log."""
    return {partition: log.read(partition, 0, 10_000) for partition in log.partitions()}


def views_of(log: Log, folder: Path) -> dict[str, Any]:
    """The rows of views that are made from a log."""
    views = SqliteViews(folder / "views.db", log.identity.log_id)
    fold_to_head(log, views)
    found = content(views, Lake(folder / "lake"))
    views.close()
    return found


def run(*arguments: str) -> Result:
    """The command's result."""
    return CliRunner().invoke(main, ["log", *arguments])


def test_a_log_that_goes_round_all_databases_comes_back_the_same(
    home: Home, tmp_path: Path, postgresql_uri: str, mariadb_uri: str
) -> None:
    """From SQLite to PostgreSQL to MariaDB to SQLite: each has the same events at the same
    positions under the same identity, and views made from each are equal row for row."""
    back = f"sqlite:///{tmp_path / 'back' / 'log.db'}"
    places = [f"sqlite:///{home.folder / 'log.db'}", postgresql_uri, mariadb_uri, back]
    for source, target in itertools.pairwise(places):
        result = run("copy", source, target)
        assert result.exit_code == 0, result.output
        assert "log's id are the same" in result.output
    logs: list[Log] = [SqlLog(postgresql_uri), SqlLog(mariadb_uri)]
    logs.append(SqliteLog(tmp_path / "back" / "log.db"))
    expected, rows = events_of(home.log), views_of(home.log, tmp_path / "views0")
    assert len(expected[JOURNAL]) > 20
    assert rows["runs"]
    for number, log in enumerate(logs, 1):
        assert log.identity == home.log.identity
        assert events_of(log) == expected
        assert views_of(log, tmp_path / f"views{number}") == rows
        log.close()


def rows_of(log: Log, folder: Path) -> dict[str, Any]:
    """The rows of views that are made from a log whose positions may be its own."""
    views = SqliteViews(folder / "views.db", log.identity.log_id)
    fold_to_head(log, views)
    found = content_by_number(log, views, Lake(folder / "lake"))
    views.close()
    return found


def test_views_of_a_copy_with_other_positions_are_those_of_the_original(
    home: Home, tmp_path: Path
) -> None:
    """From a log whose points are divided into SQLite: row for row, and point for point."""
    divided = MemoryLog(points_partitions=4)
    copy_log(home.log, divided, change=same)
    undivided = SqliteLog(tmp_path / "copy.db")
    assert not copy_log(divided, undivided, change=same).keeps_positions
    expected = rows_of(divided, tmp_path / "original")
    assert rows_of(undivided, tmp_path / "copy") == expected
    assert len(expected["rejections"]) > 1
    assert all(expected[f"points of {run_id}"] for run_id in (B, C))
    undivided.close()


class Killed(Exception):
    """The process ended there."""


class Falling(MemoryLog):
    """A log that takes half of a batch and then is gone, as one that is divided may."""

    left = 0
    """So many batches it takes before."""

    def adopt(self, events: Any) -> list[int]:
        """See CopyTarget.adopt."""
        self.left -= 1
        if self.left == -1:
            super().adopt(events[: len(events) // 2])
            raise Killed
        return super().adopt(events)


@pytest.mark.parametrize("partitions", [1, 3])
@pytest.mark.parametrize("batches", [2, 7], ids=["in-journal", "in-points"])
def test_a_copy_that_was_killed_is_gone_on_with(home: Home, partitions: int, batches: int) -> None:
    """Nothing is there twice, nothing is missing, and nobody opens it before it is whole."""
    target = Falling(partitions)
    target.left = batches
    with pytest.raises(Killed):
        copy_log(home.log, target, change=same)
    with pytest.raises(Exception, match="not finished"):
        log_copy.require_whole(target)
    before = sum(target.heads().values())
    copied = copy_log(home.log, target, change=same)
    assert copied.new == sum(home.log.heads().values()) - before
    assert copied.keeps_positions == (partitions == 1)
    assert (target.identity == home.log.identity) == (partitions == 1)
    log_copy.require_whole(target)
    for lane in LANES:
        there = [e for p, found in events_of(target).items() if p.lane == lane for e in found]
        assert sorted(map(plain, there)) == sorted(
            plain(e) for e in home.log.read(Partition(lane), 0, 1_000)
        )


def plain(event: Event) -> tuple[Any, ...]:
    """All of an event but where it lies."""
    return (event.subject, event.time, event.type, event.data)


@pytest.mark.parametrize(
    "target", [lambda: MemoryLog(1), lambda: MemoryLog(3)], ids=["one", "divided"]
)
def test_a_source_that_has_grown_is_copied_again(
    home: Home, target: Callable[[], CopyTarget]
) -> None:
    """The second copy brings what is new and nothing else, also from a divided log."""
    divided = MemoryLog(4)
    copy_log(home.log, divided, change=same)
    made = target()
    copy_log(divided, made, change=same)
    assert copy_log(divided, made, change=same).new == 0
    journal = [home.made(RUN_DELETED, run_id, RunDeleted()) for run_id in (A, B, C)]
    grown = [*journal, *(msgspec.structs.replace(one, lane="points") for one in journal)]
    divided.append(grown)
    assert copy_log(divided, made, change=same).new == len(grown)
    assert sum(made.heads().values()) == sum(divided.heads().values())


def test_a_target_with_other_events_is_refused(home: Home) -> None:
    """Neither another log, nor a copy of another, nor one that has gone on, is written into."""
    strange = MemoryLog()
    strange.append([home.made(RUN_DELETED, B, RunDeleted())])
    with pytest.raises(CopyError, match="holds another log"):
        copy_log(home.log, strange, change=same)
    of_another = MemoryLog()
    copy_log(strange, of_another, change=same)
    with pytest.raises(CopyError, match="a copy of another log"):
        copy_log(home.log, of_another, change=same)
    gone_on = MemoryLog()
    copy_log(home.log, gone_on, change=same)
    gone_on.append([home.made(RUN_DELETED, B, RunDeleted())])
    with pytest.raises(CopyError, match="gone on by itself"):
        copy_log(home.log, gone_on, change=same)
    assert [sum(one.heads().values()) for one in (strange, of_another)] == [1, 1]


def test_a_difference_is_found(home: Home) -> None:
    """Where the target has not what was sent, the copy is not called whole."""
    target = MemoryLog()

    def spoil(event: Event) -> Event:
        return msgspec.structs.replace(event, time=event.time + (event.position == 7))

    changes = [spoil] * sum(home.log.heads().values())

    def once(event: Event) -> Event:
        return changes.pop()(event) if changes else event

    with pytest.raises(CopyError, match="journal differs"):
        copy_log(home.log, target, change=once)
    with pytest.raises(Exception, match="not finished"):
        log_copy.require_whole(target)


def test_purged_data_is_left_behind(home: Home, tmp_path: Path) -> None:
    """With --scrub no byte of a purged run's data is in the copy, what is not purged is whole, and
    the views are the same."""
    result = run(
        "copy",
        f"sqlite:///{home.folder / 'log.db'}",
        f"sqlite:///{tmp_path / 'new' / 'log.db'}",
        "--scrub",
    )
    assert result.exit_code == 0, result.output
    new = b"".join(path.read_bytes() for path in (tmp_path / "new").iterdir())
    assert b"marka-" in b"".join(path.read_bytes() for path in home.folder.glob("log.db*"))
    assert (b"marka-" in new, b"markb-" in new) == (False, True)
    copy = SqliteLog(tmp_path / "new" / "log.db")
    assert {e.subject for e in copy.read(JOURNAL, 0, 999) if e.scrubbed} == {A}
    assert views_of(copy, tmp_path / "of-copy") == views_of(home.log, tmp_path / "of-source")
    copy.close()
    again = run(
        "copy", f"sqlite:///{home.folder / 'log.db'}", f"sqlite:///{tmp_path / 'new' / 'log.db'}"
    )
    assert (again.exit_code, "begun with --scrub" in again.output) == (1, True)


def test_an_empty_log_is_made(tmp_path: Path, postgresql_uri: str) -> None:
    """`log init` makes the tables, and leaves a log that is there as it is."""
    for place in (f"sqlite:///{tmp_path / 'log.db'}", postgresql_uri):
        first, second = run("init", place), run("init", place)
        assert (first.exit_code, first.output) == (0, second.output)
        assert "0 in journal and 0 in points" in first.output
    missing = run("copy", f"sqlite:///{tmp_path / 'no.db'}", postgresql_uri)
    assert (missing.exit_code, "there is no log" in missing.output) == (1, True)
    unknown = run("init", "oracle://host/db")
    assert (unknown.exit_code, "postgresql://" in unknown.output) == (1, True)
