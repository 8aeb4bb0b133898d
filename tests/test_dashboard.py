"""What infra/monitoring/ asks Prometheus for is what a server tells."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import yaml

from tests.servers import Server, send
from tests.test_counters import parsed

ROOT = Path(__file__).resolve().parent.parent
MONITORING = ROOT / "infra/monitoring"
EXPORTED_S_MAX = 20.0
OF_PROMETHEUS = {"instance", "job", "le"}
"""Labels that Prometheus adds, and the one of buckets."""
WORDS = {"by", "without", "and", "or", "unless", "on"}


def expressions() -> Iterator[tuple[str, str]]:
    """Each query of the dashboard and of the alerts, by the title of its panel or alert."""
    dashboard = json.loads((MONITORING / "grafana/dashboard.json").read_text("utf-8"))
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]
    alerts = yaml.safe_load((MONITORING / "alerts.yaml").read_text("utf-8"))
    for group in alerts["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]


def series_of(expression: str) -> set[str]:
    """The names of series in a query."""
    bare = re.sub(r'"[^"]*"', "", expression)
    bare = re.sub(r"\b(by|without|on)\s*\([^)]*\)", "", bare)
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]", "", bare)
    return set(re.findall(r"\b[a-zA-Z_]\w*\b(?!\s*\()", bare)) - WORDS


def labels_of(expression: str) -> set[str]:
    """The labels that a query selects or groups by."""
    bare = re.sub(r'"[^"]*"', "", expression)
    groups = re.findall(r"\b(?:by|without|on)\s*\(([^)]*)\)", bare)
    chosen = re.findall(r"\{([^}]*)\}", bare)
    return set(re.findall(r"[a-zA-Z_]\w*", " ".join([*groups, *chosen])))


def missing_from(found: Mapping[tuple[str, frozenset[tuple[str, str]]], float]) -> list[str]:
    """What the queries ask for and a scrape does not have."""
    labels: dict[str, set[str]] = {}
    for name, pairs in found:
        labels.setdefault(name, set()).update(label for label, _ in pairs)
    complaints = []
    for title, expression in expressions():
        series = series_of(expression)
        known: set[str] = set(OF_PROMETHEUS).union(*(labels.get(name, set()) for name in series))
        complaints += [f"{title}: {name}" for name in sorted(series - set(labels))]
        complaints += [f"{title}: label {name}" for name in sorted(labels_of(expression) - known)]
    return complaints


def test_every_panel_and_alert_asks_for_what_there_is(
    tmp_path: Path, start_runfold: Callable[..., Server]
) -> None:
    """Each series and label in a query is in what a server tells, once it has exported."""
    server = start_runfold(tmp_path / "home", "--export-age", "0.1")
    body = json.dumps({"name": "exported"}).encode()
    headers = {"Content-Type": "application/json"}
    send(server.url, "POST", "/api/2.0/mlflow/experiments/create", body, headers)

    def missing() -> list[str]:
        return missing_from(parsed(send(server.url, "GET", "/metrics").body))

    assert len(list(expressions())) > 30
    deadline = time.monotonic() + EXPORTED_S_MAX
    while missing() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert missing() == []


def test_every_alert_is_documented() -> None:
    """The page on operations has each alert's name."""
    page = (ROOT / "docs/operations.md").read_text("utf-8")
    alerts = yaml.safe_load((MONITORING / "alerts.yaml").read_text("utf-8"))
    names = {rule["alert"] for group in alerts["groups"] for rule in group["rules"]}
    assert {name for name in names if f"| {name} |" not in page} == set()


def test_a_panel_without_series_is_seen() -> None:
    """The check above finds names and labels that nobody has."""
    found = {("runfold_lag_events", frozenset({("lane", "points"), ("partition", "0")})): 1.0}
    missing = missing_from(found)
    assert "Events folded: runfold_folded_events_total" in missing
    assert "Who works: label role" in missing
    assert [one for one in missing if "runfold_lag_events" in one] == []
