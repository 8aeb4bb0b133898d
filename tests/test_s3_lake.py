"""The lake in S3: what is written goes there, what is read comes through a bounded folder."""

import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

import projections.s3_lake
from events.runs import RUN_DELETED, RUN_PURGED, RunDeleted, RunPurged
from projections.lake import EXPORTS, SEGMENTS, SegmentGone
from projections.lake_exports import known_exports
from projections.lake_locks import generation_lock
from projections.s3_lake import OthersLake, S3Lake
from projections.segments import known_paths
from projections.sqlite_views import SqliteViews
from tests.backends import S3Place
from tests.lake_cases import LakeCase, Point, as_answered
from tests.s3_lakes import KEPT, PATH, case_with_two_runs, copies, forget, points, put, segments_in
from tests.sql_cases import SqlCase, as_rest_says, without_times
from tests.test_lake_readers import a_case, check_params, create_run, write
from workers.exporter import Exporter, ExporterSettings
from workers.sealer import Sealer, SealerSettings


@pytest.fixture
def case(s3_place: S3Place, tmp_path: Path) -> Iterator[LakeCase]:
    yield from case_with_two_runs(s3_place, tmp_path)


# Files.


def test_a_kept_file_is_had_on_another_machine(s3_place: S3Place, tmp_path: Path) -> None:
    """Byte for byte, until it is removed; then both say that it is gone."""
    one, other = s3_place.lake(tmp_path / "one"), s3_place.lake(tmp_path / "other")
    put(one, PATH, b"content")
    (name,) = other.files([PATH])
    assert Path(name).read_bytes() == b"content"
    assert list(other.found(SEGMENTS)) == [(PATH, False)]
    assert list(other.found(EXPORTS)) == []
    assert list(other.found(SEGMENTS, young_s=60)) == [(PATH, True)]
    one.remove(PATH)
    one.remove(PATH)
    assert list(other.found(SEGMENTS)) == []
    assert copies(one) == {}
    # Its own copy is as good as ever, until it is tidied away.
    other.fetch([PATH])
    forget(other)
    with pytest.raises(SegmentGone):
        other.fetch([PATH])
    assert copies(other) == {}
    assert list((other.folder / ".fetching").iterdir()) == []


def test_the_folder_keeps_its_bound(
    s3_place: S3Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was not used for longest goes, what is used just now never does, and all can be read."""
    monkeypatch.setattr(projections.s3_lake, "USED_S", 0.5)
    lake = s3_place.lake(tmp_path / "cache", cache_mb=1)
    paths = [PATH.replace("one", str(number)) for number in range(30)]
    for number, path in enumerate(paths):
        put(lake, path, bytes([number]) * 100_000)
    assert len(copies(lake)) == 30
    time.sleep(0.6)
    lake.fetch(paths[:2])
    put(lake, PATH, b"x" * 100_000)
    left = copies(lake)
    assert 500_000 < sum(left.values()) <= 1024 * 1024
    assert {*paths[:2], PATH} <= left.keys()
    for _ in range(2):
        for number, path in enumerate(paths):
            (name,) = lake.files([path])
            assert Path(name).read_bytes() == bytes([number]) * 100_000
    time.sleep(0.6)
    lake.fetch(paths[:1])
    assert sum(copies(lake).values()) > 1024 * 1024
    lake.tidy(lambda: {PATH, *paths})
    assert sum(copies(lake).values()) <= 1024 * 1024


def test_links_and_held_files_outlive_their_copies(
    s3_place: S3Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A query's and a merge's files are there to the end, also where all of them together are more
    than the bound."""
    monkeypatch.setattr(projections.s3_lake, "USED_S", -1.0)
    monkeypatch.setattr(projections.s3_lake, "LINKED_AT_ONCE", 2)
    lake = s3_place.lake(tmp_path / "cache", cache_mb=1)
    paths = [PATH.replace("one", str(number)) for number in range(20)]
    for path in paths:
        put(lake, path, b"x" * 100_000)
    forget(lake)
    places = {lake.folder / "linked" / path.replace("/", "-"): path for path in paths}
    lake.link(places)
    assert [file.stat().st_size for file in places] == [100_000] * 20
    assert sum(copies(lake).values()) <= 1024 * 1024
    with lake.held(paths, lake.folder / "held") as held:
        assert [Path(name).stat().st_size for name in held] == [100_000] * 20
    assert not (lake.folder / "held").exists()


def test_many_that_want_a_file_fetch_it_once(
    s3_place: S3Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others wait for it."""
    lake = s3_place.lake(tmp_path / "cache")
    put(lake, PATH, b"content")
    forget(lake)
    fetched: list[str] = []
    download = S3Lake._download

    def slowly(self: S3Lake, path: str, to: Path) -> int:
        fetched.append(path)
        time.sleep(0.2)
        return download(self, path, to)

    monkeypatch.setattr(S3Lake, "_download", slowly)
    readers = [threading.Thread(target=lake.fetch, args=([PATH],)) for _ in range(6)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert fetched == [PATH]
    assert copies(lake) == {PATH: 7}


def test_copies_that_nobody_names_are_dropped(
    s3_place: S3Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once they are not young; what is named, and what is in the lake, stays."""
    lake = s3_place.lake(tmp_path / "cache")
    other = PATH.replace("one", "two")
    for path in (PATH, other):
        put(lake, path, b"content")
    left = lake.folder / ".fetching" / "left"
    left.parent.mkdir()
    left.touch()
    lake.tidy(lambda: {other})
    assert copies(lake).keys() == {PATH, other}
    old = time.time() - 7200
    for file in (lake.folder / PATH, lake.folder / other, left):
        os.utime(file, (old, old))
    lake.tidy(lambda: {other})
    assert copies(lake).keys() == {PATH, other}, "it was tidied a moment ago"
    monkeypatch.setattr(projections.s3_lake, "TIDY_S", 0.0)
    lake.tidy(lambda: {other})
    assert copies(lake).keys() == {other}
    assert not left.exists()
    assert sorted(path for path, _ in lake.found(SEGMENTS)) == [PATH, other]


def test_a_place_with_another_log_s_lake_is_refused(s3_place: S3Place, tmp_path: Path) -> None:
    """Whose it is is said by the first that writes there, of however many at once."""
    lakes = [s3_place.lake(tmp_path / str(number)) for number in range(4)]
    threads = [threading.Thread(target=lake.ready) for lake in lakes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lakes[0].ready()
    with pytest.raises(OthersLake, match="another log"):
        s3_place.lake(tmp_path / "x", owner="another").ready()
    assert s3_place.read("owner") == b"this log"


# Sealing and reading.


def test_what_is_sealed_and_merged_is_read_from_s3(case: LakeCase, s3_place: S3Place) -> None:
    """A machine without a copy answers the same; only what the views name is in the bucket."""
    case.log_points("a", points(50))
    case.log_points("b", points(20))
    Sealer(case.views, case.lake, KEPT).seal_all()
    case.log_points("a", points(50, start=40))
    Sealer(case.views, case.lake, KEPT).seal_all()
    assert len(segments_in(s3_place)) == 2
    expected = as_answered([*points(50), *points(50, start=40)], "loss")
    for _ in range(2):
        forget(case.lake)
        assert case.history("a", "loss") == expected
        assert case.pages("a", "loss", 7) == expected
        # The second time of the merged file, for which both were fetched.
        forget(case.lake)
        case.sealer.seal_all()
        case.sealer.round()
    with case.views.read() as connection:
        assert segments_in(s3_place) == sorted(known_paths(connection))
    assert len(segments_in(s3_place)) == 1
    assert case.history("a", "loss") == expected
    assert copies(case.lake).keys() == set(segments_in(s3_place))


def test_gc_leaves_nothing_in_s3(case: LakeCase, s3_place: S3Place, tmp_path: Path) -> None:
    """Neither the purged run's points nor, on another machine, a copy of them for long."""
    case.log_points("a", [("secret-name", 1, 1, 0.5)])
    case.log_points("b", points(20))
    case.sealer.seal_all()
    other = s3_place.lake(tmp_path / "other")
    other.fetch(segments_in(s3_place))
    case.purge_run("a")
    assert case.sealer.remove_purged() == 1
    (left,) = segments_in(s3_place)
    assert b"secret-name" not in s3_place.read(left)
    assert copies(case.lake).keys() == {left}
    (old,) = copies(other)
    os.utime(other.folder / old, (0, 0))
    with case.views.read() as connection:
        named = known_paths(connection)
    other.tidy(lambda: named)
    assert copies(other) == {}
    assert case.history("b", "loss") == as_answered(points(20), "loss")


def test_what_a_crash_has_left_is_swept(
    case: LakeCase, s3_place: S3Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An object that no views name goes, and one of them stays. Where the views are on a server, a
    young one may be about to be named by another machine, unless it is of views that are gone."""
    case.log_points("a", points(5))
    case.sealer.seal_all()
    (theirs,) = segments_in(s3_place)
    generation = theirs.rpartition("/")[2].partition("-")[0]
    segment = theirs.rpartition(f"{generation}-")[2]
    mine, others = (
        theirs.replace(segment, "0" * 8 + segment[8:]),
        theirs.replace(generation, "0" * 8),
    )
    for path in (mine, others):
        put(case.lake, path, b"left")
    with monkeypatch.context() as patched:
        patched.setattr(SqliteViews, "is_on_server", True)
        Sealer(case.views, case.lake, KEPT).round()
        assert segments_in(s3_place) == sorted([theirs, mine])
        patched.setattr("projections.lake_locks.YOUNG_S", -60.0)
        Sealer(case.views, case.lake, KEPT).round()
        assert segments_in(s3_place) == [theirs]
    for path in (mine, others):
        put(case.lake, path, b"left")
    Sealer(case.views, case.lake, KEPT).round()
    assert segments_in(s3_place) == [theirs]


def test_two_machines_share_a_lake(case: LakeCase, s3_place: S3Place, tmp_path: Path) -> None:
    """Each seals and merges what the other has written, and both read all of it; one at a time,
    though their folders are two."""
    there = s3_place.lake(tmp_path / "other")
    other = Sealer(case.views, there, case.sealer._settings)
    with (
        generation_lock(case.views, case.lake, "g") as first,
        generation_lock(case.views, there, "g", wait=False) as second,
    ):
        assert (first, second) == (True, False)
    logged: list[Point] = []
    for number in range(6):
        more = points(30, start=number * 30)
        logged += more
        case.log_points("a", more)
        (case.sealer, other)[number % 2].seal_all()
        assert case.history("a", "loss") == as_answered(logged, "loss")
    other.round()
    with case.views.read() as connection:
        assert segments_in(s3_place) == sorted(known_paths(connection))
    assert len(segments_in(s3_place)) == 1
    other.close()


# SQL, and other engines, with the views in a file and on a server.


@pytest.fixture(params=("sqlite", "postgresql"))
def s3_case(request: pytest.FixtureRequest, s3_place: S3Place, tmp_path: Path) -> Iterator[SqlCase]:
    """An experiment with a run, whose lake is in S3."""
    uri = request.param
    views_uri = None if uri == "sqlite" else str(request.getfixturevalue("postgresql_uri"))
    case = a_case(tmp_path / "home", s3_place.lake(tmp_path / "home" / "cache"), views_uri)
    yield case
    case.close()


def test_sql_reads_a_lake_in_s3(s3_case: SqlCase) -> None:
    """Each table is as REST says it, on a machine that has no copy, and of one experiment alone."""
    for number in range(3):
        write(s3_case, number)
    forget(s3_case.lake)
    assert without_times(s3_case.tables()) == as_rest_says(s3_case)
    assert copies(s3_case.lake)
    forget(s3_case.lake)
    assert s3_case.tables(["none"])["runs"] == []
    assert copies(s3_case.lake) == {}


def fetched_by_list(place: S3Place, folder: Path) -> duckdb.DuckDBPyConnection:
    """A DuckDB over files that were fetched as `files.json` names them, with the tables of
    `open.sql`. Nothing of Runfold takes part."""
    (folder / "files.json").parent.mkdir(parents=True, exist_ok=True)
    (folder / "files.json").write_bytes(place.read("files.json"))
    for one in json.loads((folder / "files.json").read_bytes()):
        (folder / one["path"]).parent.mkdir(parents=True, exist_ok=True)
        (folder / one["path"]).write_bytes(place.read(one["path"]))
    connection = duckdb.connect()
    connection.execute(f"SET VARIABLE runfold_lake = '{folder}'")
    connection.execute(place.read("open.sql").decode())
    return connection


def test_plain_duckdb_reads_files_that_were_fetched(
    s3_case: SqlCase, s3_place: S3Place, tmp_path: Path
) -> None:
    """All tables, each point and run once, through the list; after a purge nothing of it."""
    for number in range(4):
        write(s3_case, number)
    with fetched_by_list(s3_place, tmp_path / "fetched") as connection:
        steps = connection.execute("SELECT step FROM metrics ORDER BY step").fetchall()
        assert [row[0] for row in steps] == list(range(200))
        params = connection.execute("SELECT run_id, value FROM params").fetchall()
        assert len(check_params(params)) == 4
        assert connection.execute("SELECT count(*) FROM logged_models").fetchall() == [(0,)]
        ids = connection.execute("SELECT DISTINCT experiment_id FROM runs").fetchall()
        assert ids == [("1",)]
    s3_case.given(RUN_DELETED, "run2", RunDeleted())
    s3_case.given(RUN_PURGED, "run2", RunPurged())
    s3_case.projector.catch_up()
    s3_case.sealer.remove_purged()
    s3_case.exporter.remove_purged()
    for key in s3_place.objects():
        assert b"run2" not in s3_place.read(key), key
    with fetched_by_list(s3_place, tmp_path / "again") as connection:
        assert connection.execute("SELECT count(*) FROM metrics").fetchall() == [(150,)]
        assert connection.execute("SELECT count(*) FROM runs").fetchall() == [(3,)]


def test_a_list_names_no_file_that_is_gone(s3_case: SqlCase, s3_place: S3Place) -> None:
    """While the files keep for readers that have the list, whatever is replaced meanwhile."""
    s3_case.sealer = Sealer(s3_case.views, s3_case.lake, SealerSettings(merge_segments=2))
    s3_case.exporter = Exporter(s3_case.views, s3_case.log, s3_case.lake, ExporterSettings())
    lists: list[Any] = []
    for number in range(4):
        write(s3_case, number)
        lists.append(json.loads(s3_place.read("files.json")))
    keys = set(s3_place.objects())
    assert {one["path"] for files in lists for one in files} <= keys
    assert len({json.dumps(files) for files in lists}) == 4
    with s3_case.views.read() as connection:
        known = known_paths(connection) | known_exports(connection)
    assert {key for key in keys if key.startswith(".")} == known


def test_exports_written_on_one_machine_are_rewritten_on_another(
    s3_case: SqlCase, s3_place: S3Place, tmp_path: Path
) -> None:
    """An exporter fetches what it makes anew of what another has written."""
    there = s3_place.lake(tmp_path / "home" / "there")
    other = Exporter(s3_case.views, s3_case.log, there, ExporterSettings(retired_s=0))
    for number in range(10):
        create_run(s3_case, number + 1)
        s3_case.projector.catch_up()
        (s3_case.exporter, other)[number % 2].round()
    forget(s3_case.lake)
    assert without_times(s3_case.tables()) == as_rest_says(s3_case)
