"""The maintenance commands beside a running server that is written to and read."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.servers import BIN, Server, send

API = "/api/2.0/mlflow"
JSON = {"Content-Type": "application/json"}
Start = Callable[..., Server]


def call(server: Server, target: str, **body: Any) -> dict[str, Any]:
    """A POST that must give 200."""
    answer = send(server.url, "POST", f"{API}/{target}", json.dumps(body).encode(), JSON)
    assert answer.status == 200, answer.body
    found = answer.json()
    assert isinstance(found, dict)
    return found


def command(home: Path, *arguments: str) -> str:
    """What a command says; it must end with 0."""
    done = subprocess.run(
        [str(BIN / "runfold"), *arguments, "--home", str(home)],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def log_run(server: Server, experiment_id: str, marker: str) -> str:
    """A run whose name, param, tag, metric key and artifact hold the marker; read back at once."""
    made = call(server, "runs/create", experiment_id=experiment_id, run_name=f"{marker}name")
    run_id: str = made["run"]["info"]["run_id"]
    params = [{"key": "p", "value": f"{marker}param"}]
    tags = [{"key": "t", "value": f"{marker}tag"}]
    call(server, "runs/log-batch", run_id=run_id, params=params, tags=tags)
    points = [{"key": f"{marker}m", "value": n, "timestamp": n, "step": n} for n in range(50)]
    call(server, "runs/log-batch", run_id=run_id, metrics=points)
    path = f"/api/2.0/mlflow-artifacts/artifacts/{experiment_id}/{run_id}/artifacts/{marker}.txt"
    assert send(server.url, "PUT", path, f"{marker}bytes".encode()).status == 200
    answer = send(server.url, "GET", f"{API}/runs/get?run_id={run_id}")
    assert f"{marker}param" in answer.body.decode()
    query = f"run_id={run_id}&metric_key={marker}m"
    history = send(server.url, "GET", f"{API}/metrics/get-history?{query}")
    assert history.body.decode().count('"step"') == 50
    return run_id


def files_with(home: Path, markers: list[str]) -> list[str]:
    """The files that hold any of these texts."""
    found = []
    for file in home.rglob("*"):
        try:
            data = file.read_bytes() if file.is_file() else b""
        except FileNotFoundError:
            continue
        if any(marker.encode() in data or marker in file.name for marker in markers):
            found.append(str(file.relative_to(home)))
    return found


def test_gc_rebuild_and_verify_beside_a_server_at_work(
    tmp_path: Path, start_runfold: Start
) -> None:
    """No call fails and no read is stale while runs are purged and views replaced; no byte of the
    purged is left in a file, and the views are what the log gives."""
    home = tmp_path / "home"
    server = start_runfold(home, "--seal-points", "1000")
    experiment_id = call(server, "experiments/create", name="one")["experiment_id"]
    made: dict[str, str] = {}
    failures: list[BaseException] = []
    stop = threading.Event()

    def write(name: str) -> None:
        number = 0
        try:
            while not stop.is_set():
                number += 1
                marker = f"{name}{number}mark"
                made[log_run(server, experiment_id, marker)] = marker
                stop.wait(0.1)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(name,)) for name in ("qa", "qb")]
    for thread in threads:
        thread.start()
    purged: dict[str, str] = {}
    try:
        for view in ([], ["metrics"]):
            while len(made) < len(purged) + 8:
                stop.wait(0.05)
                assert not failures
            for run_id in [run_id for run_id in made if run_id not in purged][:5]:
                call(server, "runs/delete", run_id=run_id)
                purged[run_id] = made[run_id]
            assert "5 purged, 5 artifact files deleted" in command(home, "gc")
            assert files_with(home, list(purged.values())) == []
            for run_id in purged:
                assert send(server.url, "GET", f"{API}/runs/get?run_id={run_id}").status == 404
            command(home, "rebuild", *view)
        assert "are what the log gives" in command(home, "verify")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []
    server.stop()
    assert "are what the log gives" in command(home, "verify")
    assert "0 purged" in command(home, "gc")
    listed = command(home, "events", "--run-id", next(iter(purged)))
    assert "run.purged" in listed
