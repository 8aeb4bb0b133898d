"""Segment files: every point once and in order, however the points came and were cut up."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import projections.segment_files
from events.codec import Block, Series, make_block
from projections.lake import COLUMNS, DuckDB, Lake, open_duckdb
from projections.point_columns import Gathered
from projections.segment_files import Batch, merge_files, write_points
from projections.segments import Written
from tests.lake_cases import LakeCase, Point, as_answered
from workers.sealer import SealerSettings

GENERATION = "0" * 8
VALUES = [0.0, -0.0, 1.5, -1.5, math.nan, math.inf, -math.inf]
SERIES = [
    Series("loss"),
    Series("loss", "m-1"),
    Series("loss", None, "data", "abc"),
    Series("loss", "m-1", "data", "abc"),
    Series("Ω/it's"),
]
POINT = st.tuples(
    st.sampled_from(SERIES),
    st.integers(-3, 3) | st.sampled_from([-(2**63), 2**63 - 1]),
    st.integers(0, 2),
    st.sampled_from(VALUES),
)
Logged = Sequence[tuple[str, list[tuple[Series, int, int, float]]]]
FILE = st.lists(st.tuples(st.sampled_from(["a", "b", "run'c"]), st.lists(POINT)), max_size=4)


def written(duck: DuckDB, lake: Lake, blocks: Logged) -> Written:
    gathered = Gathered()
    for run_id, points in blocks:
        gathered.add(run_id, make_block(points))
    return write_points(duck, lake, "1", GENERATION, [gathered])


def in_pieces(duck: DuckDB, lake: Lake, blocks: Logged) -> Written:
    """The same, a run a piece."""
    pieces = {run_id: Gathered() for run_id in sorted({"a", *(run_id for run_id, _ in blocks)})}
    for run_id, points in blocks:
        pieces[run_id].add(run_id, make_block(points))
    return write_points(duck, lake, "1", GENERATION, pieces.values())


def at_once(duck: DuckDB, lake: Lake, paths: Sequence[str], without: Sequence[str] = ()) -> Written:
    """A merge; after each of its pieces another segment is written with its cursor."""
    beside: Logged = [("a", [(SERIES[0], 1, 1, 0.5)]), ("z", [(SERIES[0], 2, 1, 0.5)])]
    for merged in merge_files(duck, lake, "1", GENERATION, paths, without):
        if merged is not None:
            return merged
        between = in_pieces(duck, lake, beside)
        assert list(map(shown, rows(duck, lake, between.path))) == in_order(beside)
    raise AssertionError("a merge ended without a segment")


def rows(duck: DuckDB, lake: Lake, path: str) -> list[tuple[Any, ...]]:
    """What a file holds, in its order."""
    return duck.execute(
        f"SELECT {', '.join(COLUMNS)} FROM read_parquet(?)", [str(lake.folder / path)]
    ).fetchall()


def in_order(blocks: Logged) -> list[str]:
    """What a file of these blocks must hold: each point once, by all columns, NaN and null last."""
    found = {}
    for run_id, points in blocks:
        for series, step, at, value in points:
            model, name, digest = ((one is None, one or "") for one in series[1:])
            is_nan = math.isnan(value)
            order = (is_nan, 0.0 if is_nan else value + 0.0)
            key = (run_id, series.key, step, at, order, model, name, digest)
            found[key] = (run_id, series.key, step, at, value + 0.0, *series[1:])
    return [shown(found[key]) for key in sorted(found)]


def shown(row: tuple[Any, ...]) -> str:
    """A row as text: NaN is not equal to itself, and of -0.0 and 0.0 either may be kept."""
    return repr((*row[:4], row[4] + 0.0, *row[5:]))


@given(
    files=st.lists(FILE, min_size=1, max_size=3),
    piece=st.integers(1, 12),
    names=st.integers(2, 15),
)
@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_files_and_merges_hold_each_point_once_in_order(
    tmp_path: Path, files: list[Logged], piece: int, names: int
) -> None:
    """Whatever is logged and however small the pieces are that a merge is made in, whether or not
    their names fit the memory."""
    duck = open_duckdb(memory_mb=100, threads=1, temp=None)
    try:
        paths = []
        for blocks in files:
            one = written(duck, Lake(tmp_path), blocks)
            assert list(map(shown, rows(duck, Lake(tmp_path), one.path))) == in_order(blocks)
            pieces = in_pieces(duck, Lake(tmp_path), blocks)
            assert list(map(shown, rows(duck, Lake(tmp_path), pieces.path))) == in_order(blocks)
            assert pieces.runs == one.runs
            paths.append(one.path)
        all_blocks = [block for blocks in files for block in blocks]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(projections.segment_files, "PIECE_POINTS", piece)
            patch.setattr(projections.segment_files, "PIECE_NAMES", names)
            merged = at_once(duck, Lake(tmp_path), paths)
            less = at_once(duck, Lake(tmp_path), [merged.path], ["run'c"])
        assert list(map(shown, rows(duck, Lake(tmp_path), merged.path))) == in_order(all_blocks)
        kept = [block for block in all_blocks if block[0] != "run'c"]
        assert list(map(shown, rows(duck, Lake(tmp_path), less.path))) == in_order(kept)
        for found in (merged, less):
            counted: dict[str, int] = {}
            for row in rows(duck, Lake(tmp_path), found.path):
                counted[row[0]] = counted.get(row[0], 0) + 1
            assert found.runs == counted
    finally:
        duck.close()


@pytest.mark.parametrize("threads", [1, 2])
def test_order_holds_over_many_row_groups(tmp_path: Path, threads: int) -> None:
    """Also where a file has many row groups and DuckDB several threads, and where there are more
    names than points for DuckDB to look them up in."""
    generator = np.random.default_rng(3)
    duck = open_duckdb(memory_mb=200, threads=threads, temp=None)
    gathered = Gathered()
    series = [Series(f"key-{place:03}") for place in range(300)]
    for run_id in ("b", "a"):
        points = [
            (series[generator.integers(300)], int(step), 1, float(step))
            for step in generator.permutation(100_000)
        ]
        gathered.add(run_id, make_block(points))
    one = write_points(duck, Lake(tmp_path), "1", GENERATION, [gathered])
    found = [row[:3] for row in rows(duck, Lake(tmp_path), one.path)]
    assert found == sorted(found)
    assert one.runs == {"a": 100_000, "b": 100_000}
    many = Gathered()
    for place in range(3_000):
        many.add(f"{generator.integers(2**40):010x}", make_block([(series[place % 7], 1, 1, 1.0)]))
    other = write_points(duck, Lake(tmp_path), "1", GENERATION, [many])
    found = [row[:3] for row in rows(duck, Lake(tmp_path), other.path)]
    assert found == sorted(found)
    assert len(found) == 3_000
    duck.close()


def test_a_merge_spills_what_does_not_fit_its_memory(tmp_path: Path) -> None:
    """A million points are sorted and freed of repetitions within 40 MB, and spill files go."""
    count = 250_000
    duck = open_duckdb(memory_mb=200, threads=2, temp=None)
    generator = np.random.default_rng(7)
    paths = []
    for part in range(4):
        steps = generator.permutation(count) + part * count // 2
        block = Block([Series("loss")], np.zeros(count, np.uint32), steps, steps, steps / 7)
        gathered = Gathered()
        gathered.add(f"r{part % 2}", block)
        written = write_points(duck, Lake(tmp_path), "1", "0" * 8, [gathered])
        paths.append(written.path)
    small = open_duckdb(memory_mb=40, threads=1, temp=tmp_path / "spill")
    merged = at_once(small, Lake(tmp_path), paths)
    assert merged.runs == {"r0": 2 * count, "r1": 2 * count}
    again = at_once(small, Lake(tmp_path), [*paths, merged.path], ["r1"])
    assert again.runs == {"r0": 2 * count}
    rows = duck.execute("SELECT step, value FROM read_parquet(?)", [str(tmp_path / again.path)])
    found = rows.fetchnumpy()
    assert found["step"].tolist() == sorted({*range(count), *range(count, 2 * count)})
    assert (found["value"] == found["step"] / 7).all()
    small.close()
    duck.close()
    assert [path for path in (tmp_path / "spill").rglob("*") if path.is_file()] == []


def test_a_batch_is_made_in_pieces_of_whole_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a segment has many pieces' points in one order; a run too large for one ends it."""
    monkeypatch.setattr(projections.segment_files, "PIECE_POINTS", 20)
    case = LakeCase(tmp_path, SealerSettings(batch_points=100, merge_segments=99))
    logged: dict[str, list[Point]] = {}
    for run_id, count in {"c": 12, "a": 12, "z": 50, "b": 4, "d": 8}.items():
        case.create_run(run_id)
        logged[run_id] = [("loss", step, step, step / 7) for step in range(count)]
        for start in range(0, count, 4):
            case.log_points(run_id, logged[run_id][start : start + 4])
    batch = Batch(100, 1_000, 1_000)
    pieces = [(sorted(one.ranges), one.points) for one in batch.pieces(case.views, list(logged))]
    assert pieces == [(["a"], 12), (["b", "c"], 16), (["d", "z"], 20)]
    assert sorted(batch.ranges) == sorted(logged)
    case.sealer.seal_all()
    duck = open_duckdb(memory_mb=100, threads=1, temp=None)
    found = [rows(duck, case.lake, path) for path in case.files()]
    assert [len(one) for one in found] == [48, 20, 18]
    assert [one[:3] for one in found[0]] == sorted(one[:3] for one in found[0])
    for run_id, points in logged.items():
        assert case.history(run_id, "loss") == as_answered(points, "loss")
    duck.close()
    case.close()
