"""What infra/compose.yaml starts works together: here as plain processes, each with its service's
command and variables, over the real Kafka, PostgreSQL and S3 server."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from infra.backends.service import Service
from tests.backends import fresh_database
from tests.faults.test_roles import eventually
from tests.servers import BIN, MLFLOW_QUIET, Server, free_port, send
from tests.test_compose import COMPOSE, OURS
from tests.test_counters import parsed

KAFKA, S3, BUCKET = "kafka:9092/runfold", "http://s3:7070", "s3://runfold/"
POSTGRESQL = "postgresql://runfold:runfold-secret@postgresql/runfold"
PREFIX = f"compose-{os.urandom(4).hex()}"


@pytest.fixture(scope="module")
def addresses(kafka: Service, postgresql: Service, s3_server: Service) -> Iterator[dict[str, str]]:
    """Where things are here, by where they are among the containers."""
    with contextlib.contextmanager(fresh_database)(postgresql) as views_uri:
        yield {
            KAFKA: f"{kafka.uri.removeprefix('kafka://')}/{PREFIX}",
            POSTGRESQL: views_uri,
            S3: s3_server.uri,
            BUCKET: f"{BUCKET}{PREFIX}/",
        }


def here(text: str, addresses: Mapping[str, str]) -> str:
    """A word of the file with the addresses of this machine."""
    for there, address in addresses.items():
        text = text.replace(there, address)
    return text


def environment_of(name: str, addresses: Mapping[str, str], folder: Path) -> dict[str, str]:
    """A service's variables, and those of the image."""
    given = {key: here(text, addresses) for key, text in OURS[name]["environment"].items()}
    return {**given, "RUNFOLD_HOME": str(folder), "MLFLOW_HOST": "127.0.0.1"}


def process_of(name: str, number: int, addresses: Mapping[str, str], folder: Path) -> Server:
    """One container of a service, as a process; it has a folder of its own, as a container has."""
    port = free_port()
    of_port = "MLFLOW_PORT" if name == "api" else "RUNFOLD_METRICS_PORT"
    home = folder / f"{name}-{number}"
    home.mkdir()
    environment = {**environment_of(name, addresses, home), of_port: str(port)}
    words = [here(word, addresses) for word in OURS[name]["command"]]
    return Server(f"{name}-{number}", [str(BIN / "runfold"), *words], home, port, environment)


def is_ready(api: Server) -> bool:
    """Whether a balancer would send requests there."""
    return send(api.url, "GET", "/ready").status == 200


@pytest.fixture(scope="module")
def processes(
    addresses: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, list[Server]]]:
    """All of Runfold's containers, by service."""
    folder = tmp_path_factory.mktemp("compose")
    topics = [here(word, addresses) for word in OURS["topics"]["command"]]
    variables = environment_of("topics", addresses, folder)
    made = {**os.environ, **variables}
    subprocess.run([str(BIN / "runfold"), *topics], env=made, check=True, timeout=60)
    started: dict[str, list[Server]] = {}
    try:
        for name, service in OURS.items():
            for number in range(service.get("deploy", {}).get("replicas", 0)):
                server = process_of(name, number, addresses, folder)
                started.setdefault(name, []).append(server)
                server.start()
        for api in started["api"]:
            eventually("ready", partial(is_ready, api))
        yield started
    finally:
        for servers in started.values():
            for server in servers:
                server.kill()


def test_what_one_takes_all_have(
    processes: dict[str, list[Server]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run, its metrics and its artifact that were logged through one API process are read through
    the other, with MLflow's own client."""
    for key, text in MLFLOW_QUIET.items():
        monkeypatch.setenv(key, text)
    one, other = (MlflowClient(api.url) for api in processes["api"])
    experiment_id = one.create_experiment("compose")
    run_id = one.create_run(experiment_id).info.run_id
    for step in range(50):
        one.log_metric(run_id, "loss", 1 / (step + 1), step=step)
    one.log_param(run_id, "lr", 0.1)
    one.log_text(run_id, "kept in S3", "note.txt")
    assert len(other.get_metric_history(run_id, "loss")) == 50
    [found] = other.search_runs([experiment_id], "params.lr = '0.1'")
    assert found.info.run_id == run_id
    path = other.download_artifacts(run_id, "note.txt", str(tmp_path))
    assert Path(path).read_text() == "kept in S3"


def scrape(server: Server) -> Any:
    """A process's /metrics."""
    return parsed(send(server.url, "GET", "/metrics").body)


def test_one_of_each_kind_of_worker_works(processes: dict[str, list[Server]]) -> None:
    """The others stand by, and every process tells Prometheus of itself."""
    for name in ("projector", "sealer", "gc"):
        active = [
            sum(
                value
                for (series, _), value in scrape(worker).items()
                if series == "runfold_worker_active"
            )
            for worker in processes[name]
        ]
        assert sorted(active) == [0, 1], name
    for api in processes["api"]:
        assert scrape(api)["runfold_log_up", frozenset()] == 1


def test_the_addresses_are_those_of_the_file() -> None:
    """What stands in for the containers here is all that the file names."""
    assert {"kafka", "postgresql", "s3"} < set(COMPOSE["services"])
    environment = COMPOSE["x-environment"]
    assert environment["RUNFOLD_LOG_URI"] == f"kafka://{KAFKA}"
    assert environment["RUNFOLD_VIEWS_URI"] == POSTGRESQL
    assert environment["MLFLOW_S3_ENDPOINT_URL"] == S3
    for name in ("RUNFOLD_LAKE_URI", "MLFLOW_ARTIFACTS_DESTINATION"):
        assert environment[name].startswith(BUCKET)
