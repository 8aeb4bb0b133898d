"""The sealer: nothing lost, nothing twice, whatever crashes or runs beside it; few files."""

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from projections.history import SegmentGone, run_points
from projections.lake import Lake, open_duckdb
from projections.lake_locks import folder_lock
from projections.metrics import blocks
from projections.segments import segments, segments_of
from projections.sqlite_views import SqliteViews
from tests.lake_cases import SMALL, LakeCase, Point, as_answered
from workers.projector import Projector
from workers.sealer import Sealer, SealerSettings

NEVER = SealerSettings(seal_points=1 << 60, seal_blocks=1 << 60, seal_age_s=1e9)
BUSY = SealerSettings(seal_points=20, merge_segments=2, retired_s=0.0, sweep_s=0.0, round_s=0.0)


class _Died(BaseException):
    """Stands for kill -9: nothing of the process runs after it."""


def _nothing() -> None:
    return


class Interrupted:
    """Views in which something happens at the first write transaction, before it begins."""

    def __init__(self, views: SqliteViews) -> None:
        self._views = views
        self.folder = views.folder
        self.before_write: Callable[[], None] = _nothing

    def read(self) -> contextlib.AbstractContextManager[sa.Connection]:
        return self._views.read()

    is_on_server = False

    def lock(
        self, name: str, wait_s: float = 0.0, lost: Callable[[], None] = _nothing
    ) -> contextlib.AbstractContextManager[None]:
        return self._views.lock(name, wait_s, lost)

    def write(self) -> contextlib.AbstractContextManager[sa.Connection]:
        first, self.before_write = self.before_write, _nothing
        first()
        return self._views.write()


@pytest.fixture
def case(tmp_path: Path) -> Iterator[LakeCase]:
    made = LakeCase(tmp_path)
    for run_id in ("a", "b"):
        made.create_run(run_id)
    yield made
    made.close()


def points(count: int, start: int = 0, key: str = "loss") -> list[Point]:
    return [(key, step, 10 * step, step / 7) for step in range(start, start + count)]


def check_all_there(case: LakeCase, run_id: str, logged: list[Point]) -> None:
    """The run's points, each stored exactly once, and its history."""
    assert Counter(stored(case, run_id)) == Counter(logged)
    assert case.history(run_id, "loss") == as_answered(logged, "loss")


def stored(case: LakeCase, run_id: str) -> list[Point]:
    """Every point of a run as blocks and segments hold it, with repetitions."""
    while True:
        try:
            with case.views.read() as connection:
                return [
                    (block.series[place].key, step, timestamp, value)
                    for block in run_points(connection, case.lake, run_id)
                    for place, step, timestamp, value in zip(
                        block.index.tolist(),
                        block.steps.tolist(),
                        block.timestamps.tolist(),
                        block.values.tolist(),
                        strict=True,
                    )
                ]
        except SegmentGone:
            continue


def count_rows(case: LakeCase, table: sa.Table) -> int:
    with case.views.read() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()


def test_a_seal_moves_points_from_blocks_to_a_file(case: LakeCase) -> None:
    """Afterwards no block is left, one sorted file holds every point once, and nothing else."""
    case.log_points("b", points(5))
    case.log_points("a", points(9, key="z") + points(9)[::-1] + points(4))
    case.sealer.seal_all()
    assert count_rows(case, blocks) == 0
    (path,) = case.files()
    duck = open_duckdb(memory_mb=100, threads=1, temp=None)
    rows = duck.execute("SELECT * FROM read_parquet(?)", [str(case.lake.folder / path)]).fetchall()
    assert len(rows) == 23
    assert [row[:4] for row in rows] == sorted(row[:4] for row in rows)
    duck.close()
    check_all_there(case, "b", points(5))


def test_thresholds_decide_when_to_seal(case: LakeCase) -> None:
    """Few young blocks wait; enough points, enough blocks or enough time seal them."""
    case.log_points("a", points(10))
    for settings, sealed in (
        (NEVER, False),
        (SealerSettings(seal_points=11), False),
        (SealerSettings(seal_blocks=2), False),
        (SealerSettings(seal_points=10), True),
        (SealerSettings(seal_blocks=1), True),
        (SealerSettings(seal_age_s=0.0), True),
    ):
        sealer = Sealer(case.views, case.lake, settings)
        before = len(case.files())
        sealer.round()
        assert (len(case.files()) > before) == sealed, settings
        if sealed:
            case.log_points("a", points(10, start=100 * len(case.files())))
        sealer.close()


def test_a_large_backlog_is_sealed_in_batches(case: LakeCase) -> None:
    """One segment takes a bounded number of points; the rounds go on until nothing is left."""
    logged: list[Point] = []
    for batch in range(8):
        logged += points(10, start=10 * batch)
        case.log_points("a", logged[-10:])
    settings = SealerSettings(seal_points=1, batch_points=25, merge_segments=99)
    sealer = Sealer(case.views, case.lake, settings)
    while sealer.round():
        continue
    assert len(case.files()) == 3
    check_all_there(case, "a", logged)
    sealer.close()


def test_runs_that_the_views_do_not_know_wait(case: LakeCase) -> None:
    """Points may be folded before their run is; their blocks stay until the run is there."""
    case.log_points("later", points(5))
    case.sealer.seal_all()
    assert case.files() == []
    case.create_run("later")
    case.sealer.seal_all()
    assert len(case.files()) == 1
    check_all_there(case, "later", points(5))


@pytest.mark.parametrize("step", ["seal", "merge"])
def test_a_crash_between_file_and_transaction_loses_nothing(
    case: LakeCase, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is no part of the views: blocks and old segments still count, and it is deleted."""
    logged = points(10)
    Sealer(case.views, case.lake, NEVER).round()
    case.log_points("a", logged[:5])
    if step == "merge":
        case.sealer.seal_all()
    case.log_points("a", logged[5:])
    if step == "merge":
        Sealer(case.views, case.lake, SealerSettings(merge_segments=99)).seal_all()
    before = case.files()

    def die() -> None:
        raise _Died

    views = Interrupted(case.views)
    dying = Sealer(views, case.lake, SMALL)
    views.before_write = die
    with monkeypatch.context() as patch:
        patch.setattr(Lake, "discard", lambda *_: None)
        with pytest.raises(_Died):
            dying.seal_all()
    assert len(case.files()) == len(before) + 1
    check_all_there(case, "a", logged)
    orphan = (set(case.files()) - set(before)).pop()
    Sealer(case.views, case.lake, NEVER).round()
    assert orphan not in case.files()
    check_all_there(case, "a", logged)
    dying.close()


def test_blocks_that_come_during_a_seal_stay(case: LakeCase) -> None:
    """A seal removes the blocks that it has sealed and no other."""
    case.log_points("a", points(5))
    views = Interrupted(case.views)
    sealer = Sealer(views, case.lake, SMALL)
    sealer.round()
    case.log_points("a", points(5, start=5))
    views.before_write = lambda: case.log_points("a", points(5, start=10))
    sealer.round()
    check_all_there(case, "a", points(15))
    assert count_rows(case, blocks) == 1
    sealer.close()


def test_a_run_purged_during_a_seal_is_not_sealed(case: LakeCase) -> None:
    """The file that has its points goes at once; the other run's blocks are sealed later."""
    case.log_points("a", points(5))
    case.log_points("b", points(5))
    Sealer(case.views, case.lake, NEVER).round()
    views = Interrupted(case.views)
    sealer = Sealer(views, case.lake, SMALL)
    views.before_write = lambda: case.purge_run("a")
    sealer.round()
    assert case.files() == []
    sealer.seal_all()
    assert stored(case, "a") == []
    check_all_there(case, "b", points(5))
    sealer.close()


def test_purged_runs_are_in_no_file(case: LakeCase) -> None:
    """After remove_purged no file has a byte of them, also no retired one; the rest is there."""
    keeping = Sealer(case.views, case.lake, SealerSettings(merge_segments=2, retired_s=1e6))
    for start in (0, 5):
        case.log_points("a", points(5, start, key="secret-name"))
        case.log_points("b", points(5, start))
        keeping.seal_all()
    assert len(case.files()) == 3
    case.purge_run("a")
    assert case.history("a", "secret-name") == []
    assert keeping.remove_purged() == 1
    assert len(case.files()) == 1
    for path in case.files():
        assert b"secret-name" not in (case.lake.folder / path).read_bytes()
    assert stored(case, "a") == []
    check_all_there(case, "b", points(10))
    case.purge_run("b")
    keeping.remove_purged()
    assert case.files() == []
    assert list(case.lake.folder.glob("experiment_id*")) == []
    keeping.close()


def test_retired_files_go_after_their_grace(case: LakeCase) -> None:
    """A reader that has begun finds what its snapshot names; once the time is over they go."""
    keeping = Sealer(case.views, case.lake, SealerSettings(merge_segments=2, retired_s=0.3))
    for start in (0, 5):
        case.log_points("a", points(5, start))
        keeping.seal_all()
    assert len(case.files()) == 3
    time.sleep(0.31)
    keeping.round()
    assert len(case.files()) == 1
    keeping.close()


def test_files_stay_few(case: LakeCase) -> None:
    """Sixty seals of one experiment leave a handful of files, each point rewritten rarely."""
    settings = SealerSettings(seal_points=1, retired_s=0.0)
    sealer = Sealer(case.views, case.lake, settings)
    logged: list[Point] = []
    for seal in range(60):
        logged += points(20, start=20 * seal)
        case.log_points("a", logged[-20:])
        sealer.round()
        assert count_rows(case, segments) <= settings.merge_segments
    check_all_there(case, "a", logged)
    assert len(case.files()) <= 2 * settings.merge_segments
    sealer.close()


def test_large_segments_are_rewritten_once(case: LakeCase) -> None:
    """They wait until they fill a segment, and a full one is never rewritten."""
    settings = SealerSettings(seal_points=1, merge_segments=2, merged_points_max=40)
    sealer = Sealer(case.views, case.lake, settings)
    sizes = []
    for seal in range(8):
        case.log_points("a", points(10, start=10 * seal))
        sealer.round()
        with case.views.read() as connection:
            sizes.append([segment.points for segment in segments_of(connection, "1")])
    small, full = [[10] * n for n in (1, 2, 3)], [40]
    assert sizes == [*small, full, *([*some, *full] for some in small), [40, 40]]
    check_all_there(case, "a", points(80))
    sealer.close()


def test_readers_beside_a_busy_sealer_see_each_point_once(case: LakeCase) -> None:
    """While points are logged, sealed and merged, no read misses one that was folded before it
    began, nor sees one twice."""
    logged: list[Point] = []
    wrong: list[str] = []
    reads = Counter[str]()
    done = threading.Event()
    sealers = [Sealer(case.views, case.lake, BUSY) for _ in range(2)]

    def read() -> None:
        while not done.is_set():
            before = len(logged)
            found = Counter(stored(case, "a"))
            after = list(logged)
            if found - Counter(after) and not done.is_set():
                # What was folded while we read may be there already, once.
                found_more = found - Counter(points(len(after) + 200))
                if found_more:
                    wrong.append(f"twice or never logged: {found_more}")
            if Counter(after[:before]) - found:
                wrong.append(f"missing: {Counter(after[:before]) - found}")
            reads["done"] += 1

    def seal(sealer: Sealer) -> None:
        while not done.is_set():
            sealer.round()

    threads = [threading.Thread(target=read) for _ in range(2)]
    threads += [threading.Thread(target=seal, args=(sealer,)) for sealer in sealers]
    for thread in threads:
        thread.start()
    until = time.monotonic() + 4.0
    while time.monotonic() < until and not wrong:
        more = points(7, start=len(logged))
        case.log_points("a", more)
        logged += more
    done.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert reads["done"] >= 3
    check_all_there(case, "a", logged)
    for sealer in sealers:
        sealer.close()


def test_files_of_views_being_made_are_left_alone(case: LakeCase, tmp_path: Path) -> None:
    """Another generation's files stay while its sealer lives, and go once it is given up."""
    case.log_points("a", points(5))
    other = SqliteViews(tmp_path / "other.db", case.log.identity.log_id)
    other.create()
    Projector(case.log, other).catch_up()
    building = Sealer(other, case.lake, SMALL, building=True)
    building.seal_all()
    (theirs,) = case.files()
    Sealer(case.views, case.lake, NEVER).round()
    assert case.files() == [theirs]
    building.close()
    Sealer(case.views, case.lake, NEVER).round()
    assert case.files() == []
    assert len(list(case.lake.folder.glob(".lock-*"))) == 1
    other.close()


def test_views_that_took_the_place_keep_their_files(case: LakeCase, tmp_path: Path) -> None:
    """A sealer of the old views never deletes the files of the new ones, and goes on with those."""
    case.log_points("a", points(5))
    case.sealer.seal_all()
    new = tmp_path / "new.db"
    other = SqliteViews(new, case.log.identity.log_id)
    other.create()
    Projector(case.log, other).catch_up()
    building = Sealer(other, case.lake, SMALL, building=True)
    building.seal_all()
    building.round()
    other.close()
    with case.views.write() as connection:
        connection.exec_driver_sql("SELECT 1")
    new.rename(case.views.path)
    building.close()
    case.sealer.round()
    Sealer(case.views, case.lake, NEVER).round()
    assert len(case.files()) == 1
    check_all_there(case, "a", points(5))


def test_a_seal_is_dropped_where_other_views_took_the_place(case: LakeCase, tmp_path: Path) -> None:
    """Blocks of the new views have other contents under the same ids: they are not touched."""
    case.log_points("a", points(5))
    Sealer(case.views, case.lake, NEVER).round()
    new = tmp_path / "new.db"
    other = SqliteViews(new, case.log.identity.log_id)
    other.create()
    Projector(case.log, other).catch_up()
    other.close()
    views = Interrupted(case.views)

    def take_the_place() -> None:
        new.rename(case.views.path)

    views.before_write = take_the_place
    sealer = Sealer(views, case.lake, SMALL)
    sealer.round()
    assert case.files() == []
    assert count_rows(case, blocks) == 1
    check_all_there(case, "a", points(5))
    sealer.close()


def test_only_segments_are_swept(case: LakeCase) -> None:
    """A file that somebody put into the lake under another name is left alone."""
    folder = case.lake.folder / ".segments" / "experiment_id=1" / "metrics"
    folder.mkdir(parents=True)
    (folder / "mine.parquet").write_bytes(b"x")
    (folder / f"01234567-{'0' * 36}.parquet.writing").write_bytes(b"x")
    case.sealer.round()
    assert [path.name for path in folder.iterdir()] == ["mine.parquet"]


def test_a_lock_whose_file_was_swept_is_taken_anew(tmp_path: Path) -> None:
    """Who waited for a lock and got it on a file that is gone locks the new file instead."""
    waiting = threading.Event()
    with folder_lock(tmp_path, "g"):

        def wait() -> None:
            with folder_lock(tmp_path, "g"):
                waiting.set()
                release.wait(10)

        release = threading.Event()
        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.1)
        (tmp_path / ".lock-g").unlink()
    assert waiting.wait(10)
    with folder_lock(tmp_path, "g", wait=False) as had:
        assert not had
    release.set()
    thread.join()


def test_a_lock_is_had_once(tmp_path: Path) -> None:
    """Who asks for a generation that another works on is told so."""
    with folder_lock(tmp_path, "g") as first:
        assert first
        with folder_lock(tmp_path, "g", wait=False) as second:
            assert not second
    with folder_lock(tmp_path, "g", wait=False) as third:
        assert third


def test_a_missing_file_is_told(case: LakeCase) -> None:
    """A snapshot that names a file which is gone raises, it never answers with less."""
    case.log_points("a", points(5))
    case.sealer.seal_all()
    case.lake.remove(case.files()[0])
    with pytest.raises(SegmentGone):
        case.history("a", "loss")


def test_the_sealer_runs_until_told_to_stop(case: LakeCase) -> None:
    """In its thread it seals what is due, survives a failure, and ends soon after the event."""
    views = Interrupted(case.views)
    sealer = Sealer(views, case.lake, SMALL)

    def fail() -> None:
        raise OSError("no space left")

    views.before_write = fail
    stop = threading.Event()
    thread = threading.Thread(target=sealer.run, args=(stop,))
    case.log_points("a", points(5))
    thread.start()
    until = time.monotonic() + 10
    while not case.files() and time.monotonic() < until:
        time.sleep(0.01)
    stop.set()
    thread.join(10)
    assert not thread.is_alive()
    check_all_there(case, "a", points(5))


def test_an_interrupted_sealer_ends_at_once(case: LakeCase) -> None:
    """Told to stop in the middle of a merge it drops the file, and every point is still there."""
    logged = points(60_000)
    for start in range(0, 60_000, 20_000):
        case.log_points("a", logged[start : start + 20_000])
        Sealer(case.views, case.lake, SealerSettings(merge_segments=99)).seal_all()
    sealer = Sealer(case.views, case.lake, SMALL)
    stop = threading.Event()
    thread = threading.Thread(target=sealer.run, args=(stop,))
    thread.start()
    time.sleep(0.05)
    stop.set()
    sealer.interrupt()
    thread.join(5)
    assert not thread.is_alive()
    Sealer(case.views, case.lake, NEVER).round()
    check_all_there(case, "a", logged)
