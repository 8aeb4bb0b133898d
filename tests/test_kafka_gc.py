"""gc where the log is on Kafka, whose records can't be changed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import workers.maintenance
from events.kafka_log import KafkaLog, init_log
from events.kafka_settings import KafkaAccess
from events.runs import RUN_DELETED, RunDeleted
from projections.purges import Choice
from projections.sqlite_views import SqliteViews
from tests.homes import Home, content, open_home
from workers.gc import run_gc
from workers.projector import Projector

A, B = "a" * 32, "b" * 32


@pytest.fixture
def home(kafka_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """A home with an experiment and two runs, whose log is on Kafka."""
    monkeypatch.setattr(workers.maintenance, "GRACE_S", 0.0)
    init_log(kafka_uri, KafkaAccess(), partitions=2)
    opened = open_home(tmp_path / "home", log=KafkaLog(kafka_uri, KafkaAccess()))
    opened.experiment("1", "mark1")
    opened.run(A, "1", "marka")
    opened.run(B, "1", "markb")
    opened.fold()
    opened.seal()
    yield opened
    opened.close()


def test_a_purged_run_is_forgotten_and_its_files_go(home: Home, tmp_path: Path) -> None:
    """Of views, lake and artifacts nothing is left, and views that are made again from the log,
    which still has it all, are the same; a second gc finds nothing to do."""
    home.append(RUN_DELETED, A, RunDeleted())
    report = run_gc(home.gc, Choice())
    assert (report.purged, report.artifacts, report.scrubbed) == ([("run", A)], 1, 0)
    assert home.holds(["marka"]) == []
    assert home.holds(["markb"])
    assert list(home.log.about("points", A))
    after = home.content()
    assert [row[0] for row in after["runs"]] == [B]
    rebuilt = SqliteViews(tmp_path / "rebuilt.db", home.log.identity.log_id)
    rebuilt.create()
    Projector(home.log, rebuilt).catch_up()
    assert content(rebuilt, home.gc.lake) == after
    rebuilt.close()
    again = run_gc(home.gc, Choice())
    assert (again.purged, again.artifacts, again.finished) == ([], 0, 0)
    assert home.content() == after
