"""The pure parts of the benchmark: ratios, verdicts, the table, the charts, what is sent. Nothing
here is timed."""

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from infra.benchmarks import report
from infra.benchmarks.bodies import Shape, Stream, Template, latest_of, log_batch
from infra.benchmarks.cases.catalog import CASES
from infra.benchmarks.charts import CHARTS, GAP, MARGIN, WIDTH, Bar, Panel, charts, draw
from infra.benchmarks.checks import wrong_latest, wrong_statuses
from infra.benchmarks.curves import training
from infra.benchmarks.load import Outcome
from infra.benchmarks.peers import VERSIONS, without_hashes
from infra.benchmarks.results import (
    Results,
    number_text,
    percentile,
    problems_of,
    row_met,
    times_as_good,
    times_text,
    verdicts,
)
from infra.benchmarks.rows import (
    FASTTRACKML,
    MLFLOW,
    REFERENCE_RATES,
    ROWS,
    RUNFOLD,
    YARDSTICK,
    Against,
    Limit,
    Row,
)
from infra.benchmarks.run_data import QUERY, RunData, batch_body

ROOT = Path(__file__).resolve().parent.parent
ROW = {row.name: row for row in ROWS}
OF_CASE = {case.name: case.rows for case in CASES}


def results(**values: dict[str, float]) -> Results:
    """Results with one value a server; underscores in the rows' names stand for hyphens."""
    made = Results()
    for row, by_server in values.items():
        for server, value in by_server.items():
            made.record(row.replace("_", "-"), server, value)
    return made


def head() -> report.Head:
    settings = {"seconds": 5.0, "scale": 1.0}
    return report.Head("infra/scripts/benchmark", {"date": "today"}, {"x": "1"}, settings, OF_CASE)


def body_of(request: bytes | bytearray) -> dict[str, object]:
    """The JSON of a request, after its length was compared with what its head says."""
    top, _, body = bytes(request).partition(b"\r\n\r\n")
    found = re.search(rb"Content-Length: (\d+)", top)
    assert found is not None
    assert int(found[1]) == len(body)
    document: dict[str, object] = json.loads(body)
    return document


@pytest.mark.parametrize(
    ("values", "share", "wanted"),
    [
        ([], 0.99, 0.0),
        ([3.0], 0.99, 3.0),
        ([5.0, 1.0, 4.0, 2.0, 3.0], 0.5, 3.0),
        (list(range(1000)), 0.99, 990),
        (list(range(10)), 0.99, 9),
    ],
)
def test_percentile(values: list[float], share: float, wanted: float) -> None:
    """A percentile is one of the values; of few, the greatest."""
    assert percentile(values, share) == wanted


def test_more_times_as_good_is_better_for_rates_and_times() -> None:
    """A rate that is twice as high and a time that is half as long are both twice as good."""
    more, less = (
        Row("r", "g", "t", "calls/s", "more"),
        Row("r", "g", "t", "ms", "less"),
    )
    assert times_as_good(more, 200, 100) == 2
    assert times_as_good(less, 50, 100) == 2
    assert times_as_good(less, 0, 0) == 1
    assert times_as_good(less, 0, 5) == float("inf")


def test_the_median_of_the_repetitions_counts() -> None:
    """One slow repetition changes nothing."""
    made = Results()
    for value in (100.0, 3.0, 110.0):
        made.record("runs", RUNFOLD, value)
    assert made.median("runs", RUNFOLD) == 100
    assert made.median("runs", MLFLOW) is None


@pytest.mark.parametrize(
    ("runfold", "met"),
    [(350.0, True), (249.0, False), (340.0, False)],
)
def test_a_row_is_met_when_all_of_its_targets_are(runfold: float, met: bool) -> None:
    """Each of the three ratios of the first row must be reached."""
    made = results(
        log_batch={RUNFOLD: runfold, MLFLOW: 10, FASTTRACKML: 25, YARDSTICK: 1000},
    )
    assert row_met(made, ROW["log-batch"]) is met


def test_a_row_can_t_be_met_while_a_server_is_not_measured() -> None:
    """Without a peer's value there is no verdict, but a target that was missed stays missed."""
    row = ROW["log-batch"]
    assert row_met(results(log_batch={RUNFOLD: 1000, MLFLOW: 10, YARDSTICK: 1000}), row) is None
    assert row_met(results(log_batch={RUNFOLD: 100, MLFLOW: 10, YARDSTICK: 1000}), row) is False


def test_wrong_answers_miss_every_target() -> None:
    """A server that is fast and wrong has reached nothing."""
    made = results(one_run_5xx={RUNFOLD: 0})
    assert row_met(made, ROW["one-run-5xx"]) is True
    made.problem("one-run", RUNFOLD, "3 points are lost")
    problems = problems_of(made, OF_CASE, "one-run-5xx")
    assert problems == ["3 points are lost"]
    assert row_met(made, ROW["one-run-5xx"], problems) is False
    assert problems_of(made, OF_CASE, "log-batch") == []


def test_absolute_times_and_rates_scale_with_the_machine() -> None:
    """On a machine of half the speed a time may be twice as long, and memory no greater."""
    half = {name.replace("-", "_"): {YARDSTICK: rate / 2} for name, rate in REFERENCE_RATES.items()}
    made = results(**half, page={RUNFOLD: 0.69}, load_memory={RUNFOLD: 501})
    assert made.machine_factor() == pytest.approx(0.5)
    (page,) = verdicts(made, ROW["page"])
    assert (page.wanted, page.met) == ("≤ 0.7 s", True)
    assert row_met(made, ROW["load-memory"]) is False
    made.record("rebuild-points", RUNFOLD, 250_001)
    assert row_met(made, ROW["rebuild-points"]) is True


def test_without_the_yardstick_nothing_scaled_is_judged() -> None:
    """What can't be scaled is left open rather than guessed."""
    made = results(page={RUNFOLD: 0.01})
    assert made.machine_factor() is None
    assert row_met(made, ROW["page"]) is None


def test_searches_over_many_runs_are_judged_by_those_over_few() -> None:
    """Three times as long as over 5,000 runs is allowed, and not more."""
    made = results(search_newest={RUNFOLD: 4}, search_100k_newest={RUNFOLD: 11.9})
    (verdict,) = verdicts(made, ROW["search-100k-newest"])
    assert verdict.met is True
    assert verdict.wanted == "≤ 3 × itself over 5,000 runs"
    made = results(search_newest={RUNFOLD: 4}, search_100k_newest={RUNFOLD: 12.1})
    assert row_met(made, ROW["search-100k-newest"]) is False


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (1234567.8, "1,234,568"), (99.94, "99.9"), (0.0123, "0.0123")]
)
def test_numbers_are_short(value: float, text: str) -> None:
    """About three digits, thousands parted."""
    assert number_text(value) == text


def test_ratios_are_short() -> None:
    """Two digits, or whole numbers from twenty on."""
    assert [times_text(value) for value in (0.3512, 9.96, 61.4, float("inf"))] == [
        "0.35 ×",
        "10 ×",
        "61 ×",
        "∞ ×",
    ]


def test_the_table_has_a_line_for_each_measured_row() -> None:
    """Lines have as many cells as the head, and stand under their group."""
    made = results(
        log_batch={RUNFOLD: 350_000, MLFLOW: 10_000, FASTTRACKML: 25_000, YARDSTICK: 1_000_000},
        page={RUNFOLD: 0.1},
    )
    page = report.markdown(made, head(), ["logging.svg"])
    lines = [line for line in page.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    assert (
        "| 35 × | 14 × | 0.35 × | 25 × MLflow; 10 × FastTrackML; 0.35 × yardstick | yes |" in page
    )
    assert page.index("## Logging") < page.index("## Searching and reading")
    assert "2 of 2 rows are at or past" in page


def test_the_table_names_wrong_answers_and_notes() -> None:
    """Nothing that is wrong stays out of the page."""
    made = results(page={RUNFOLD: 0.1, MLFLOW: 5})
    made.problem("runs", MLFLOW, "paging gave 4,999 runs of 5,000")
    made.note("page", MLFLOW, "over 5,000 runs")
    page = report.markdown(made, head(), [])
    assert "- case `runs`, MLflow: paging gave 4,999 runs of 5,000" in page
    assert "- page through 5,000 runs, 1,000 a page, MLflow: over 5,000 runs." in page


def test_the_json_has_all_values(tmp_path: Path) -> None:
    """results.json has each repetition, the medians, the ratios and the verdicts."""
    made = results(log_metric={RUNFOLD: 6_000, MLFLOW: 150, FASTTRACKML: 2_000, YARDSTICK: 12_000})
    made.record("log-metric", RUNFOLD, 8_000)
    report.write(made, head(), tmp_path)
    document = json.loads((tmp_path / "results.json").read_text())
    row = document["rows"]["log-metric"]
    assert row["values"]["runfold"] == [6_000, 8_000]
    assert row["medians"]["runfold"] == 7_000
    assert row["times_as_good_as"]["fasttrackml"] == 3.5
    assert row["met"] is True
    assert {path.name for path in tmp_path.iterdir()} == {
        "results.json",
        "results.md",
        "logging.svg",
    }


def test_charts_are_svg_that_says_its_values() -> None:
    """Each chart parses, has a bar a server and its values in words for those who can't see it."""
    panel = Panel("log <batch>", "points/s", "more", [Bar(MLFLOW, 10_000), Bar(RUNFOLD, 400_000)])
    text = draw("Logging & more", [panel, panel, panel])
    root = ET.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    bars = [bar for bar in root.iter("{http://www.w3.org/2000/svg}rect")][1:]
    assert len(bars) == 6
    widths = [float(bar.attrib["width"]) for bar in bars[:2]]
    assert widths[0] == pytest.approx(widths[1] / 40, abs=0.1)
    assert "MLflow 10,000, Runfold 400,000" in text
    assert "prefers-color-scheme: dark" in text


def test_charts_stay_within_their_paper() -> None:
    """No bar reaches past the right edge, with its value behind it."""
    panel = Panel("t", "ms", "less", [Bar(MLFLOW, 1e-9), Bar(RUNFOLD, 5e7)])
    root = ET.fromstring(draw("t", [panel, panel]))
    width = float(root.attrib["viewBox"].split()[2])
    for bar in root.iter("{http://www.w3.org/2000/svg}rect"):
        right = float(bar.attrib.get("x", "0")) + float(bar.attrib["width"])
        assert right <= width


def test_titles_of_panels_fit_their_width() -> None:
    """A panel's title and unit end before the next panel begins."""
    room = (WIDTH - 2 * MARGIN - GAP) / 2
    for chart in CHARTS:
        for name, title in chart.rows.items():
            note = f"{ROW[name].unit}, {ROW[name].better} is better"
            # The widths of an average letter at 14 px bold and at 12 px.
            assert 8.2 * len(title) + 8 + 6.6 * len(note) <= room, title


def test_only_what_was_measured_is_drawn() -> None:
    """No chart without values; and every row that a chart names exists."""
    assert list(charts(results(idle={RUNFOLD: 200}))) == ["weight.svg"]
    assert charts(Results()) == {}
    assert {name for chart in CHARTS for name in chart.rows} <= set(ROW)


def test_each_row_is_filled_by_a_case() -> None:
    """The rows and the cases name each other, and the targets name rows that exist."""
    assert {name for case in CASES for name in case.rows} == set(ROW)
    for row in ROWS:
        for target in row.targets:
            assert isinstance(target, Limit) or (target.row or row.name) in ROW


def test_every_target_compares_like_with_like() -> None:
    """A row is set against another only where both have the same unit."""
    for row in ROWS:
        for target in row.targets:
            if isinstance(target, Against) and target.row is not None:
                assert ROW[target.row].unit == row.unit


def test_the_page_describes_each_case() -> None:
    """docs/benchmarks/README.md says what each case is."""
    text = (ROOT / "docs" / "benchmarks" / "README.md").read_text("utf-8")
    missing = [case.name for case in CASES if f"`{case.name}`" not in text]
    assert not missing, f"describe these cases in docs/benchmarks/README.md: {missing}"


def points_of(request: bytearray) -> Iterator[tuple[object, ...]]:
    body = body_of(request)
    metrics = body["metrics"]
    assert isinstance(metrics, list)
    for point in metrics:
        yield (point["key"], point["step"], point["timestamp"], point["value"])


def test_no_point_is_sent_twice() -> None:
    """Rounds over the same bodies, and other connections to the same run, give other points."""
    shape = Shape(points=40, keys=20, batches=3)
    streams = [Stream("a" * 32, place, shape) for place in (0, 63)]
    seen = {point for stream in streams for _ in range(25) for point in points_of(stream(b""))}
    assert len(seen) == 2 * 25 * 40
    assert [stream.points_sent for stream in streams] == [1_000, 1_000]


def test_the_latest_values_of_a_stream_are_known() -> None:
    """They are those of the greatest step among all that was sent, over all connections."""
    shape = Shape(points=40, keys=20, batches=3)
    streams = [Stream("a" * 32, place, shape) for place in range(3)]
    last: dict[object, tuple[int, float]] = {}
    for count, stream in zip((4, 11, 0), streams, strict=True):
        for _ in range(count):
            for key, step, _time, value in points_of(stream(b"")):
                assert isinstance(step, int)
                assert isinstance(value, float)
                last[key] = max((step, value), last.get(key, (step, value)))
    assert latest_of(streams) == last


def test_a_single_point_is_a_call_of_log_metric() -> None:
    """One point a request goes to log-metric, with a body of its own."""
    request = Stream("b" * 32, 0, Shape(points=1, keys=1, batches=2))(b"")
    assert request.startswith(b"POST /api/2.0/mlflow/runs/log-metric HTTP/1.1\r\n")
    assert set(body_of(request)) == {"run_id", "key", "value", "timestamp", "step"}


def test_a_template_changes_only_its_marks() -> None:
    """The digits of the round stand where the marks were, and nothing else moves."""
    template = Template(b"a@@@@b@@@@c")
    assert bytes(template.at(7)) == b"a0007b0007c"
    assert bytes(template.at(1234)) == b"a1234b1234c"
    assert bytes(template.at(1234)) == b"a1234b1234c"


def test_a_fixture_s_batch_holds_its_points() -> None:
    """What is logged for the history and disk cases is what `training` gave."""
    points = training(3, 10, 4)
    (first, *_) = points.parts(8)
    sent = list(points_of(bytearray(log_batch("c" * 32, first))))
    assert len(sent) == 8
    assert sent[0] == (points.keys[0], 0, int(points.timestamps[0]), float(points.values[0]))


def test_curves_are_in_float32_precision() -> None:
    """Curves lose nothing as float32; random values do."""
    curves, random = training(1, 50, 2).values, training(1, 50, 2, "random").values
    assert np.array_equal(curves, curves.astype(np.float32))
    assert not np.array_equal(random, random.astype(np.float32))


def test_each_search_finds_something_but_not_all() -> None:
    """A filter that finds nothing, or everything, would measure something else."""
    for name, query in QUERY.items():
        found = query.expected(600)
        assert 0 < len(found) <= 100, name
        assert len(found) == len(set(found))
        if query.filter:
            assert not all(map(query.matches, map(RunData, range(600)))), name


def test_a_run_has_what_the_issue_of_speed_names() -> None:
    """Ten params, ten metrics, three tags."""
    body = batch_body(RunData(7), "d" * 32)
    assert [len(body[part]) for part in ("params", "metrics", "tags")] == [10, 10, 3]


def test_wrong_latest_values_are_told() -> None:
    """A value that differs, is missing or is too many is named."""
    wanted = {"a": (3, 0.5), "b": (3, 0.25)}
    assert not list(wrong_latest(dict(wanted), wanted))
    assert list(wrong_latest({"a": (3, 0.5), "b": (2, 0.25)}, wanted))
    assert list(wrong_latest({"a": (3, 0.5)}, wanted))
    assert list(wrong_latest({**wanted, "c": (1, 1.0)}, wanted))


def test_answers_other_than_200_are_told() -> None:
    """With how many there were and what one said."""
    assert not list(wrong_statuses(Outcome(statuses={200: 5})))
    (text,) = wrong_statuses(Outcome(statuses={200: 5, 503: 2}, last_body=b"busy"))
    assert "2 of 7" in text
    assert "busy" in text


def test_peers_are_pinned() -> None:
    """MLflow is the one that the tests use, with the libraries of their lock."""
    lock = without_hashes((ROOT / "infra" / "locks" / "test.txt").read_text())
    assert f"mlflow=={VERSIONS[MLFLOW]}" in lock.splitlines()
    assert "--hash" not in lock
