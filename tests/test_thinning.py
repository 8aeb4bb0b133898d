"""Charts: the same points are chosen wherever the points are, and from summaries of them."""

import math
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import projections.history
import projections.segment_files
import projections.thinning
from events.codec import Float64s, Int64s
from projections.history import Points, sampled
from projections.segments import segment_curves
from projections.thinning import curve_of, cut_level, kept_values, thinned
from tests.lake_cases import Answered, LakeCase, Point, answered
from workers.sealer import SealerSettings

POINTS_MAX = 10
VALUES = st.sampled_from(
    [0.0, -0.0, 1.0, math.nan, math.inf, -math.inf, sys.float_info.max, 5e-324, 0.1]
) | st.floats(width=64)
STEPS = st.integers(0, 400) | st.sampled_from([-(2**63), -1, 0, 0, 1, 2**40, 2**63 - 1])
TIMES = st.integers(0, 50) | st.sampled_from([0, 0, 2**40])
POINTS = st.lists(st.tuples(STEPS, TIMES, VALUES), min_size=1, max_size=120)
TIMED = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 2_000), VALUES), min_size=1, max_size=120
)
Found = tuple[int, int, float]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Summaries of few points, made of small curves, in files that are merged in small pieces."""
    make_small(monkeypatch)


def make_small(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(projections.thinning, "_BUCKETS", (2, 4, POINTS_MAX - 2))
    patch.setattr(projections.thinning, "POINTS_A_BUCKET", 3)
    patch.setattr(projections.segment_files, "CURVE_POINTS", 6)
    patch.setattr(projections.history, "SUMMARIZED_FROM", 1)
    patch.setattr(projections.history, "WHOLE_POINTS", 30)
    patch.setattr(projections.segment_files, "PIECE_POINTS", 20)


def columns(points: set[Found]) -> tuple[Int64s, Int64s, Float64s]:
    """Points in the order of a history."""
    ordered = sorted(points, key=lambda p: (p[0], p[1], np.nan_to_num(p[2], nan=0.0), p[2] != p[2]))
    return (
        np.array([step for step, _, _ in ordered], np.int64),
        np.array([at for _, at, _ in ordered], np.int64),
        kept_values(np.array([value for _, _, value in ordered], np.float64)),
    )


def unique(points: list[Found]) -> set[Found]:
    """The points as a set, for which NaN is equal to NaN."""
    nan = float("nan")
    kept = kept_values(np.array([value for _, _, value in points])).tolist()
    return {
        (step, at, nan if value != value else value)
        for (step, at, _), value in zip(points, kept, strict=True)
    }


@settings(max_examples=300, deadline=None)
@given(
    POINTS | TIMED,
    st.integers(4, POINTS_MAX),
    st.lists(st.integers(0, 4), min_size=120),
    st.lists(st.integers(0, 2), min_size=5, max_size=5),
)
@example(
    [(0, 0, math.nan), (0, 0, 1.0), *((n, n, 0.5) for n in range(1, 20))], 8, [4] * 120, [2] * 5
)
@example(
    [*((n, n, 0.5) for n in range(20)), (30, 1, -1.0), (30, 1, math.nan)], 8, [4] * 120, [2] * 5
)
def test_the_choice_from_summaries_is_the_choice_from_all(
    points: list[Found], limit: int, parts: list[int], grades: list[int]
) -> None:
    """Whatever part of the points is in which summary, or in none; some are in two. It is the same
    where it is cut above the coarsest of them, which it is above the finest that a curve has."""
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        whole = columns(unique_by_text(points))
        candidates: list[Found] = []
        coarsest = 0
        for part in range(5):
            chosen = [p for p, of in zip(points, parts, strict=False) if part in (of, of - 2)]
            if part == 0 or len(chosen) < 2:
                candidates += chosen
                continue
            steps, times, values = columns(unique_by_text(chosen))
            # In the lake NaN is behind all values of its step and time.
            order = np.lexsort((values, times, steps))
            steps, times, values = steps[order], times[order], values[order]
            curve = curve_of(steps, times, values, with_finest=True)
            level, at = curve.summaries[min(grades[part], len(curve.summaries) - 1)]
            assert curve.points <= len(unique_by_text(chosen))
            coarsest = max(coarsest, level)
            candidates += zip(
                steps[at].tolist(), times[at].tolist(), values[at].tolist(), strict=True
            )
        expected = [column[thinned(*whole, limit)].tolist() for column in whole]
        given_points = columns(unique_by_text(candidates))
        # A curve is summarized only where it has more points than a chart shows.
        if len(whole[0]) > limit:
            places = thinned(*given_points, limit, summarized=True)
            found = [column[places].tolist() for column in given_points]
            level = cut_level(*given_points[:2], limit)
            assert min(level, coarsest) <= cut_level(*whole[:2], limit)
            if level > coarsest or not coarsest:
                assert repr(found) == repr(expected)
            else:
                assert grades != [2] * 5
        assert len(expected[0]) <= limit


def unique_by_text(points: list[Found]) -> set[Found]:
    """The points without repetitions."""
    return set({repr(point): point for point in unique(points)}.values())


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.booleans(), POINTS | TIMED), min_size=1, max_size=5))
def test_a_chart_is_the_same_before_and_after_sealing_and_merging(
    batches: list[tuple[bool, list[Found]]],
) -> None:
    """The points that a chart shows follow from what was logged, not from where it is."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        sealed, plain = LakeCase(Path(folder) / "a"), LakeCase(Path(folder) / "b")
        for case in (sealed, plain):
            case.create_run("a")
        for seal, batch in batches:
            logged: list[Point] = [("loss", step, at, value) for step, at, value in batch]
            for case in (sealed, plain):
                case.log_points("a", logged)
            if seal:
                sealed.sealer.seal_all()
            assert [chart(sealed, limit) for limit in (4, 7, 10)] == [
                chart(plain, limit) for limit in (4, 7, 10)
            ]
        sealed.close()
        plain.close()


def chart(case: LakeCase, points_max: int) -> list[Answered]:
    """What a chart of the run shows."""
    with case.views.read() as connection:
        ((_, found),) = sampled(connection, case.lake, ["a"], "loss", points_max)
    return answered(found)


@pytest.mark.usefixtures("small")
def test_a_long_curve_is_read_from_its_summary(tmp_path: Path) -> None:
    """A merged curve of many pieces is summarized in each, and its chart opens no file; where the
    run is purged nothing of it is left."""
    case = LakeCase(tmp_path)
    case.create_run("a")
    for start in range(0, 300, 100):
        case.log_points("a", [("loss", step, step, step % 7) for step in range(start, start + 100)])
        case.sealer.seal_all()
    with case.views.read() as connection:
        count = len(connection.execute(segment_curves.select()).all())
    assert count >= 10
    before = chart(case, 10)
    assert [before[0][0], before[-1][0]] == [0, 299]
    for file in case.lake.folder.rglob("*.parquet"):
        file.rename(file.with_suffix(".away"))
    assert chart(case, 10) == before
    for file in case.lake.folder.rglob("*.away"):
        file.rename(file.with_suffix(".parquet"))
    case.purge_run("a")
    case.sealer.remove_purged()
    with case.views.read() as connection:
        assert connection.execute(segment_curves.select()).all() == []
    assert chart(case, 10) == []
    case.close()


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("seed", range(20))
def test_a_chart_of_many_parts_is_the_chart_of_the_whole(tmp_path: Path, seed: int) -> None:
    """Of segments of many sizes, with repetitions, and blocks: read from the summaries that will
    do, from finer ones or from the files."""
    random = np.random.default_rng(seed)
    case = LakeCase(tmp_path, SealerSettings(merge_segments=100))
    case.create_run("a")
    logged: list[Found] = []
    for part in range(int(random.integers(1, 7))):
        first = len(logged) if random.random() < 0.8 else int(random.integers(0, 60))
        count, stride = int(random.integers(2, 50)), int(random.choice([1, 1, 9, 1_000]))
        steps = first + stride * np.arange(count)
        if seed % 4 == 0:
            steps //= 40
        if part and random.random() < 0.3:
            batch = logged[-int(random.integers(6, 12)) :]
        else:
            values = random.choice([0.0, 1.0, -1.0, math.nan, 0.5, 7.0], len(steps))
            batch = list(zip(steps.tolist(), range(len(steps)), values.tolist(), strict=True))
        case.log_points("a", [("loss", *point) for point in batch])
        logged += batch
        if random.random() < 0.8:
            case.sealer.seal_all()
    whole = columns(unique_by_text(logged))
    for limit in range(4, POINTS_MAX + 1):
        at = thinned(*whole, limit)
        assert chart(case, limit) == answered(Points(whole[1], whole[0], whole[2]).at(at))
    case.close()


@pytest.mark.usefixtures("small")
def test_points_that_are_repeated_are_no_more_points(tmp_path: Path) -> None:
    """Eight points that were sent and sealed four times are eight points of a chart of nine."""
    case = LakeCase(tmp_path, SealerSettings(merge_segments=100))
    case.create_run("a")
    for _ in range(4):
        case.log_points("a", [("loss", step, step, float(step % 2)) for step in range(8)])
        case.sealer.seal_all()
    assert [step for _, step, _, _ in chart(case, 9)] == list(range(8))
    case.close()
