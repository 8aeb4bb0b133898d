"""Holds the writers' journals against what the server has: nothing lost, twice, or by halves."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.wire import Wire

OWN_TAGS = {"mlflow.runName"}
KEYS = ("m0", "m1", "m2")
ACKNOWLEDGED, REFUSED, UNKNOWN = "acknowledged", "refused", "unknown"


@dataclass
class Told:
    """One operation as its writer's journal tells it."""

    kind: str
    run_id: str
    number: int
    body: dict[str, Any] = field(default_factory=dict)
    statuses: list[int] = field(default_factory=list)
    sent: int = 0

    @property
    def fate(self) -> str:
        if 200 in self.statuses:
            return ACKNOWLEDGED
        # 504 says that the server does not know it either.
        known = [status for status in self.statuses if status != 504]
        return REFUSED if self.sent == len(known) else UNKNOWN

    @property
    def repeated_after_loss(self) -> bool:
        return self.sent > 1 and bool(self.statuses)


def read_journal(path: Path) -> list[Told]:
    """Every operation of one writer, in the order of its first send."""
    told: dict[int, Told] = {}
    for line in path.read_text().splitlines():
        note = json.loads(line)
        number = note["number"]
        one = told.setdefault(number, Told(note["kind"], note["run_id"], number))
        if note["phase"] == "send":
            one.sent += 1
            one.body = note["body"]
        elif note["phase"] == "unsent":
            one.sent -= 1
        elif note["phase"] == "answer":
            one.statuses.append(note["status"])
    return list(told.values())


@dataclass
class RunState:
    """What the server has of one run."""

    params: Mapping[str, str]
    tags: Mapping[str, str]
    points: Counter[tuple[str, int, float]]


def run_state(wire: Wire, run_id: str) -> RunState:
    data = wire.run_data(run_id)
    points = Counter(
        (key, step, value) for key in KEYS for step, value in wire.history(run_id, key)
    )
    return RunState(data["params"], data["tags"], points)


def pieces(told: Told, state: RunState) -> Iterator[int]:
    """How often each piece of an operation is there: each point, param and tag."""
    body = told.body
    for point in body.get("metrics", []):
        yield state.points[point["key"], point["step"], point["value"]]
    params = body.get("params", [body] if told.kind == "param" else [])
    tags = body.get("tags", [body] if told.kind == "tag" else [])
    yield from (int(state.params.get(item["key"]) == item["value"]) for item in params)
    yield from (int(state.tags.get(item["key"]) == item["value"]) for item in tags)


def complaints_about(told: Told, state: RunState) -> Iterator[str]:
    """What is wrong with one operation on a run, if anything."""
    name = f"{told.kind} {told.number} of run {told.run_id} ({told.fate}: {told.statuses})"
    allowed = {400, 503, 504} if told.kind == "refused" else {200, 503, 504}
    if set(told.statuses) - allowed:
        yield f"{name} has a status out of {sorted(allowed)}"
    counts = list(pieces(told, state))
    if max(counts) > 1:
        yield f"{name} is there twice: {counts}"
    if told.kind == "refused" or told.fate == REFUSED:
        if any(counts):
            yield f"{name} must not be there: {counts}"
    elif told.fate == ACKNOWLEDGED and not all(counts):
        yield f"{name} is lost: {counts}"
    elif any(counts) and not all(counts):
        yield f"{name} is there by halves: {counts}"


def strays(operations: Iterable[Told], state: RunState) -> Iterator[str]:
    """What the server has of a run although nobody sent it."""
    points, params, tags = set(), set(), set(OWN_TAGS)
    for told in operations:
        points |= {(p["key"], p["step"], p["value"]) for p in told.body.get("metrics", [])}
        params |= {item["key"] for item in told.body.get("params", [told.body]) if "key" in item}
        tags |= {item["key"] for item in told.body.get("tags", [told.body]) if "key" in item}
    for what, found in (
        ("point", set(state.points) - points),
        ("param", set(state.params) - params),
        ("tag", set(state.tags) - tags),
    ):
        yield from (f"nobody sent the {what} {one}" for one in found)


def complaints_about_runs(journal: Iterable[Told], names: Counter[str]) -> Iterator[str]:
    """What is wrong with the runs that one writer created; `names` counts the runs by name."""
    for told in journal:
        if told.kind != "create":
            continue
        name, there = told.body["run_name"], names[told.body["run_name"]]
        if set(told.statuses) - {200, 503, 504}:
            yield f"the creation of {name} answered {told.statuses}"
        least, most = {ACKNOWLEDGED: (1, 1), REFUSED: (0, 0), UNKNOWN: (0, 1)}[told.fate]
        if not least <= there <= most:
            yield f"the run {name} ({told.fate}) is there {there} times"


def judge(wire: Wire, experiment_id: str, journals: Iterable[list[Told]]) -> list[str]:
    """Every complaint about every operation of every writer."""
    names = Counter(run["info"]["run_name"] for run in wire.runs(experiment_id))
    complaints: list[str] = []
    for journal in journals:
        complaints += complaints_about_runs(journal, names)
        by_run: dict[str, list[Told]] = {}
        for told in journal:
            if told.kind != "create":
                by_run.setdefault(told.run_id, []).append(told)
        for run_id, operations in by_run.items():
            state = run_state(wire, run_id)
            for told in operations:
                complaints += complaints_about(told, state)
            complaints += strays(operations, state)
    known = {told.body["run_name"] for journal in journals for told in journal if not told.run_id}
    complaints += [f"nobody created the run {name}" for name in set(names) - known]
    return complaints
