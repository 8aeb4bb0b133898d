"""An event that can't be folded stops the journal's folding, and nothing else."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from events.event import JOURNAL, NewEvent
from events.sqlite_log import SqliteLog
from tests.faults.conftest import Connect
from tests.servers import Server, send


def test_an_unknown_event_stops_folding_but_no_training(
    tmp_path: Path, start_runfold: Callable[..., Server], connect: Connect
) -> None:
    """/health names the event; runs go on taking metrics, params and tags, new runs too; reads
    that would need what is behind the event answer 503."""
    home = tmp_path / "home"
    server = start_runfold(home)
    wire = connect(server)
    experiment_id = wire.experiment("stopped")
    run_id = wire.run(experiment_id, "r")
    log = SqliteLog(home / "log.db")
    log.append([NewEvent("journal", "run.teleported", 7, run_id, 1, b"{}")])
    health = _stopped_health(server)
    assert health["status"] == "stopped"
    assert "run.teleported v7" in health["lanes"]["journal"]["stopped"]

    point = {"run_id": run_id, "key": "m", "value": 1.5, "timestamp": 1}
    assert wire.post("runs/log-metric", point).status == 200
    param = {"run_id": run_id, "key": "p", "value": "1"}
    assert wire.post("runs/log-parameter", param).status == 200
    tag = {"run_id": run_id, "key": "t", "value": "1"}
    assert wire.post("runs/set-tag", tag).status == 200
    assert wire.post("runs/update", {"run_id": run_id, "status": "FINISHED"}).status == 200
    new = wire.post("runs/create", {"experiment_id": experiment_id, "start_time": 1})
    assert new.status == 200
    new_id = new.data["run"]["info"]["run_id"]
    assert wire.post("runs/log-metric", {**point, "run_id": new_id}).status == 200

    late = send(server.url, "GET", f"/api/2.0/mlflow/runs/get?run_id={run_id}")
    assert (late.status, "retry-after" in late.headers) == (503, True)
    assert b"run.teleported" in late.body
    types = [event.type for event in log.read(JOURNAL, 0, 100)]
    assert types[-5:] == [
        "run.teleported",
        "run.batch_logged",
        "run.batch_logged",
        "run.updated",
        "run.created",
    ]
    log.close()


def _stopped_health(server: Server) -> dict[str, Any]:
    for _ in range(100):
        answer = send(server.url, "GET", "/health", headers={"Accept": "application/json"})
        health: dict[str, Any] = json.loads(answer.body)
        if health["lanes"]["journal"]["stopped"]:
            return health
        time.sleep(0.1)
    raise AssertionError(f"folding did not stop: {health}")
