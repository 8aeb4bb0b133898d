"""The small language of the differential tests: sequences of HTTP calls as plain data.

A call may keep parts of its answer under a name (`save={"run": "run.info.run_id"}`), and any later
call refers to it as `${run}` in its path, query or body. Three names are always there: `${unique}`
(the same on both servers, another one in each sequence), `${exp}` and `${run}` once `SETUP` has
run. A name that was never saved, because the call that makes it was refused, stands for an id that
does not exist.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

API = "/api/2.0/mlflow/"
AJAX = "/ajax-api/2.0/mlflow/"
JSON_HEADERS = {"Content-Type": "application/json"}
MISSING_ID = "00000000000000000000000987654321"

# Anything that json.dumps takes; the bodies are data, and their shape is what is under test.
Json = Any
Pairs = Mapping[str, object] | Sequence[tuple[str, object]]

_REFERENCE = re.compile(r"\$\{(\w+)\}")


@dataclass(frozen=True)
class Ours:
    """What Runfold answers to a call where it differs from MLflow, and by which stated reason."""

    difference: str
    status: int
    error_code: str = ""
    body: Json = None


@dataclass(frozen=True, repr=False)
class Call:
    """One request. `body` is sent as JSON, `raw` as it stands; at most one of them is given."""

    method: str
    path: str
    body: Json = None
    raw: bytes | None = None
    query: Sequence[tuple[str, object]] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    save: Mapping[str, str] = field(default_factory=dict)
    ours: Ours | None = None
    # The answer's JSON is not compared, only status and error code (random or host-bound content).
    status_only: bool = False
    # The answer's list of this name is compared as a set: MLflow states no order for it.
    unordered: str = ""

    def or_else(self, ours: Ours) -> "Call":
        """The same call, for which Runfold answers `ours` on purpose."""
        return replace(self, ours=ours)

    def __repr__(self) -> str:
        return self.describe()

    def describe(self) -> str:
        query = "&".join(f"{key}={value}" for key, value in self.query)
        sent = self.raw if self.raw is not None else json.dumps(self.body)
        body = "" if self.body is None and self.raw is None else f" {str(sent)[:300]}"
        return f"{self.method} {self.path}{'?' + query if query else ''}{body}"


@dataclass(frozen=True)
class Case:
    """A named sequence of calls, played on both servers from its first call to its last."""

    name: str
    calls: Sequence[Call]
    of_a_folder: bool = False
    """Whether it asks what a folder of artifacts can't do; MLflow's server has them in one here."""


def _path(path: str) -> str:
    return path if path.startswith("/") else API + path


def pairs(query: Pairs) -> Sequence[tuple[str, object]]:
    return tuple(query.items()) if isinstance(query, Mapping) else tuple(query)


def post(path: str, body: Json = None, **options: Any) -> Call:
    """POST of JSON; a path without a leading slash is one of the tracking API."""
    return json_call("POST", path, {} if body is None else body, **options)


def json_call(method: str, path: str, body: Json, **options: Any) -> Call:
    return Call(method, _path(path), body=body, **{"headers": JSON_HEADERS, **options})


def raw_post(
    path: str, raw: bytes, content_type: str | None = "application/json", **o: Any
) -> Call:
    """POST of bytes as they stand."""
    headers = {} if content_type is None else {"Content-Type": content_type}
    return Call("POST", _path(path), raw=raw, **{"headers": headers, **o})


def get(path: str, query: Pairs = (), **options: Any) -> Call:
    return Call("GET", _path(path), query=pairs(query), **options)


def refused(difference: str, code: str = "INVALID_PARAMETER_VALUE", status: int = 400) -> Ours:
    """Runfold refuses what MLflow takes, or refuses it in another way."""
    return Ours(difference, status, code)


def resolve(value: Json, names: Mapping[str, str]) -> Json:
    """The value with each `${name}` replaced by what was saved under it."""
    if isinstance(value, str):
        return _REFERENCE.sub(lambda match: names.get(match.group(1), MISSING_ID), value)
    if isinstance(value, dict):
        return {resolve(key, names): resolve(item, names) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [resolve(item, names) for item in value]
    return value


def dig(value: Json, path: str) -> str | None:
    """The part of an answer at a dotted path such as `runs.0.info.run_id`; None if not there."""
    for step in path.split("."):
        if isinstance(value, list) and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        elif isinstance(value, dict) and step in value:
            value = value[step]
        else:
            return None
    return str(value)


NEW_EXPERIMENT = post("experiments/create", {"name": "${unique}"}, save={"exp": "experiment_id"})


def new_run(name: str = "run", start_time: int = 1000, **fields: Json) -> Call:
    """Creates a run of `${exp}` that later calls refer to as `${<name>}`."""
    body = {"experiment_id": "${exp}", "run_name": name, "start_time": start_time, **fields}
    return post("runs/create", body, save={name: "run.info.run_id"})


SETUP: tuple[Call, ...] = (NEW_EXPERIMENT, new_run())
READ_RUN = get("runs/get", {"run_id": "${run}"})


def on_run(name: str, *calls: Call) -> Case:
    """A case that begins with a new experiment and a run, and ends by reading the run."""
    return Case(name, (*SETUP, *calls, READ_RUN))


def history(key: str, run: str = "run", **query: object) -> Call:
    return get("metrics/get-history", {"run_id": f"${{{run}}}", "metric_key": key, **query})
