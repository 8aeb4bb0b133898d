"""Points that are not sealed, as a query reads them: each once, in whatever order they came."""

from pathlib import Path

import duckdb
import pytest

from events.codec import Series, encode_block, make_block
from projections.query_points import (
    POINTS_FILE,
    Plan,
    Stored,
    _gathered,
    declare_metrics,
    write_part,
)

A, B = Series("a"), Series("b")
ON_DATA = Series("a", None, "data", "1")
Given = tuple[Series, int, int, float]


def block(*points: Given) -> bytes:
    """The stored bytes of points, each a series, step, timestamp and value."""
    return encode_block(make_block(list(points)))


def found(folder: Path, stored: list[Stored]) -> list[tuple[object, ...]]:
    """What a query finds of blocks, in order."""
    with (folder / POINTS_FILE).open("wb") as file:
        write_part(file, Plan({run_id: "0" for run_id, _ in stored}, {}, [], []))
        write_part(file, stored)
    with duckdb.connect() as connection:
        declare_metrics(connection, folder)
        columns = "run_id, key, dataset_name, step, timestamp_ms, value"
        return connection.execute(f"SELECT {columns} FROM metrics ORDER BY ALL").fetchall()


STEPS = [(A, 1, 10, 0.5), (B, 1, 10, 1.5), (A, 2, 20, 0.5)]
LATER = [(A, 3, 30, 0.5), (B, 3, 30, 2.5)]


@pytest.mark.parametrize(
    ("blocks", "distinct"),
    [
        ([STEPS, LATER], True),
        ([LATER, STEPS], True),
        ([STEPS, STEPS], False),
        ([STEPS, [(A, 2, 20, 0.5), (A, 3, 30, 1.0)]], False),
        ([[(A, 1, 10, 0.5), (B, 1, 10, 1.5), (A, 1, 10, 0.5)]], False),
        ([[(A, 1, 10, 0.5), (A, 2, 20, 0.5), (B, 1, 10, 1.5)]], False),
        ([[(A, 1, 10, float("nan")), (ON_DATA, 1, 10, float("nan"))]], True),
        ([[(A, 1, 10, float("nan")), (A, 1, 10, float("nan"))]], False),
        ([[(A, 2, 20, 0.5), (A, 1, 10, 0.5)], [(A, 1, 10, 0.5)]], False),
        ([[], STEPS], True),
    ],
)
def test_each_point_once(tmp_path: Path, blocks: list[list[Given]], distinct: bool) -> None:
    """A query finds the set of the points; only blocks that go on step by step are not sorted."""
    stored = [("r", block(*points)) for points in blocks]
    assert _gathered(stored)[1] is distinct
    expected = {
        ("r", series.key, series.dataset_name, step, time, str(value))
        for points in blocks
        for series, step, time, value in points
    }
    rows = found(tmp_path, stored)
    assert len(rows) == len(expected)
    assert {(*row[:-1], str(row[-1])) for row in rows} == expected


def test_the_same_point_of_two_runs_is_two(tmp_path: Path) -> None:
    """Steps are compared within a run: those of another are no reason to sort."""
    stored = [("r", block(*STEPS)), ("s", block(*STEPS))]
    assert _gathered(stored)[1]
    assert len(found(tmp_path, stored)) == 2 * len(STEPS)
