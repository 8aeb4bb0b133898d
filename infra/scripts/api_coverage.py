"""Writes docs/api-coverage.md: every endpoint of MLflow's server, and what Runfold does with it.

MLflow's endpoints are read from the installed package's own tables of routes, Runfold's from the
routes that its application serves, so the page can't say more than the code does. With --check it
writes nothing and fails when the page is out of date.
"""

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from mlflow.server import app as flask_app
from mlflow.server.fastapi_app import app as fastapi_app
from starlette.routing import BaseRoute, Match, Route

from api.app import all_routes
from events.settings import Settings

PAGE = Path(__file__).resolve().parents[2] / "docs" / "api-coverage.md"

YES, OVER_S3, LATER, NEVER = "yes", "yes, over S3", "no (later)", "no"

# Areas in the order of the page; the first pattern that is found in a path names its area.
AREAS = {
    "Experiments and datasets of runs": r"mlflow/experiments/",
    "Runs": r"/mlflow/runs/",
    "Metric history": r"/mlflow/metrics/",
    "Logged models": r"/mlflow/logged-models",
    "Model registry": r"/registered-models/|/model-versions/",
    "Artifacts": r"/mlflow-artifacts/|/mlflow/artifacts/|/get-artifact$|/upload-artifact$",
    "Webhooks": r"/webhooks",
    "Evaluation datasets": r"/mlflow/datasets",
    "AI gateway": r"/gateway",
    "Assistant": r"/assistant",
    "MCP servers": r"/mcp-servers",
    "Scorers, label schemas, review queues and issues": (
        r"/scorers?/|/label-schemas|/review-queues|/issues|/genai"
    ),
    "Prompt optimization and jobs": r"/prompt-optimization|/jobs",
    "Workspaces": r"/workspaces",
    "Traces": r"/traces|trace",
    "Server and web pages": r"",
}

# Routes for clients that go to the store themselves, which a folder has no way for.
DIRECT = re.compile(r"/mlflow-artifacts/(mpu|presigned)/|/mlflow/artifacts/presigned-")

# What stays out, and why.
REASONS = {
    r"/2\.0mlflow/": "MLflow's slip of a slash; the call with it is there",
    r"/ui-telemetry$": "Runfold sends no usage data to anybody",
    r"/static-files/|/build/": "files of MLflow's own web pages",
    r"/demo": "sample data of MLflow's own web pages",
}


@dataclass(frozen=True, order=True)
class Endpoint:
    """One method of one path, as the server routes it."""

    path: str
    method: str

    @property
    def area(self) -> str:
        return next(area for area, found in AREAS.items() if re.search(found, self.path))

    @property
    def twin(self) -> "Endpoint":
        """The same call below /api/, for one below /ajax-api/."""
        return Endpoint(re.sub("^/ajax-api/", "/api/", self.path), self.method)


def mlflow_endpoints() -> set[Endpoint]:
    """What MLflow's server routes: its Flask application, and the FastAPI routers before it."""
    found = set()
    for rule in flask_app.url_map.iter_rules():
        path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule)
        found |= {Endpoint(path, method) for method in rule.methods - {"HEAD", "OPTIONS"}}
    for included in fastapi_app.routes:
        if not hasattr(included, "original_router"):
            continue  # The mount of the Flask application.
        for route in included.original_router.routes:
            path = included.include_context.prefix + re.sub(r":path}", "}", route.path)
            found |= {Endpoint(path, method) for method in route.methods - {"HEAD", "OPTIONS"}}
    return found


def is_served(endpoint: Endpoint, routes: Iterable[BaseRoute]) -> bool:
    scope = {
        "type": "http",
        "method": endpoint.method,
        "path": re.sub(r"{\w+}", "1", endpoint.path),
        "headers": [],
    }
    return any(route.matches(dict(scope))[0] is Match.FULL for route in routes)


def verdict(endpoint: Endpoint, routes: Sequence[BaseRoute]) -> str:
    if is_served(endpoint, routes):
        return OVER_S3 if DIRECT.search(endpoint.path) else YES
    for found, reason in REASONS.items():
        if re.search(found, endpoint.path):
            return f"{NEVER}: {reason}"
    return LATER


@dataclass(frozen=True)
class Row:
    """One line of the page: a call, the prefixes that MLflow serves it under, and the verdict."""

    endpoint: Endpoint
    under: str
    verdict: str


def rows(endpoints: set[Endpoint], routes: Sequence[BaseRoute]) -> Iterator[Row]:
    """One row a call; two where MLflow's two prefixes fare differently with Runfold."""
    for endpoint in sorted(endpoints):
        said = verdict(endpoint, routes)
        if endpoint.path.startswith("/ajax-api/"):
            if endpoint.twin not in endpoints or verdict(endpoint.twin, routes) != said:
                yield Row(endpoint, "ajax-api", said)
            continue
        ajax = Endpoint(re.sub("^/api/", "/ajax-api/", endpoint.path), endpoint.method)
        both = ajax != endpoint and ajax in endpoints and verdict(ajax, routes) == said
        own = "api" if endpoint.path.startswith("/api/") else ""
        yield Row(endpoint, "api, ajax-api" if both else own, said)


def extras(endpoints: set[Endpoint], routes: Iterable[BaseRoute]) -> list[Endpoint]:
    """What Runfold serves and MLflow does not."""

    def shape(endpoint: Endpoint) -> Endpoint:
        return Endpoint(re.sub(r"{[^}]*}", "{}", endpoint.path), endpoint.method)

    known = {shape(endpoint) for endpoint in endpoints}
    own = {
        Endpoint(route.path, method)
        for route in routes
        if isinstance(route, Route)
        for method in (route.methods or set()) - {"HEAD", "OPTIONS"}
    }
    return sorted(endpoint for endpoint in own if shape(endpoint) not in known)


def page(endpoints: set[Endpoint], routes: Sequence[BaseRoute]) -> str:
    table = list(rows(endpoints, routes))
    lines = [
        "# MLflow's API, call by call",
        "",
        "<!-- Made by infra/scripts/api_coverage.py; change that, not this page. -->",
        "",
        f"Every endpoint that the server of mlflow {version('mlflow')} routes, and what Runfold",
        "does with it. *Under* names the prefixes: MLflow serves most calls twice, below `/api/`",
        "for clients and below `/ajax-api/` for its web pages; a path written with `/api/` stands",
        "for both where both are named.",
        "",
        f"- **{YES}**: there, with MLflow's answers and errors.",
        f"- **{OVER_S3}**: there where artifacts are in S3; over a folder it answers as MLflow",
        "  does over one, so that a client takes its other way.",
        f"- **{LATER}**: answers 404 `ENDPOINT_NOT_FOUND` in this version.",
        "",
        "| area | there | of |",
        "|---|---:|---:|",
    ]
    for area in AREAS:
        here = [row for row in table if row.endpoint.area == area]
        served = sum(row.verdict in (YES, OVER_S3) for row in here)
        lines.append(f"| {area} | {served} | {len(here)} |")
    for area in AREAS:
        lines += ["", f"## {area}", "", "| method | path | under | Runfold |", "|---|---|---|---|"]
        lines += [
            f"| {row.endpoint.method} | `{row.endpoint.path}` | {row.under} | {row.verdict} |"
            for row in table
            if row.endpoint.area == area
        ]
    own = extras(endpoints, routes)
    if own:
        lines += ["", "## Served by Runfold alone", "", "| method | path |", "|---|---|"]
        lines += [f"| {endpoint.method} | `{endpoint.path}` |" for endpoint in own]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> int:
    made = page(mlflow_endpoints(), all_routes(Settings()))
    if "--check" not in arguments:
        PAGE.write_text(made, "utf-8")
        return 0
    if not PAGE.exists() or PAGE.read_text("utf-8") != made:
        print("docs/api-coverage.md is out of date: run infra/scripts/api_coverage.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
