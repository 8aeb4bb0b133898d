"""rebuild: the same views again, in the place of the live ones, which answer until then."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

import workers.maintenance
import workers.rebuild
from events.codec import Series, make_block
from events.event import NewEvent
from events.metrics import POINTS_LOGGED
from events.runs import RUN_BATCH_LOGGED, RUN_DELETED, Param, RunBatchLogged, RunDeleted
from projections.catalog import VIEWS
from projections.database import PROJECTOR, Views
from projections.metrics import blocks
from projections.purges import Choice
from projections.replacement import NAMES
from projections.segments import segments
from projections.sqlite_views import SqliteViews
from tests.homes import Home, content, open_home
from workers.build_sealer import BuildSealer
from workers.gc import run_gc
from workers.maintenance import MaintenanceError, maintenance_lock
from workers.projector import Projector
from workers.rebuild import run_rebuild
from workers.sealer import Sealer, SealerSettings

A, B = "a" * 32, "b" * 32


@pytest.fixture(autouse=True)
def no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else opens these files."""
    monkeypatch.setattr(workers.maintenance, "GRACE_S", 0.0)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """Two experiments, two runs, a model; some points sealed, some not."""
    opened = open_home(tmp_path / "home")
    opened.experiment("1", "one")
    opened.experiment("2", "two")
    opened.run(A, "1", "a")
    opened.model("m-a", "1", "ma")
    opened.fold()
    opened.seal()
    opened.run(B, "2", "b")
    opened.fold()
    yield opened
    opened.close()


def rebuild(home: Home, view: str | None = None) -> None:
    """Rebuilds all, or one."""
    run_rebuild(home.log, home.views, home.gc.lake, view, echo=home.said.append)


def damage(home: Home) -> None:
    """Rows of every view that the log does not give."""
    with home.views.write() as connection:
        for view in VIEWS:
            for table in view.tables:
                if view.name != "segments":
                    connection.execute(sa.delete(table))


def test_all_views_are_as_the_log_gives_them(home: Home) -> None:
    """Damaged views are replaced by whole ones; nothing is left beside them."""
    before = home.content()
    damage(home)
    assert home.content() != before
    rebuild(home)
    assert home.content() == before
    assert home.said == ["Rebuilt all views."]
    names = {path.name for path in home.folder.iterdir()}
    current = (home.folder / "views.db").resolve().name
    assert names <= {
        "artifacts",
        "lake",
        "log.db",
        "log.db-wal",
        "log.db-shm",
        "views.db",
        "views.db.lock",
        "views.db.maintenance.lock",
        *(current + suffix for suffix in ("", "-wal", "-shm")),
    }


def test_views_and_lake_that_are_gone_are_made_again(home: Home) -> None:
    """With every view and the whole lake deleted, a rebuild gives the same rows and points."""
    before = home.content()
    home.views.close()
    for path in home.folder.glob("views.db*"):
        path.unlink()
    for path in home.gc.lake.folder.rglob("*.parquet"):
        path.unlink()
    rebuild(home)
    assert home.content() == before


def schema_of(home: Home) -> set[str]:
    """The statements that made the views' tables and indexes."""
    with home.views.read() as connection:
        statement = sa.text("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")
        return set(connection.execute(statement).scalars())


def test_rebuilt_views_have_every_index(home: Home) -> None:
    """What is left out while the views are made is there when they take the live ones' place."""
    before = schema_of(home)
    rebuild(home)
    assert schema_of(home) == before
    assert any("params_by_value" in made for made in before)


def test_many_batches_and_segments_give_the_same(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Points that are sealed while others are still to be folded, in segments that are merged,
    are the points that one batch gives; and what is sealed on the way fills segments."""
    for place in range(30):
        run_id = f"{place % 7:032x}"
        if place < 7:
            home.run(run_id, str(1 + place % 2), f"r{place}")
        series = [Series("loss"), Series(f"key-{place % 3}", "m-a")]
        points = [(series[step % 2], step - place, step, 1 / (step + 1)) for step in range(300)]
        home.append(POINTS_LOGGED, run_id, make_block(points))
    home.fold()
    before = home.content()
    small = SealerSettings(batch_points=1_000, seal_points=1, merge_segments=3)
    monkeypatch.setattr(workers.rebuild, "SEALING", small)
    monkeypatch.setattr(workers.maintenance, "BETWEEN_STEPS", 1)
    monkeypatch.setattr(workers.maintenance, "STEP_EVENTS", {"journal": 7, "points": 5})
    sealed: list[int] = []

    class Watched(BuildSealer):
        def __init__(self, made: Views, *rest: Any) -> None:
            super().__init__(made, *rest)
            self.made = made

        def seal_batches(self) -> None:
            super().seal_batches()
            self._wait()
            with self.made.read() as connection:
                points = connection.execute(sa.select(segments.c.points)).scalars()
                sealed.extend(points)

    monkeypatch.setattr(workers.rebuild, "BuildSealer", Watched)
    rebuild(home)
    after = home.content()
    assert {name for name in before if after[name] != before[name]} == set()
    assert sealed
    assert min(sealed) >= 1_000
    with home.views.read() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(blocks)).scalar() == 0


@pytest.mark.parametrize("view", NAMES)
def test_one_view_is_made_again_in_place(home: Home, view: str) -> None:
    """The named view's tables are as the log gives them; the file of the views stays."""
    before = home.content()
    with home.views.write() as connection:
        for table in next(one for one in VIEWS if one.name == view).tables:
            connection.execute(sa.delete(table))
    assert home.content() != before
    file = (home.folder / "views.db").resolve()
    rebuild(home, view)
    assert (home.folder / "views.db").resolve() == file
    assert home.content() == before


def test_the_metrics_view_brings_its_files(home: Home) -> None:
    """Points that were lost with their segments are sealed again, and the sealer goes on with the
    new files; those of before are deleted."""
    before = home.content()
    old = set(home.gc.lake.folder.rglob("*.parquet"))
    with home.views.write() as connection:
        connection.exec_driver_sql("DELETE FROM segment_runs")
    assert home.content() != before
    rebuild(home, "metrics")
    home.seal()
    sealer = Sealer(home.views, home.gc.lake)
    sealer.round()
    sealer.close()
    assert home.content() == before
    assert not old & set(home.gc.lake.folder.rglob("*.parquet"))


def test_a_rebuild_beside_a_projector_loses_nothing(home: Home) -> None:
    """While another process folds and a writer writes, views take each other's place again and
    again; readers never see an older state than they saw, and the end is what the log gives."""
    stop = threading.Event()
    failures: list[BaseException] = []

    def guarded(work: Any) -> threading.Thread:
        def run() -> None:
            try:
                work()
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def project() -> None:
        views = SqliteViews(home.folder / "views.db", home.log.identity.log_id)
        with views.lock(PROJECTOR):
            Projector(home.log, views).run(stop, None)
        views.close()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            batch = RunBatchLogged([Param(f"new{number}", "v")])
            home.log.append([new(batch, number)])

    def read() -> None:
        views = SqliteViews(home.folder / "views.db", home.log.identity.log_id)
        seen = 0
        while not stop.is_set():
            with views.read() as connection:
                position = connection.exec_driver_sql(
                    "SELECT position FROM checkpoints WHERE lane = 'journal'"
                ).scalar_one()
            assert position >= seen
            seen = position
        views.close()

    threads = [guarded(work) for work in (project, write, read)]
    for view in (None, "runs", None, "metrics", None):
        rebuild(home, view)
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
    home.fold()
    fresh = SqliteViews(home.folder.parent / "fresh.db", home.log.identity.log_id)
    fresh.create()
    Projector(home.log, fresh).catch_up()
    assert content(fresh, home.gc.lake) == home.content()
    fresh.close()


def new(batch: RunBatchLogged, time: int) -> NewEvent:
    """A batch of run b."""
    return RUN_BATCH_LOGGED.new(B, batch, time=time)


def test_a_rebuild_after_a_purge_gives_the_same(home: Home) -> None:
    """The scrubbed log gives the views that gc left."""
    home.append(RUN_DELETED, A, RunDeleted())
    run_gc(home.gc, Choice())
    before = home.content()
    rebuild(home)
    assert home.content() == before
    for view in NAMES:
        rebuild(home, view)
        assert home.content() == before


def test_an_event_that_can_not_be_folded_leaves_the_views_as_they_are(home: Home) -> None:
    """Nothing is replaced by views that end earlier."""
    before = home.content()
    home.log.append([NewEvent("journal", "run.unheard_of", 1, A, 1, b"{}")])
    with pytest.raises(MaintenanceError, match=r"run\.unheard_of"):
        rebuild(home)
    assert home.content() == before


def test_what_a_killed_rebuild_left_is_removed_by_the_next(home: Home) -> None:
    """Its half-made file goes; one that another process is making stays."""
    left = home.folder / "views.db.making-0000"
    left.write_bytes(b"half")
    left.with_name(left.name + ".lock").touch()
    rebuild(home)
    assert not list(home.folder.glob("*making*"))


def test_two_rebuilds_at_once_are_refused(home: Home) -> None:
    """The second says what is going on."""
    with (
        maintenance_lock(home.views),
        pytest.raises(MaintenanceError, match="another gc or rebuild"),
    ):
        rebuild(home)
