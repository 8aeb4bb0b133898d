"""How many files a lake has: few, and bounded by its points, during a long stream and after it."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

import projections.segment_files
import workers.segment_choice
from projections.metrics import blocks
from projections.segments import segments_of
from tests.lake_cases import LakeCase, Point, as_answered
from workers.exporter import Exporter, ExporterSettings
from workers.sealer import Sealer, SealerSettings, _Interrupted

BATCH = 10
LARGE = 8
FULL = LARGE * BATCH
OPEN_MAX = LARGE + 3
"""So many segments of an experiment are not full, at most: here the small are all in one tier."""


def points(count: int, start: int) -> list[Point]:
    return [("loss", step, step, step / 7) for step in range(start, start + count)]


def sizes(case: LakeCase) -> list[int]:
    with case.views.read() as connection:
        return [segment.points for segment in segments_of(connection, "1")]


def names(case: LakeCase) -> list[str]:
    """The names of Parquet files below the lake, links among them."""
    found = case.lake.folder.rglob("*.parquet")
    return [str(path.relative_to(case.lake.folder)) for path in found]


def unsealed(case: LakeCase) -> int:
    with case.views.read() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(blocks)).scalar() or 0


def test_files_stay_within_their_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over a stream of several full segments' points there are never more segments than full ones
    and a fixed number of others, each with its name and a link; full ones are full."""
    monkeypatch.setattr(workers.segment_choice, "LARGE", LARGE)
    settings = SealerSettings(
        seal_points=1, batch_points=BATCH, merged_points_max=FULL, retired_s=0.0
    )
    case = LakeCase(tmp_path, settings)
    exporter = Exporter(case.views, case.log, case.lake, ExporterSettings(retired_s=0.0))
    case.create_run("a")
    logged: list[Point] = []
    for seal in range(6 * LARGE):
        # Now and then a rest too small to wait for others comes between.
        more = points(BATCH if seal % 11 else 3, len(logged))
        logged += more
        case.log_points("a", more)
        case.sealer.round()
        found = sizes(case)
        assert len(found) <= len(logged) / (FULL - BATCH) + OPEN_MAX
        if seal % 10 == 0:
            exporter.round()
            assert len(names(case)) <= 2 * len(found) + 20
    exporter.round()
    found = sizes(case)
    full = [size for size in found if size >= FULL // 2]
    assert len(full) == 5
    assert all(FULL - BATCH < size <= FULL for size in full)
    assert len(case.files()) == len(found) <= len(logged) / (FULL - BATCH) + OPEN_MAX
    links = [name for name in names(case) if "/.metrics-" in name]
    assert len(links) == len(found)
    assert case.history("a", "loss") == as_answered(logged, "loss")
    case.close()


def test_what_is_due_is_sealed_while_a_merge_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks that come between two pieces of a merge don't wait for its end."""
    monkeypatch.setattr(projections.segment_files, "PIECE_POINTS", 5)
    case = LakeCase(tmp_path)
    case.create_run("a")
    case.create_run("b")
    for start in (0, 5):
        case.log_points("a", points(5, start))
        case.log_points("b", points(5, start))
        Sealer(case.views, case.lake, SealerSettings(merge_segments=99)).seal_all()
    logged, waiting = 10, []

    def heavy(work: Callable[[], Any]) -> Any:
        nonlocal logged
        found = work()
        waiting.append(unsealed(case))
        if found is None and not waiting[-1]:
            case.log_points("a", points(5, logged))
            logged += 5
        return found

    settings = SealerSettings(seal_points=1, batch_points=5, merge_segments=2, retired_s=0.0)
    sealer = Sealer(case.views, case.lake, settings, heavy=heavy)
    sealer.round()
    sealer.close()
    assert logged > 15, "the merge had one piece"
    assert max(waiting) == 1
    assert unsealed(case) == 0
    assert sorted(sizes(case)) == [*[5] * ((logged - 10) // 5), 20]
    assert case.history("a", "loss") == as_answered(points(logged, 0), "loss")
    assert case.history("b", "loss") == as_answered(points(10, 0), "loss")
    assert list(case.lake.folder.glob(".spill-*/*")) == []
    case.close()


def test_a_merge_is_given_up_after_its_piece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sealer that is told to stop leaves nothing of a merge, and the segments as they were."""
    monkeypatch.setattr(projections.segment_files, "PIECE_POINTS", 5)
    case = LakeCase(tmp_path)
    case.create_run("a")
    for start in (0, 10):
        case.log_points("a", points(10, start))
        Sealer(case.views, case.lake, SealerSettings(merge_segments=99)).seal_all()
    steps = 0

    def heavy(work: Callable[[], Any]) -> Any:
        nonlocal steps
        found = work()
        steps += 1
        sealer.interrupt()
        return found

    sealer = Sealer(case.views, case.lake, SealerSettings(merge_segments=2), heavy=heavy)
    with pytest.raises(_Interrupted):
        sealer.round()
    sealer.close()
    assert steps == 1
    assert len(case.files()) == len(sizes(case)) == 2
    assert list(case.lake.folder.glob(".spill-*/*")) == []
    assert case.history("a", "loss") == as_answered(points(20, 0), "loss")
    case.close()


def test_a_folder_that_was_replaced_goes_at_once(tmp_path: Path) -> None:
    """It has a link to every file, so it doesn't stay until the next round of exports, but for who
    is just listing it."""
    case = LakeCase(tmp_path)
    case.create_run("a")
    exporting = ExporterSettings(export_age_s=1e6, retired_s=0.2)
    exporter = Exporter(case.views, case.log, case.lake, exporting)
    case.log_points("a", points(5, 0))
    case.sealer.seal_all()
    exporter.round()
    case.log_points("a", points(5, 5))
    case.sealer.seal_all()
    stop = threading.Event()
    thread = threading.Thread(target=exporter.run, args=(stop,))
    thread.start()
    seen = False
    until = time.monotonic() + 20.0
    while time.monotonic() < until:
        replaced = list(case.lake.folder.glob("experiment_id=1/.metrics-*.gone"))
        if seen and not replaced:
            break
        seen = seen or bool(replaced)
        stop.wait(0.005)
    stop.set()
    thread.join()
    assert seen
    assert not replaced
    assert len(list(case.lake.folder.glob("experiment_id=1/metrics/*.parquet"))) == 1
    case.close()
