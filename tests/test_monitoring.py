"""/ready and /metrics: what they answer, what moves, and what strangers can't bring into them."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.applications import Starlette

from api.monitoring import ROUTES
from api.request_counts import OTHER, RequestCounts
from api.services import Services
from events.codec import Series, make_block
from events.counters import Exposition, Histogram
from events.event import JOURNAL, NewEvent, Partition
from events.group_commit import CommitCounts
from events.memory_log import MemoryLog
from events.metrics import POINTS_LOGGED
from events.settings import Settings
from events.worker_counts import (
    ACTIVE,
    MEASURES,
    SEAL_ERRORS,
    SEALED_BYTES,
    SEALED_POINTS,
    WorkerCounts,
)
from projections.sqlite_views import SqliteViews
from tests.asgi import Answer, call
from tests.lake_cases import SMALL, LakeCase
from tests.servers import Server, send
from tests.test_counters import parsed, value
from workers.projector import Projector
from workers.sealer import Sealer
from workers.worker_page import answer

OPERATIONS = Path(__file__).resolve().parent.parent / "docs/operations.md"
API = "/api/2.0/mlflow/"
SCRAPES = 40
READS_MAX = 200


def ask_ready(health: dict[str, Any], **settings: Any) -> Answer:
    """/ready of a process of this health."""
    app = Starlette(routes=ROUTES)
    app.state.services = SimpleNamespace(settings=Settings(**settings), health=lambda: health)
    return call(app, "GET", "/ready")


@pytest.mark.parametrize(
    ("status", "expected"), [("ok", 200), ("stopped", 200), ("starting", 503), ("no log", 503)]
)
def test_ready_is_whether_to_send_requests_here(status: str, expected: int) -> None:
    """Where views or log can't be reached requests go elsewhere, for a moment; a lane that stopped
    has stopped for all processes, and writes go on."""
    health = {"status": status, "reason": "why", "lanes": {"points": {"lag": 7}}}
    found = ask_ready(health)
    assert (found.status, found.json()) == (expected, health)
    assert ("retry-after" in found.headers) == (expected == 503)


def test_an_artifact_proxy_is_ready() -> None:
    """What folds nothing has nothing to wait for."""
    assert ask_ready({"status": "starting"}, artifacts_only=True).status == 200


def scrape(server: Server) -> Any:
    """What /metrics says, as Prometheus's parser reads it."""
    found = send(server.url, "GET", "/metrics", headers={"Host": "scraped.corp"})
    assert found.status == 200
    assert found.headers["content-type"].startswith("text/plain; version=0.0.4")
    return parsed(found.body)


def post(server: Server, path: str, **body: Any) -> Any:
    """A POST that must give 200."""
    found = send(
        server.url,
        "POST",
        API + path,
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    assert found.status == 200, found
    return found.json()


def count(found: Any, route: str, method: str, status: int) -> float:
    """How many requests were answered so."""
    labels = {"route": route, "method": method, "status": str(status)}
    return float(found.get(("runfold_requests_total", frozenset(labels.items())), 0.0))


def new_run(server: Server, name: str) -> str:
    """A run in an experiment of this name."""
    experiment_id = post(server, "experiments/create", name=name)["experiment_id"]
    made = post(server, "runs/create", experiment_id=experiment_id)
    return str(made["run"]["info"]["run_id"])


def test_counters_move(runfold_server: Server) -> None:
    """Requests on the short way and on the ordinary one, commits, waits, positions, and what the
    workers fold are each counted."""
    run_id = new_run(runfold_server, "counted")
    before = scrape(runfold_server)
    for step in range(20):
        post(runfold_server, "runs/log-metric", run_id=run_id, key="m", value=step, timestamp=1)
    for _ in range(5):
        target = f"{API}runs/get?run_id={run_id}"
        assert send(runfold_server.url, "GET", target).status == 200
    assert send(runfold_server.url, "GET", f"{API}runs/get?run_id=nobody").status == 404
    after = scrape(runfold_server)

    def grew(name: str, **labels: str) -> float:
        return value(after, name, **labels) - value(before, name, **labels)

    assert count(after, f"{API}runs/log-metric", "POST", 200) >= 20
    assert grew("runfold_request_seconds_count", route=f"{API}runs/log-metric", method="POST") == 20
    assert count(after, f"{API}runs/get", "GET", 200) >= 5
    assert count(after, f"{API}runs/get", "GET", 404) >= 1
    assert grew("runfold_appended_events_total") == 20
    assert 1 <= grew("runfold_commit_seconds_count") <= 20
    assert grew("runfold_commit_events_sum") == 20
    assert grew("runfold_head_position", lane="points", partition="0") == 20
    assert grew("runfold_folded_position", lane="points", partition="0") == 20
    assert value(after, "runfold_lag_events", lane="points", partition="0") == 0
    assert value(after, "runfold_folding_stopped", lane="journal", partition="0") == 0
    assert grew("runfold_folded_events_total", lane="points") == 20
    assert grew("runfold_fold_seconds_count", lane="points") >= 1
    assert value(after, "runfold_worker_active", role="projector") == 1
    assert (value(after, "runfold_log_up"), value(after, "runfold_views_up")) == (1, 1)


def test_every_series_is_documented(runfold_server: Server) -> None:
    """The page on operations names each series that a server or a worker has."""
    page = OPERATIONS.read_text("utf-8")
    names = {re.sub("_(bucket|sum|count)$", "", name) for name, _ in scrape(runfold_server)}
    assert len(names) > 30
    assert [name for name in sorted(names) if f"`{name}`" not in page] == []
    assert {measure.name for measure in MEASURES} <= names


def services_behind(log: MemoryLog, views: SqliteViews) -> Services:
    """A process whose lake is away, over this log and these views."""
    parts: dict[str, Any] = dict.fromkeys(("views", "histories", "gate", "artifacts"))
    watch: Any = SimpleNamespace(
        waits=3, waits_over=2, waited_s_max=1.5, waited=Histogram((1.0,)), checkpoints={}
    )
    writer: Any = SimpleNamespace(commits=CommitCounts())
    lake: Any = SimpleNamespace(away="it is away")
    return Services(Settings(), log, views, watch=watch, writer=writer, lake=lake, **parts)


def test_the_lag_of_each_partition_is_told(tmp_path: Path) -> None:
    """By /ready and by /metrics alike: the one that is behind, the one that has stopped, and the
    lake that is away; and the log while it can't be asked."""
    log, views = MemoryLog(points_partitions=2), SqliteViews(tmp_path / "views.db", "memory")
    views.create()
    block = make_block([(Series("loss"), 1, 1, 0.5)])
    log.append([POINTS_LOGGED.new(f"r{number}", block, time=1) for number in range(9)])
    log.append([NewEvent("journal", "run.unheard", 1, "r", 1, b"{}")])
    first, last = Partition("points", 0), Partition("points", 1)
    projector = Projector(log, views)
    for partition in (JOURNAL, first):
        projector.step(partition)
    services = services_behind(log, views)
    app = Starlette(routes=ROUTES)
    app.state.services, app.state.request_counts = services, RequestCounts("")
    slots = {"refused": 1, "running": 0, "waiting": 0}
    app.state.query_slots = SimpleNamespace(health=lambda: slots, taken=4)
    told = call(app, "GET", "/ready").json()
    behind = log.head(last)
    assert (told["status"], told["lake"]["away"]) == ("stopped", "it is away")
    points = told["lanes"]["points"]
    assert [one["lag"] for one in points["partitions"]] == [0, behind]
    assert (points["lag"], points["folded"]) == (behind, log.head(first))
    assert "run.unheard" in told["lanes"]["journal"]["stopped"]
    found = parsed(call(app, "GET", "/metrics").body)
    for number, lag in enumerate((0, behind)):
        labels = {"lane": "points", "partition": str(number)}
        assert value(found, "runfold_lag_events", **labels) == lag
        assert value(found, "runfold_folding_stopped", **labels) == 0
    assert value(found, "runfold_folding_stopped", lane="journal", partition="0") == 1
    assert value(found, "runfold_lake_up") == 0
    assert value(found, "runfold_fresh_waits_over_total") == 2
    views.close()


def test_what_a_sealer_did_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Points and bytes of segments, and what failed."""
    case, counts, stop = LakeCase(tmp_path), WorkerCounts(), threading.Event()
    case.create_run("a")
    case.log_points("a", [("loss", step, step, 0.5) for step in range(500)])
    sealer = Sealer(case.views, case.lake, SMALL, counts=counts)
    sealer.seal_all()
    (path,) = case.files()
    assert counts.value(SEALED_POINTS) == 500
    assert counts.value(SEALED_BYTES) == (case.lake.folder / path).stat().st_size

    def fail() -> bool:
        raise OSError("full")

    monkeypatch.setattr(sealer, "round", fail)
    running = threading.Thread(target=sealer.run, args=(stop,))
    running.start()
    while not counts.value(SEAL_ERRORS):
        assert running.is_alive()
        time.sleep(0.005)
    stop.set()
    running.join()
    case.close()


def test_waits_are_counted(runfold_server: Server) -> None:
    """A read that comes right after a write waits for it to be folded, unless that was quicker."""
    run_id = new_run(runfold_server, "waited for")
    name = "runfold_fresh_wait_seconds_count"
    before = value(scrape(runfold_server), name)
    for _ in range(READS_MAX):
        post(runfold_server, "runs/log-metric", run_id=run_id, key="m", value=1, timestamp=1)
        send(runfold_server.url, "GET", f"{API}runs/get?run_id={run_id}")
        if value(scrape(runfold_server), name) > before:
            break
    assert value(scrape(runfold_server), name) > before


def test_sql_queries_are_counted(runfold_server: Server) -> None:
    """A query that had a turn is counted when it is done."""
    before = value(scrape(runfold_server), "runfold_sql_queries_total")
    body = json.dumps({"statement": "SELECT 1"}).encode()
    headers = {"Content-Type": "application/json"}
    assert send(runfold_server.url, "POST", "/api/2.0/runfold/sql", body, headers).status == 200
    assert value(scrape(runfold_server), "runfold_sql_queries_total") == before + 1


def test_strangers_bring_no_labels(runfold_server: Server) -> None:
    """Paths and methods that nobody declared are counted together, and a parameter in a path is not
    part of its route."""
    for number in range(5):
        assert send(runfold_server.url, "GET", f"/stranger-{number}").status == 404
        assert send(runfold_server.url, "PROPFIND", f"/stranger-{number}").status == 404
        target = f"/api/2.0/mlflow-artifacts/artifacts/stranger-{number}"
        send(runfold_server.url, "GET", target)
    refused = send(
        runfold_server.url, "GET", f"{API}runs/get?run_id=x", headers={"Host": "evil.example"}
    )
    assert refused.status == 403
    found = scrape(runfold_server)
    assert count(found, OTHER, "GET", 404) >= 5
    assert count(found, OTHER, OTHER, 404) >= 5
    assert count(found, OTHER, "GET", 403) >= 1
    text = send(runfold_server.url, "GET", "/metrics").body
    assert b"stranger" not in text
    assert b"PROPFIND" not in text


def test_scrapes_during_load(runfold_server: Server) -> None:
    """Each of many scrapes while clients write can be read, counts no less than the one before, and
    has histograms whose parts fit together."""
    run_id = new_run(runfold_server, "loaded")
    stop = threading.Event()
    failed: list[BaseException] = []

    def write() -> None:
        try:
            while not stop.is_set():
                post(
                    runfold_server, "runs/log-metric", run_id=run_id, key="m", value=1, timestamp=1
                )
        except BaseException as error:
            failed.append(error)

    writers = [threading.Thread(target=write) for _ in range(4)]
    for writer in writers:
        writer.start()
    route = {"route": f"{API}runs/log-metric", "method": "POST"}
    seen: list[float] = []
    try:
        for _ in range(SCRAPES):
            found = scrape(runfold_server)
            seen.append(value(found, "runfold_request_seconds_count", **route))
            last = value(found, "runfold_request_seconds_bucket", **route, le="+Inf")
            assert last == seen[-1]
            time.sleep(0.02)
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    assert failed == []
    assert seen == sorted(seen)
    assert seen[-1] > seen[0]


def test_a_route_is_named_without_the_prefix() -> None:
    """Behind a static prefix the series keep their names."""
    counts = RequestCounts("/ml")
    counts.of("/ml/health", "GET").add(200, 0.1)
    counts.of("/ml", "GET").add(200, 0.1)
    exposition = Exposition()
    counts.write(exposition)
    found = parsed(exposition.text())
    assert count(found, "/health", "GET", 200) == count(found, "/", "GET", 200) == 1


def test_a_worker_tells_of_itself() -> None:
    """Its page has its own counters, that it is alive, and whether it works or stands by."""
    process = SimpleNamespace(role="gc", is_active=False, counts=WorkerCounts())
    page: Callable[[str], tuple[int, str, bytes]] = lambda target: answer(process, target)  # noqa: E731
    assert page("/health")[0] == 200
    assert page("/ready") == (200, "text/plain", b"standing by")
    process.is_active = True
    process.counts.set(ACTIVE["gc"], 1)
    assert page("/ready")[2] == b"active"
    assert value(parsed(page("/metrics?x=1")[2]), "runfold_worker_active", role="gc") == 1
    assert page("/else")[0] == 404
