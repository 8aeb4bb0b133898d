"""Every read of the REST API over all that a server holds, as the bytes that it answered."""

import json
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.servers import send

API = "/api/2.0/mlflow"
AJAX = "/ajax-api/2.0/mlflow"
PAGE = 3
STEPS = (0, 50)


@dataclass(frozen=True)
class Read:
    """One request that only reads."""

    method: str
    target: str
    body: str = ""


class Reader:
    """Asks one server and keeps each answer by its request."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.answers: dict[Read, bytes] = {}

    def get(self, path: str, *query: tuple[str, object]) -> Any:
        return self._ask(Read("GET", f"{path}?{urllib.parse.urlencode(query)}"))

    def post(self, path: str, body: dict[str, Any]) -> Any:
        return self._ask(Read("POST", path, json.dumps(body)))

    def _ask(self, read: Read) -> Any:
        headers = {"Content-Type": "application/json"} if read.method == "POST" else {}
        body = read.body.encode() if read.method == "POST" else None
        answer = send(self._url, read.method, read.target, body, headers)
        assert answer.status == 200, f"{read} gave {answer.status} {answer.body[:300]!r}"
        self.answers[read] = answer.body
        return answer.json()

    def pages(self, path: str, body: dict[str, Any], name: str) -> list[Any]:
        """All pages of a search."""
        found: list[Any] = []
        token = None
        while True:
            page = self.post(path, body if token is None else {**body, "page_token": token})
            found += page.get(name, [])
            token = page.get("next_page_token")
            if token is None:
                return found


def read_everything(url: str) -> dict[Read, bytes]:
    """Experiments, runs, histories, data sets, logged models, artifacts: asked in every way."""
    reader = Reader(url)
    experiments = _experiments(reader)
    runs = _runs(reader, experiments)
    for run in runs:
        _run(reader, run)
    for experiment in experiments:
        in_it = [run["info"]["run_id"] for run in runs if _experiment_of(run) == experiment]
        keys = {metric["key"] for run in runs for metric in run["data"].get("metrics", [])}
        for key in sorted(keys) if in_it else []:
            ids = [("run_id", run_id) for run_id in in_it]
            reader.get(f"{AJAX}/metrics/get-history-bulk", *ids, ("metric_key", key))
            ids = [("run_ids", run_id) for run_id in in_it]
            reader.get(f"{AJAX}/metrics/get-history-bulk-interval", *ids, ("metric_key", key))
    _models(reader, experiments)
    return reader.answers


def _experiment_of(run: Any) -> str:
    return str(run["info"]["experiment_id"])


def _experiments(reader: Reader) -> list[str]:
    body = {"view_type": "ALL", "max_results": 1000}
    found = reader.pages(f"{API}/experiments/search", body, "experiments")
    assert found == reader.pages(
        f"{API}/experiments/search", {**body, "max_results": PAGE}, "experiments"
    )
    for view in ("ACTIVE_ONLY", "DELETED_ONLY"):
        reader.post(f"{API}/experiments/search", {"view_type": view, "max_results": 1000})
    for experiment in found:
        reader.get(f"{API}/experiments/get", ("experiment_id", experiment["experiment_id"]))
        reader.get(f"{API}/experiments/get-by-name", ("experiment_name", experiment["name"]))
    ids = [str(experiment["experiment_id"]) for experiment in found]
    for start in range(0, len(ids), 20):
        reader.post(
            f"{AJAX}/experiments/search-datasets", {"experiment_ids": ids[start : start + 20]}
        )
    return ids


def _runs(reader: Reader, experiments: list[str]) -> list[Any]:
    body: dict[str, Any] = {"experiment_ids": experiments, "run_view_type": "ALL"}
    found = reader.pages(f"{API}/runs/search", body, "runs")
    assert found == reader.pages(f"{API}/runs/search", {**body, "max_results": PAGE}, "runs")
    for order in ("metrics.loss DESC", "params.C", "attributes.end_time DESC", "run_name"):
        reader.post(f"{API}/runs/search", {**body, "order_by": [order]})
    for text in (
        "metrics.accuracy > 0.5",
        "params.p1 = '1'",
        "tags.level LIKE '%'",
        "dataset.name = 'iris'",
        "status = 'FAILED'",
    ):
        reader.post(f"{API}/runs/search", {**body, "filter": text})
    return found


def _run(reader: Reader, run: Any) -> None:
    run_id = run["info"]["run_id"]
    reader.get(f"{API}/runs/get", ("run_id", run_id))
    for metric in run["data"].get("metrics", []):
        named = (("run_id", run_id), ("metric_key", metric["key"]))
        points = reader.get(f"{API}/metrics/get-history", *named)["metrics"]
        first = reader.get(f"{API}/metrics/get-history", *named, ("max_results", PAGE))
        assert first["metrics"] == points[:PAGE]
        interval = (("run_ids", run_id), ("metric_key", metric["key"]), ("max_results", 7))
        reader.get(f"{AJAX}/metrics/get-history-bulk-interval", *interval)
        ends = (("start_step", STEPS[0]), ("end_step", STEPS[1]))
        reader.get(f"{AJAX}/metrics/get-history-bulk-interval", *interval, *ends)
    for path in _files(reader, f"{API}/artifacts/list", ("run_id", run_id), "path"):
        _keep(reader, f"/get-artifact?run_id={run_id}&path={urllib.parse.quote(path)}")


def _files(
    reader: Reader, target: str, owner: tuple[str, str] | None, field: str, path: str = ""
) -> Iterator[str]:
    query: list[tuple[str, object]] = [owner] if owner else []
    listing = reader.get(target, *query, *([(field, path)] if path else []))
    for file in listing.get("files", []):
        if file["is_dir"]:
            yield from _files(reader, target, owner, field, file["path"])
        else:
            yield file["path"]


def _keep(reader: Reader, target: str) -> None:
    answer = send(reader._url, "GET", target)
    assert answer.status == 200, target
    reader.answers[Read("GET", target)] = answer.body


def _models(reader: Reader, experiments: list[str]) -> None:
    search = f"{API}/logged-models/search"
    found = reader.pages(search, {"experiment_ids": experiments}, "models")
    assert found == reader.pages(
        search, {"experiment_ids": experiments, "max_results": PAGE}, "models"
    )
    for order in ("name", "metrics.accuracy"):
        reader.post(search, {"experiment_ids": experiments, "order_by": [{"field_name": order}]})
    reader.post(search, {"experiment_ids": experiments, "filter": "params.C = '0.1'"})
    for model in found:
        target = f"{API}/logged-models/{model['info']['model_id']}"
        reader.get(target)
        for _ in _files(reader, f"{target}/artifacts/directories", None, "artifact_directory_path"):
            pass
