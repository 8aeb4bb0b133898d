"""Requests that are built before the clock starts, and the answers that they must lead to.

A load for a minute needs more requests than memory should hold. So a connection goes round a few
hundred of them; before each round the digits of their steps and times that count the rounds are
changed in place, which takes some microseconds, and no point comes twice.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from infra.benchmarks.curves import Points, curve_values, metric_keys
from infra.benchmarks.load import http_request

API = "/api/2.0/mlflow/"
ROUND_DIGITS = 4
_MARK = "@" * ROUND_DIGITS
ROUND_BYTES_MAX = 24_000_000
"""What the bodies of one connection may take."""


class Template:
    """A request whose steps and times move on with the round."""

    def __init__(self, request: bytes) -> None:
        self._request = bytearray(request)
        bytes_view = np.frombuffer(self._request, np.uint8)
        self._bytes = bytes_view
        marks = np.flatnonzero(bytes_view == ord("@"))
        self._places = [marks[digit::ROUND_DIGITS] for digit in range(ROUND_DIGITS)]
        self._digits = _MARK.encode()

    def at(self, round_number: int) -> bytearray:
        """The request of this round; the one of the round before is gone."""
        digits = b"%0*d" % (ROUND_DIGITS, round_number)
        for place, old, new in zip(self._places, self._digits, digits, strict=True):
            if old != new:
                self._bytes[place] = new
        self._digits = digits
        return self._request


@dataclass(frozen=True)
class Shape:
    """What the requests of one connection are like."""

    points: int
    """Points a request; 1: log-metric."""
    keys: int
    batches: int
    """Requests a round."""


class Stream:
    """The endless requests of one connection that logs to one run. A Source of `load`."""

    def __init__(self, run_id: str, connection: int, shape: Shape) -> None:
        self.run_id = run_id
        self.shape = shape
        self.keys = metric_keys(shape.keys)
        self.sent = 0
        self._connection = connection
        self._steps_a_batch = max(1, shape.points // shape.keys)
        random = np.random.default_rng(connection)
        steps = self._steps_a_batch * shape.batches
        self._values = curve_values(random, steps, shape.keys)
        self._templates = [Template(self._request(batch)) for batch in range(shape.batches)]

    def __call__(self, _answer: bytes) -> bytearray:
        """The next request."""
        round_number, batch = divmod(self.sent, self.shape.batches)
        self.sent += 1
        return self._templates[batch].at(round_number)

    def _step_text(self, round_text: str, batch: int, step: int) -> str:
        return f"1{round_text}{batch:04}{self._connection:02}{step:03}"

    def _request(self, batch: int) -> bytes:
        if self.shape.points == 1:
            return http_request(
                "POST",
                API + "runs/log-metric",
                f'{{"run_id":"{self.run_id}",{self._point(batch, 0, 0)}}}'.encode(),
            )
        points = ",".join(
            f"{{{self._point(batch, step, place)}}}"
            for step in range(self._steps_a_batch)
            for place in range(self.shape.keys)
        )
        body = f'{{"run_id":"{self.run_id}","metrics":[{points}]}}'
        return http_request("POST", API + "runs/log-batch", body.encode())

    def _point(self, batch: int, step: int, place: int) -> str:
        value = self._values[batch * self._steps_a_batch + step, place]
        return (
            f'"key":"{self.keys[place]}","value":{float(value)!r},'
            f'"timestamp":17{_MARK}{batch:04}{step:03},'
            f'"step":{self._step_text(_MARK, batch, step)}'
        )

    @property
    def points_sent(self) -> int:
        """Points in all requests so far."""
        return self.sent * self.shape.points

    @property
    def points_a_key(self) -> int:
        """Points of each key in all requests so far."""
        return self.points_sent // self.shape.keys

    def latest(self) -> dict[str, tuple[int, float]]:
        """The last step and value of each key; nothing before the first request."""
        if self.sent == 0:
            return {}
        round_number, batch = divmod(self.sent - 1, self.shape.batches)
        last = self._steps_a_batch - 1
        step = int(self._step_text(f"{round_number:0{ROUND_DIGITS}}", batch, last))
        row = self._values[batch * self._steps_a_batch + last]
        return {key: (step, float(value)) for key, value in zip(self.keys, row, strict=True)}


def latest_of(streams: Sequence[Stream]) -> dict[str, tuple[int, float]]:
    """The latest point of each key of a run that several connections log to."""
    latest: dict[str, tuple[int, float]] = {}
    for stream in streams:
        for key, point in stream.latest().items():
            latest[key] = max(point, latest.get(key, point))
    return latest


def log_batch(run_id: str, points: Points) -> bytes:
    """A request that logs these points."""
    metrics = [
        {"key": points.keys[place], "value": value, "timestamp": timestamp, "step": step}
        for place, value, timestamp, step in zip(
            points.index.tolist(),
            points.values.tolist(),
            points.timestamps.tolist(),
            points.steps.tolist(),
            strict=True,
        )
    ]
    return post("runs/log-batch", {"run_id": run_id, "metrics": metrics})


def post(path: str, body: object) -> bytes:
    """A POST to MLflow's API."""
    return http_request("POST", API + path, json.dumps(body, separators=(",", ":")).encode())


def get(path: str) -> bytes:
    """A GET from MLflow's API."""
    return http_request("GET", API + path)
