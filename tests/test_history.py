"""Histories from blocks and segments: the same set of points however they are stored."""

import math
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from events.codec import Series, make_block
from events.metrics import POINTS_LOGGED
from projections.history import bulk_history, metric_history, run_points, sampled
from projections.thinning import thinned
from tests.lake_cases import LakeCase, Point, answered, as_answered

EXTREMES = [-(2**63), -(2**63) + 1, -1, 0, 1, 2, 2**53 + 1, 2**63 - 1]
STEPS = st.sampled_from(EXTREMES) | st.integers(-3, 3) | st.integers(-(2**63), 2**63 - 1)
TIMES = st.sampled_from([value for value in EXTREMES if value >= 0]) | st.integers(0, 3)
VALUES = st.sampled_from(
    [0.0, -0.0, 1.0, math.nan, math.inf, -math.inf, sys.float_info.max, 5e-324, 0.1]
) | st.floats(width=64)
POINTS = st.lists(st.tuples(st.sampled_from(["loss", "é/x y"]), STEPS, TIMES, VALUES), max_size=8)
OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["log", "log", "seal", "round"]), st.integers(0, 1), POINTS),
    max_size=12,
)


@pytest.fixture
def case(tmp_path: Path) -> Iterator[LakeCase]:
    made = LakeCase(tmp_path / "views [*?] 'x' {a,b} é")
    for run_id in ("a", "b", "c"):
        made.create_run(run_id)
    yield made
    made.close()


@settings(max_examples=20, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(OPERATIONS)
def test_a_history_is_the_set_of_its_points(operations: list[tuple[str, int, list[Point]]]) -> None:
    """Before sealing, after it, after merges: the points that were logged, each once, in order."""
    with tempfile.TemporaryDirectory() as folder:
        case = LakeCase(Path(folder))
        logged: dict[str, list[Point]] = {"a": [], "b": []}
        for run_id in logged:
            case.create_run(run_id)
        for operation, place, points in operations:
            run_id = "ab"[place]
            if operation == "log":
                case.log_points(run_id, points)
                logged[run_id] += points
            elif operation == "seal":
                case.sealer.seal_all()
            else:
                case.sealer.round()
            for key in ("loss", "é/x y"):
                expected = as_answered(logged[run_id], key)
                assert case.history(run_id, key) == expected
                assert case.pages(run_id, key, 3) == expected
        case.close()


def test_values_are_answered_as_mlflow_keeps_them(case: LakeCase) -> None:
    """NaN stays, the infinities are the largest floats, zero has no sign; sealed or not."""
    given_values = [math.nan, math.inf, -math.inf, -0.0, sys.float_info.max]
    case.log_points("a", [("loss", 1, 5, value) for value in given_values])
    for _ in range(2):
        with case.views.read() as connection:
            points, _more = metric_history(connection, case.lake, "a", "loss")
        assert repr(points.values.tolist()) == (
            "[-1.7976931348623157e+308, 0.0, nan, 1.7976931348623157e+308]"
        )
        case.sealer.seal_all()


def test_the_true_values_are_kept_in_the_lake(case: LakeCase) -> None:
    """What was logged as infinity or NaN is that in the segment, not what MLflow makes of it."""
    case.log_points("a", [("loss", 1, 5, value) for value in (math.nan, math.inf, -math.inf)])
    case.sealer.seal_all()
    with case.views.read() as connection:
        found = [block.values.tolist() for block in run_points(connection, case.lake, "a")]
    assert repr(found) == "[[-inf, inf, nan]]"


def test_run_points_tell_the_series(case: LakeCase) -> None:
    """All points of a run come back with their model and dataset, from blocks and segments."""
    plain, measured = Series("loss"), Series("loss", "m-1", "train", "d1")
    block = make_block([(plain, 1, 2, 0.5), (measured, 1, 2, 0.5)])
    case.log.append([POINTS_LOGGED.new("a", block, time=1)])
    case.projector.catch_up()
    for _ in range(2):
        with case.views.read() as connection:
            (found,) = run_points(connection, case.lake, "a")
        assert sorted(found.series, key=str) == sorted([plain, measured], key=str)
        assert [found.series[place] for place in found.index.tolist()] != []
        assert len(found) == 2
        case.sealer.seal_all()
    assert len(case.history("a", "loss")) == 1


def test_bulk_takes_runs_in_order_up_to_the_limit(case: LakeCase) -> None:
    """Sorted by run, then as a history; a run that is named twice is answered once."""
    for run_id in ("b", "a"):
        case.log_points(run_id, [("loss", step, 10 - step, step / 2) for step in range(4)])
    case.sealer.seal_all()
    case.log_points("a", [("loss", 9, 9, 9.0), ("other", 1, 1, 1.0)])
    with case.views.read() as connection:
        found = bulk_history(connection, case.lake, ["b", "a", "zz", "b"], "loss", 7)
        none = bulk_history(connection, case.lake, ["b", "a"], "loss", 0)
    assert [(run_id, len(points)) for run_id, points in found] == [("a", 5), ("b", 2), ("zz", 0)]
    assert found[0][1].timestamps.tolist() == [7, 8, 9, 9, 10]
    assert none == []


def test_an_interval_takes_both_ends(case: LakeCase) -> None:
    """Steps are bounded, both ends included, from blocks and segments; runs come as asked for."""
    case.log_points("a", [("loss", step, 100 - step, 1.0) for step in range(0, 20, 2)])
    case.sealer.seal_all()
    case.log_points("a", [("loss", step, 100 - step, 1.0) for step in range(1, 20, 2)])
    with case.views.read() as connection:
        found = sampled(connection, case.lake, ["b", "a", "a"], "loss", 100, (3, 6))
    assert [run_id for run_id, _ in found] == ["b", "a", "a"]
    assert [points.steps.tolist() for _, points in found] == [[], [3, 4, 5, 6], [3, 4, 5, 6]]


def test_all_points_come_where_there_are_not_too_many(case: LakeCase) -> None:
    """Without thinning an interval is the whole history, in order of step, time, value."""
    points = [("loss", 1, 5, 2.0), ("loss", 1, 5, math.nan), ("loss", 1, 4, 3.0)]
    points += [("loss", -1, 9, 1.0), ("loss", 1, 5, -2.0)]
    case.log_points("a", points)
    with case.views.read() as connection:
        ((_, found),) = sampled(connection, case.lake, ["a"], "loss", 5)
    by_step = [(1, 4, 3.0, False), (1, 5, -2.0, False), (1, 5, 0.0, True), (1, 5, 2.0, False)]
    assert [(s, t, v, n) for t, s, v, n in answered(found)] == [(-1, 9, 1.0, False), *by_step]


@settings(max_examples=200, deadline=None)
@given(st.lists(VALUES, min_size=1, max_size=60), st.lists(STEPS, min_size=60), st.integers(1, 30))
def test_thinning_keeps_the_ends_and_the_extremes(
    given_values: list[float], given_steps: list[int], limit: int
) -> None:
    """At most the limit, in order, the last always; from four on first, least and greatest too."""
    values = np.clip(np.array(given_values), -sys.float_info.max, sys.float_info.max)
    steps = np.sort(np.array(given_steps[: len(values)], np.int64))
    places = thinned(steps, np.arange(len(values)), values, limit)
    assert len(places) <= limit
    assert places.tolist() == sorted(set(places.tolist()))
    assert places[-1] == len(values) - 1
    if limit >= 2:
        assert places[0] == 0
    numbers = values[~np.isnan(values)]
    if limit >= 4 and len(numbers):
        chosen = values[places]
        chosen = chosen[~np.isnan(chosen)]
        assert (chosen.min(), chosen.max()) == (numbers.min(), numbers.max())
    if len(values) <= limit:
        assert len(places) == len(values)


def test_a_narrow_peak_survives_thinning() -> None:
    """One point among a million that stands out is in the choice, at the default of a chart."""
    values = np.zeros(1_000_000)
    values[[123_456, 777_777]] = (5.0, -3.0)
    places = thinned(np.arange(1_000_000), np.zeros(1_000_000, np.int64), values, 2_500)
    assert {123_456, 777_777} <= set(places.tolist())
    assert 1_200 <= len(places) <= 2_500


def test_pages_stay_stable_while_points_are_added(case: LakeCase) -> None:
    """A page goes on behind the last point that was answered, whatever came before it meanwhile."""
    case.log_points("a", [("loss", step, 10 * step, 1.0) for step in range(6)])
    with case.views.read() as connection:
        _, after = metric_history(connection, case.lake, "a", "loss", 3)
    case.log_points("a", [("loss", 99, 0, 1.0), ("loss", 99, 20, 1.0), ("loss", 98, 25, 1.0)])
    with case.views.read() as connection:
        points, _ = metric_history(connection, case.lake, "a", "loss", 9, after)
    assert points.timestamps.tolist() == [20, 25, 30, 40, 50]


def test_unknown_runs_and_keys_have_no_points(case: LakeCase) -> None:
    """As in MLflow: nothing is found, which is no error."""
    case.log_points("a", [("loss", 1, 1, 1.0)])
    case.sealer.seal_all()
    assert case.history("nobody", "loss") == []
    assert case.history("a", "other") == []
