"""The history routes over HTTP: what they answer, what they refuse; sealing is not seen."""

import json
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.servers import Answer, Server, send

BIGGEST = 1.7976931348623157e308
PREFIXES = ("/api/2.0/mlflow", "/ajax-api/2.0/mlflow")
IPV = (400, "INVALID_PARAMETER_VALUE")


class Api:
    """Calls of one run on a real server."""

    def __init__(self, server: Server) -> None:
        self.url = server.url
        name = {"name": uuid.uuid4().hex}
        self.experiment_id = self.post("experiments/create", name)["experiment_id"]
        self.run_id = self.create_run()

    def create_run(self) -> str:
        made = self.post("runs/create", {"experiment_id": self.experiment_id})
        return str(made["run"]["info"]["run_id"])

    def post(self, path: str, body: Any) -> Any:
        headers = {"Content-Type": "application/json"}
        target = f"{PREFIXES[0]}/{path}"
        answer = send(self.url, "POST", target, json.dumps(body).encode(), headers)
        assert answer.status == 200, answer.body
        return json.loads(answer.body)

    def log(self, points: list[tuple[Any, int, int]], run_id: str | None = None) -> None:
        """(value, timestamp, step) of the metric "loss"."""
        metrics = [{"key": "loss", "value": v, "timestamp": t, "step": s} for v, t, s in points]
        self.post("runs/log-batch", {"run_id": run_id or self.run_id, "metrics": metrics})

    def get(self, path: str, prefix: str = PREFIXES[0], **query: Any) -> Answer:
        return send(self.url, "GET", f"{prefix}/metrics/{path}?{urlencode(query, doseq=True)}")

    def found(self, path: str, **query: Any) -> Any:
        answer = self.get(path, **query)
        assert answer.status == 200, answer.body
        assert answer.headers["content-type"] == "application/json"
        return json.loads(answer.body)

    def refusal(self, path: str, **query: Any) -> tuple[int, str]:
        answer = self.get(path, **query)
        return answer.status, json.loads(answer.body)["error_code"]


@pytest.fixture
def api(runfold_server: Server) -> Api:
    return Api(runfold_server)


def test_a_history_is_answered_as_mlflow_does(api: Api) -> None:
    """In order of time, step, value; NaN is text, infinities are the largest floats, no repeats."""
    api.log([(0.5, 5, 1), ("NaN", 5, 1), ("Infinity", 6, -1), ("-Infinity", 6, -1), (1, 1, 9)])
    api.log([(0.5, 5, 1), ("NaN", 5, 1)])
    answer = api.get("get-history", run_id=api.run_id, metric_key="loss")
    assert answer.body == (
        b'{"metrics":[{"key":"loss","value":1.0,"timestamp":1,"step":9},'
        b'{"key":"loss","value":"NaN","timestamp":5,"step":1},'
        b'{"key":"loss","value":0.5,"timestamp":5,"step":1},'
        b'{"key":"loss","value":-1.7976931348623157e308,"timestamp":6,"step":-1},'
        b'{"key":"loss","value":1.7976931348623157e308,"timestamp":6,"step":-1}]}'
    )


def test_nothing_is_an_empty_answer(api: Api) -> None:
    """An unknown run or key is no error: `{}` as protobuf leaves empty lists out, bulk a list."""
    for run_id, key in ((api.run_id, "other"), ("nobody", "loss")):
        assert api.found("get-history", run_id=run_id, metric_key=key) == {}
        asked = {"run_ids": run_id, "metric_key": key}
        assert api.found("get-history-bulk-interval", **asked) == {}
        bulk = api.found("get-history-bulk", run_id=run_id, metric_key=key)
        assert bulk == {"metrics": []}


def test_pages_join_to_the_whole(api: Api) -> None:
    """Following next_page_token gives each point once; the last page has no token."""
    api.log([(step / 3, 100 - step // 2, step) for step in range(25)])
    asked: dict[str, Any] = {"run_id": api.run_id, "metric_key": "loss"}
    whole = api.found("get-history", **asked)["metrics"]
    pages, token = [], None
    while True:
        more: dict[str, str] = {} if token is None else {"page_token": token}
        page = api.found("get-history", **asked, max_results=10, **more)
        pages.append(page["metrics"])
        token = page.get("next_page_token")
        if token is None:
            break
    assert [len(page) for page in pages] == [10, 10, 5]
    assert [point for page in pages for point in page] == whole
    exactly = api.found("get-history", **asked, max_results=25)
    assert exactly == {"metrics": whole}


def test_page_tokens_belong_to_their_query(api: Api) -> None:
    """A token of another run or key, a changed one, and MLflow's kind are refused."""
    api.log([(1, step, step) for step in range(5)])
    asked = {"run_id": api.run_id, "metric_key": "loss", "max_results": 2}
    token = api.found("get-history", **asked)["next_page_token"]
    assert api.refusal("get-history", **{**asked, "metric_key": "x"}, page_token=token) == IPV
    other = api.create_run()
    assert api.refusal("get-history", **{**asked, "run_id": other}, page_token=token) == IPV
    for wrong in (token[:-1] + "A" * 2, "zz", "eyJvZmZzZXQiOiAyfQ=="):
        assert api.refusal("get-history", **asked, page_token=wrong) == IPV


def test_limits_of_get_history(api: Api) -> None:
    """L-82: run and key are needed, a page has at least one point; a page size that is no whole
    number counts as not sent."""
    api.log([(1, 1, 1), (2, 2, 2)])
    asked = {"run_id": api.run_id, "metric_key": "loss"}
    for wrong in ({"metric_key": "loss"}, {"run_id": api.run_id}, {**asked, "metric_key": ""}):
        assert api.refusal("get-history", **wrong) == IPV
    for size in (0, -1, 2**31, "9" * 30):
        assert api.refusal("get-history", **asked, max_results=size) == IPV
    for size in ("abc", "1.5"):
        assert len(api.found("get-history", **asked, max_results=size)["metrics"]) == 2
    uuid_only = {"run_uuid": api.run_id, "metric_key": "loss"}
    assert len(api.found("get-history", **uuid_only)["metrics"]) == 2


@pytest.mark.parametrize("prefix", PREFIXES)
def test_bulk_answers_many_runs_in_order(api: Api, prefix: str) -> None:
    """Sorted by run, then as a history, up to the limit; a run named twice comes once."""
    runs = sorted([api.run_id, api.create_run()])
    for run_id in runs:
        api.log([(0.5, 5, 1), ("NaN", 4, 2)], run_id)
    asked = {"run_id": [*reversed(runs), runs[0]], "metric_key": "loss"}
    answer = api.get("get-history-bulk", prefix, **asked)
    expected = [
        {"key": "loss", "run_id": run_id, "step": step, "timestamp": at, "value": value}
        for run_id in runs
        for value, at, step in (("NaN", 4, 2), (0.5, 5, 1))
    ]
    assert json.loads(answer.body) == {"metrics": expected}
    for limit in (0, 1, 3, 30_000):
        found = api.found("get-history-bulk", **asked, max_results=limit)
        assert found == {"metrics": expected[:limit]}


def test_limits_of_bulk(api: Api) -> None:
    """L-83: one to a hundred runs, a key, a limit that is a number."""
    asked = {"run_id": api.run_id, "metric_key": "loss"}
    assert api.found("get-history-bulk", run_id=["x"] * 100, metric_key="loss") == {"metrics": []}
    assert api.refusal("get-history-bulk", run_id=["x"] * 101, metric_key="loss") == IPV
    assert api.refusal("get-history-bulk", metric_key="loss") == IPV
    assert api.refusal("get-history-bulk", run_id=api.run_id) == IPV
    for limit in ("abc", "1.5", "-1"):
        assert api.refusal("get-history-bulk", **asked, max_results=limit) == IPV


def test_an_interval_keeps_ends_and_extremes(api: Api) -> None:
    """Thinned to a few points in order of step, with first, last, least and greatest."""
    values = [0.0] * 200
    values[77], values[133] = 9.0, -9.0
    api.log([(value, 1_000 + step, step) for step, value in enumerate(values)])
    asked = {"run_ids": api.run_id, "metric_key": "loss"}
    found = api.found("get-history-bulk-interval", **asked, max_results=10)["metrics"]
    steps = [point["step"] for point in found]
    assert len(found) <= 10
    assert steps == sorted(steps)
    assert {0, 77, 133, 199} <= set(steps)
    assert found[0] == {
        "key": "loss",
        "value": 0.0,
        "timestamp": 1_000,
        "step": 0,
        "run_id": api.run_id,
    }
    some = api.found("get-history-bulk-interval", **asked, start_step=70, end_step=79)["metrics"]
    assert [point["step"] for point in some] == list(range(70, 80))


def test_limits_of_an_interval(api: Api) -> None:
    """L-84: one to a hundred runs, 1 to 2500 points of each, both ends of the steps or none."""
    path = "get-history-bulk-interval"
    asked = {"run_ids": api.run_id, "metric_key": "loss"}
    for limit in (0, -1, 2_501, "abc"):
        assert api.refusal(path, **asked, max_results=limit) == IPV
    for limit in (1, 2_500):
        assert api.found(path, **asked, max_results=limit) == {}
    assert api.refusal(path, run_ids=["x"] * 101, metric_key="loss") == IPV
    assert api.refusal(path, metric_key="loss") == IPV
    assert api.refusal(path, run_ids=api.run_id) == IPV
    for steps in ({"start_step": 1}, {"end_step": 1}, {"start_step": 2, "end_step": 1}):
        assert api.refusal(path, **asked, **steps) == IPV
    assert api.refusal(path, **asked, start_step="a", end_step=1) == IPV
    assert api.found(path, **asked, start_step=-(2**63), end_step=2**63 - 1) == {}


def test_a_large_history_is_sent_while_it_is_made(api: Api) -> None:
    """More points than fit one answer in memory come whole, in order."""
    count = 101_000
    for start in range(0, count, 1_000):
        api.log([(step / 7, step, step) for step in range(start, start + 1_000)])
    answer = api.get("get-history", run_id=api.run_id, metric_key="loss")
    assert "content-length" not in answer.headers
    found = json.loads(answer.body)["metrics"]
    assert [point["step"] for point in found] == list(range(count))
    assert found[700]["value"] == 100.0


def test_sealing_is_not_seen(tmp_path: Path, start_runfold: Callable[..., Server]) -> None:
    """While a worker seals and merges all the time, each read has every point logged before it."""
    server = start_runfold(tmp_path / "home", "--seal-points", "200")
    api = Api(server)
    lake = tmp_path / "home" / "lake"
    logged = 0
    until = time.monotonic() + 60
    while (
        not (sealed := sorted(lake.glob(".segments/experiment_id=*/metrics/*"))) or logged < 4_000
    ):
        assert time.monotonic() < until, "the worker has sealed nothing"
        api.log([(step / 7, step, step) for step in range(logged, logged + 100)])
        logged += 100
        found = api.found("get-history", run_id=api.run_id, metric_key="loss")["metrics"]
        assert [point["step"] for point in found] == list(range(logged))
    assert sealed
    server.stop()
    again = start_runfold(tmp_path / "home")
    api.url = again.url
    found = api.found("get-history", run_id=api.run_id, metric_key="loss")["metrics"]
    assert [point["value"] for point in found] == [step / 7 for step in range(logged)]


def test_a_missing_segment_is_503(tmp_path: Path, start_runfold: Callable[..., Server]) -> None:
    """Where somebody deleted a file of the lake the answer says so, it is never short of points."""
    server = start_runfold(tmp_path / "home", "--seal-points", "1")
    api = Api(server)
    api.log([(1, 1, 1)])
    lake = tmp_path / "home" / "lake"
    until = time.monotonic() + 60
    while not list(lake.glob(".segments/experiment_id=*/metrics/*.parquet")):
        assert time.monotonic() < until, "the worker has sealed nothing"
        time.sleep(0.05)
    asked = {"run_id": api.run_id, "metric_key": "loss"}
    while (answer := api.get("get-history", **asked)).status == 200:
        # The file is there a moment before it is part of the views; without it then, the worker
        # writes another one later.
        assert time.monotonic() < until
        time.sleep(1)
        for file in lake.glob(".segments/experiment_id=*/metrics/*.parquet"):
            file.unlink()
    assert answer.status == 503
    assert b"rebuild" in answer.body
