"""A plain client for what is not timed: setting up, and checking the answers."""

from __future__ import annotations

import http.client
import json
from typing import Any
from urllib.parse import urlencode

from infra.benchmarks.bodies import API

TIMEOUT_S = 300.0


class Refused(Exception):
    """A server answered a call with another status than 200."""


class Client:
    """Calls one server, each time over a connection of its own."""

    def __init__(self, port: int) -> None:
        self._port = port

    def status(self, method: str, path: str) -> int:
        """The status that a path answers with; 0 where nobody answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        try:
            connection.request(method, path)
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return 0
        finally:
            connection.close()

    def call(self, method: str, path: str, body: object = None, **query: object) -> Any:
        """The JSON that a call answers with. Raises Refused for any status but 200."""
        target = path if path.startswith("/") else API + path
        if query:
            target += "?" + urlencode(query)
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT_S)
        try:
            headers = {"Accept": "application/json", "Content-Type": "application/json"}
            connection.request(method, target, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            text = response.read()
        finally:
            connection.close()
        if response.status != 200:
            raise Refused(f"{method} {path}: {response.status} {text[:300]!r}")
        return json.loads(text)

    def create_run(self, name: str = "run") -> str:
        """The id of a new run."""
        body = {"experiment_id": "0", "run_name": name, "start_time": 1_700_000_000_000}
        answer = self.call("POST", "runs/create", body)
        return str(answer["run"]["info"]["run_id"])

    def history(self, run_id: str, key: str) -> list[dict[str, Any]]:
        """All points of one key."""
        points: list[dict[str, Any]] = []
        query: dict[str, object] = {"run_id": run_id, "metric_key": key}
        while True:
            answer = self.call("GET", "metrics/get-history", **query)
            points += answer.get("metrics", [])
            token = answer.get("next_page_token")
            if not token:
                return points
            query["page_token"] = token

    def latest(self, run_id: str) -> dict[str, tuple[int, float]]:
        """The step and value of the latest point of each key."""
        answer = self.call("GET", "runs/get", run_id=run_id)
        return {
            metric["key"]: (int(metric.get("step", 0)), float(metric["value"]))
            for metric in answer["run"]["data"].get("metrics", [])
        }

    def lag(self) -> int:
        """How many events Runfold has not folded yet."""
        health = self.call("GET", "/health")
        if health["status"] == "starting":
            return 1
        return sum(int(lane["lag"]) for lane in health["lanes"].values())
