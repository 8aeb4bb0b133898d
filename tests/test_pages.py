"""The page at `/`, health, version and server-info."""

from types import SimpleNamespace
from typing import Any

from starlette.applications import Starlette
from starlette.routing import Route

from api.pages import ROUTES as PAGES
from api.pages import RUNFOLD_VERSION, SERVER_INFO, home
from events.memory_blobs import MemoryBlobs
from events.settings import Settings
from tests.asgi import Answer, call

STOPPED = {"status": "stopped", "lanes": {"journal": {"stopped": "run.folded at 7"}}}


def ask(target: str, headers: dict[str, str] | None = None, **settings: Any) -> Answer:
    """One GET of a server with these settings."""
    app = Starlette(routes=[*PAGES, Route("/ml/", home)])
    app.state.services = SimpleNamespace(
        settings=Settings(**settings),
        health=lambda: STOPPED,
        artifacts=SimpleNamespace(proxied=MemoryBlobs()),
    )
    return call(app, "GET", target, headers=headers)


def test_the_page_says_how_to_point_a_client_here() -> None:
    """The page names the version and the address that the browser itself used."""
    answer = ask("/", {"host": "ml.corp:8080"})
    page = answer.body.decode()
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/html")
    assert "MLFLOW_TRACKING_URI=http://ml.corp:8080<" in page
    assert RUNFOLD_VERSION in page
    assert len(answer.body) < 8_000


def test_the_page_has_the_prefix() -> None:
    """Behind a prefix, the address and the links have it."""
    page = ask("/ml/", {"host": "h"}, static_prefix="/ml").body.decode()
    assert "MLFLOW_TRACKING_URI=http://h/ml<" in page
    assert 'href="/ml/health"' in page


def test_the_page_needs_nothing_and_runs_nothing() -> None:
    """The page loads nothing from anywhere, has no script, and a host name can't bring one in."""
    answer = ask("/", {"host": '"><script>alert(1)</script>'})
    page = answer.body.decode()
    assert "<script" not in page
    assert "http" not in page.replace("http://&quot;&gt;&lt;", "").replace("Accept", "")
    assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_health() -> None:
    """Health is OK for whoever probes, and says which lane stands still to who asks for JSON."""
    answer = ask("/health")
    assert (answer.status, answer.body) == (200, b"OK")
    detailed = ask("/health", {"accept": "application/json"})
    assert (detailed.status, detailed.json()) == (200, STOPPED)
    artifacts_only = ask("/health", {"accept": "application/json"}, artifacts_only=True)
    assert artifacts_only.json() == {"status": "ok", "lanes": {}}


def test_version_and_server_info() -> None:
    """Clients are told the MLflow version whose API this is, and what is on."""
    answer = ask("/version")
    assert answer.body == b"3.17.2"
    in_parts = {"multipart_uploads_enabled": False, "multipart_downloads_enabled": False}
    assert ask("/api/3.0/mlflow/server-info").json() == {**SERVER_INFO, **in_parts}
