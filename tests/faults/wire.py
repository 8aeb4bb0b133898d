"""One kept-alive connection to a server: JSON in, JSON out, and plain exceptions when it breaks."""

import http.client
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

API = "/api/2.0/mlflow/"


@dataclass(frozen=True)
class Reply:
    """A status and what the body said."""

    status: int
    data: Any

    @property
    def code(self) -> str:
        """MLflow's error code; empty for a success."""
        return str(self.data.get("error_code", "")) if isinstance(self.data, dict) else ""


class Wire:
    """Calls one server over one connection, which is opened again after it broke."""

    def __init__(self, url: str, timeout_s: float = 60.0) -> None:
        host, _, port = url.removeprefix("http://").partition(":")
        self._connection = http.client.HTTPConnection(host, int(port), timeout=timeout_s)

    def post(self, path: str, body: object, method: str = "POST") -> Reply:
        """Sends a JSON body. Raises OSError or HTTPException when no answer came."""
        headers = {"Content-Type": "application/json"}
        return self._call(method, API + path, json.dumps(body).encode(), headers)

    def get(self, path: str, **query: object) -> Reply:
        """Reads. Raises OSError or HTTPException when no answer came."""
        return self._call("GET", f"{API}{path}?{urlencode(query)}", None, {})

    def close(self) -> None:
        self._connection.close()

    def _call(self, method: str, target: str, body: bytes | None, headers: dict[str, str]) -> Reply:
        try:
            self._connection.request(method, target, body, headers)
            response = self._connection.getresponse()
            return Reply(response.status, json.loads(response.read()))
        except (OSError, http.client.HTTPException):
            self._connection.close()
            raise

    def done(self, path: str, body: object) -> Any:
        """What a call answers that has to succeed."""
        reply = self.post(path, body)
        assert reply.status == 200, reply
        return reply.data

    def experiment(self, name: str) -> str:
        """Makes an experiment and tells its id."""
        return str(self.done("experiments/create", {"name": name})["experiment_id"])

    def run(self, experiment_id: str, name: str) -> str:
        """Makes a run and tells its id."""
        made = self.done("runs/create", {"experiment_id": experiment_id, "run_name": name})
        return str(made["run"]["info"]["run_id"])

    def run_data(self, run_id: str) -> dict[str, dict[str, Any]]:
        """A run's params, tags and latest metrics, each as key to value."""
        data = self.get("runs/get", run_id=run_id).data["run"]["data"]
        return {
            part: {item["key"]: item["value"] for item in data.get(part, [])}
            for part in ("params", "tags", "metrics")
        }

    def history(self, run_id: str, key: str) -> list[tuple[int, float]]:
        """Every point of one metric, as (step, value), over all pages."""
        points: list[tuple[int, float]] = []
        token = ""
        while True:
            query = {"run_id": run_id, "metric_key": key, "max_results": 5_000}
            page = self.get("metrics/get-history", **query, page_token=token).data
            points += [(int(point["step"]), point["value"]) for point in page.get("metrics", [])]
            token = page.get("next_page_token", "")
            if not token:
                return points

    def runs(self, experiment_id: str) -> Iterator[Any]:
        """Every active run of an experiment, over all pages."""
        token = ""
        while True:
            body = {"experiment_ids": [experiment_id], "max_results": 500, "page_token": token}
            page = self.done("runs/search", body)
            yield from page.get("runs", [])
            token = page.get("next_page_token", "")
            if not token:
                return
