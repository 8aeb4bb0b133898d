"""Who may talk to the server, and what it tells browsers."""

import time

import pytest
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from api.security import Security
from tests.asgi import Answer, call

API = "/api/2.0/mlflow/runs/create"


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that answers everything."""
    await PlainTextResponse("served")(scope, receive, send)


DEFAULTS = Security(app)


def ask(
    secured: ASGIApp,
    host: str = "localhost:5000",
    origin: str | None = None,
    method: str = "POST",
    path: str = API,
) -> Answer:
    """One request with these two headers."""
    headers = {"host": host} | ({} if origin is None else {"origin": origin})
    return call(secured, method, path, headers=headers)


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:5000",
        "LOCALHOST:80",
        "127.0.0.1:5000",
        "[::1]:5000",
        "0.0.0.0:5000",
        "192.168.1.5:5000",
        "10.0.0.1",
        "172.16.0.1:5000",
        "172.31.255.1",
        "[fd00::1]:5000",
    ],
)
def test_local_and_private_hosts_are_served(host: str) -> None:
    """Without a setting, localhost and private addresses are answered to, on any port."""
    assert ask(DEFAULTS, host).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.com",
        "evil.com:5000",
        "localhost.evil.com",
        "127.0.0.1.evil.com",
        "192.168.1.5.evil.com",
        "10.evil.com:5000",
        "172.32.0.1",
        "8.8.8.8",
        "",
        "localhost:5000:evil",
        "localhost@evil.com",
    ],
)
def test_other_names_are_refused(host: str) -> None:
    """A name that was rebound to this address gets 403, also one that begins like an address."""
    answer = ask(DEFAULTS, host, method="GET")
    assert answer.status == 403
    assert answer.json()["error_code"] == "PERMISSION_DENIED"


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics", "/version"])
def test_health_is_served_under_any_name(path: str) -> None:
    """Load balancers and scrapers may ask under any name, for that and nothing else."""
    assert ask(DEFAULTS, "evil.com", path=path, method="GET").status == 200
    assert ask(DEFAULTS, "evil.com", path=f"{path}/x", method="GET").status == 403
    prefixed = Security(app, static_prefix="/ml")
    assert ask(prefixed, "evil.com", path=f"/ml{path}", method="GET").status == 200
    assert ask(prefixed, "evil.com", path=path, method="GET").status == 403


def test_allowed_hosts() -> None:
    """Names that were given are served, with wildcards, and the defaults no longer are."""
    secured = Security(app, allowed_hosts=["ml.example.com", "*.corp:8080", "[::1]:*"])
    for host in ("ml.example.com", "ML.example.com:5000", "a.corp:8080", "[::1]:7"):
        assert ask(secured, host).status == 200
    for host in ("evil.com", "a.corp:1", "localhost", "ml.example.com.evil.com"):
        assert ask(secured, host).status == 403
    assert ask(Security(app, allowed_hosts=["*"]), "anything").status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize(
    "origin",
    ["http://evil.com", "null", "http://localhost.evil.com", "file://", "http://[", "", "x"],
)
def test_pages_of_other_sites_change_nothing(method: str, origin: str) -> None:
    """A request that changes something and comes from another site's page gets 403."""
    answer = ask(DEFAULTS, origin=origin, method=method)
    assert answer.status == 403
    assert answer.json()["error_code"] == "PERMISSION_DENIED"
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    "origin",
    [None, "http://localhost:3000", "http://127.0.0.1", "http://[::1]:8", "https://localhost"],
)
def test_local_pages_and_programs_are_served(origin: str | None) -> None:
    """Clients that are no browsers, and pages of this machine, are served."""
    answer = ask(DEFAULTS, origin=origin)
    assert answer.status == 200
    assert answer.headers.get("access-control-allow-origin") == origin


def test_the_servers_own_pages_are_served() -> None:
    """A page of the very host that it calls is no other site; a rebound name is, with any host."""
    assert ask(DEFAULTS, "192.168.1.5:5000", "http://192.168.1.5:5000").status == 200
    assert ask(DEFAULTS, "192.168.1.5:5000", "http://192.168.1.5:6000").status == 403
    open_to_all = Security(app, allowed_hosts=["*"])
    assert ask(open_to_all, "evil.com", "http://evil.com").status == 403
    assert ask(DEFAULTS, "evil.com", "http://evil.com").status == 403


def test_reading_is_left_to_the_browser() -> None:
    """A GET of another site's page is answered without the headers that would let it read."""
    answer = ask(DEFAULTS, origin="http://evil.com", method="GET")
    assert answer.status == 200
    assert "access-control-allow-origin" not in answer.headers


def test_allowed_origins() -> None:
    """Origins that were given are served, with wildcards; `*` serves all, without credentials."""
    secured = Security(app, cors_allowed_origins=["https://ml.corp", "https://*.lab.corp"])
    for origin in ("https://ml.corp", "https://a.lab.corp"):
        answer = ask(secured, origin=origin)
        assert answer.status == 200
        assert answer.headers["access-control-allow-origin"] == origin
        assert answer.headers["vary"] == "Origin"
    for origin in ("https://ml.corp.evil.com", "http://ml.corp"):
        assert ask(secured, origin=origin).status == 403
    answer = ask(Security(app, cors_allowed_origins=["*"]), origin="http://evil.com")
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in answer.headers


def test_preflights() -> None:
    """A preflight of an allowed origin is granted here, one of another origin refused."""
    headers = {
        "access-control-request-method": "POST",
        "access-control-request-headers": "content-type,x-y",
    }
    granted = call(DEFAULTS, "OPTIONS", API, headers={**headers, "origin": "http://localhost:3"})
    assert granted.status == 200
    assert granted.body == b""
    assert granted.headers["access-control-allow-headers"] == "content-type,x-y"
    assert "POST" in granted.headers["access-control-allow-methods"]
    refused = call(DEFAULTS, "OPTIONS", API, headers={**headers, "origin": "http://evil.com"})
    assert refused.status == 403


def test_safety_headers() -> None:
    """Every answer, refusals too, forbids sniffing and framing; the frame option can be changed."""
    for answer in (ask(DEFAULTS), ask(DEFAULTS, "evil.com")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "SAMEORIGIN"
    assert ask(Security(app, x_frame_options="deny")).headers["x-frame-options"] == "DENY"
    assert "x-frame-options" not in ask(Security(app, x_frame_options="none")).headers


def test_it_costs_little() -> None:
    """The checks of a plain request take far less than a request does (80 µs)."""
    scope = {
        "type": "http",
        "method": "POST",
        "path": API,
        "headers": [(b"host", b"localhost:5000"), (b"user-agent", b"x"), (b"accept", b"*/*")],
    }

    async def nothing(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def ignore(_message: object) -> None:
        pass

    async def never() -> dict[str, object]:
        raise AssertionError

    secured = Security(nothing)
    best_s = 1.0
    for _ in range(200):
        run = secured(scope, never, ignore)
        start_s = time.perf_counter()
        with pytest.raises(StopIteration):
            run.__await__().send(None)
        best_s = min(best_s, time.perf_counter() - start_s)
    assert best_s < 50e-6, f"{best_s * 1e6:.1f} µs"
