"""Artifacts in S3 over HTTP: through the server, and past it by URLs of the bucket's own."""

import asyncio
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.types import Message

from api.artifacts import PROXY_ROUTES, ROUTES
from api.errors import EXCEPTION_HANDLERS, UnexpectedErrors
from api.pages import ROUTES as PAGES
from events.blobs import put
from events.s3_blobs import PART_BYTES, S3Blobs
from events.settings import Settings
from infra.backends.service import Service
from infra.backends.versitygw import BUCKET
from tests.asgi import Answer, call
from tests.backends import S3Place
from tests.test_s3_blobs import content, waiting
from workers.stores import opened_artifacts

PROXY = "/api/2.0/mlflow-artifacts"
JSON = {"content-type": "application/json"}
PART = 5 * 1024 * 1024
"""S3 takes no smaller parts, but for the last."""


class Server:
    """The artifact routes over a place in S3, with one run whose artifacts are there."""

    def __init__(self, place: S3Place, **settings: Any) -> None:
        told = Settings(
            artifacts_destination=f"{place.uri}/proxied",
            default_artifact_root=f"{place.uri}/runs",
            s3_endpoint_url=place.endpoint,
            **settings,
        )
        self.app = Starlette(
            routes=[*ROUTES, *PROXY_ROUTES, *PAGES],
            middleware=[Middleware(UnexpectedErrors)],
            exception_handlers=EXCEPTION_HANDLERS,
        )
        self.blobs: S3Blobs = place.blobs("/proxied")
        self.runs: S3Blobs = place.blobs("/runs")

        async def read(_query: Callable[..., Any], run_id: str) -> Any:
            return f"{place.uri}/{run_id}/1/r/artifacts"

        self.app.state.services = SimpleNamespace(
            settings=told,
            artifacts=opened_artifacts(told),
            views=SimpleNamespace(read=read),
            health=lambda: {"status": "ok"},
        )

    def __call__(self, method: str, target: str, *args: Any, **kwargs: Any) -> Answer:
        return call(self.app, method, target, *args, **kwargs)

    def post(self, target: str, body: str) -> Answer:
        """One POST of JSON."""
        return self("POST", target, body.encode(), JSON)


@pytest.fixture
def server(s3_place: S3Place) -> Server:
    return Server(s3_place)


def code_of(answer: Answer) -> tuple[int, str]:
    """The status and MLflow's code of an error."""
    return answer.status, answer.json()["error_code"]


def test_up_and_down_through_the_server(server: Server) -> None:
    """What a client puts is what it gets, of any size, whole and in ranges; then it is deleted."""
    for body in (b"first", os.urandom(PART_BYTES + 5), b""):
        chunks = [body[i : i + 60_000] for i in range(0, len(body), 60_000)] or [b""]
        assert server("PUT", f"{PROXY}/artifacts/1/r/model.bin", chunks).status == 200
        down = server("GET", f"{PROXY}/artifacts/1/r/model.bin")
        assert (down.status, down.body) == (200, body)
        assert down.headers["content-length"] == str(len(body))
        part = server("GET", f"{PROXY}/artifacts/1/r/model.bin", headers={"range": "bytes=2-3"})
        assert part.body == body[2:4] or part.status == 416
    assert server("GET", f"{PROXY}/artifacts?path=1/r").json() == {
        "files": [{"path": "model.bin", "is_dir": False}]
    }
    assert server("DELETE", f"{PROXY}/artifacts/1").status == 200
    assert code_of(server("GET", f"{PROXY}/artifacts/1/r/model.bin"))[0] == 404


def test_runs_below_the_root_are_reached_and_no_others(server: Server) -> None:
    """A run whose artifacts are below the configured root is served from there; another is not."""
    put(server.runs, "1/r/artifacts/d/x.txt", [b"content"])
    target = "/api/2.0/mlflow/artifacts/list?path=d&run_id="
    assert server("GET", f"{target}runs").json()["files"] == [
        {"path": "d/x.txt", "is_dir": False, "file_size": 7}
    ]
    assert server("GET", "/get-artifact?run_id=runs&path=d/x.txt").body == b"content"
    assert code_of(server("GET", f"{target}runs-of-others")) == (400, "INVALID_PARAMETER_VALUE")


def test_an_upload_that_breaks_off_leaves_nothing(server: Server) -> None:
    """When the client goes away in the middle, no parts stay in the bucket."""
    parts: list[Message] = [
        {"type": "http.request", "body": b"n" * (PART_BYTES + 1), "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive() -> Message:
        return parts.pop(0)

    async def send(_message: Message) -> None:
        pass

    path = f"{PROXY}/artifacts/x"
    scope: dict[str, Any] = {"type": "http", "method": "PUT", "path": path, "root_path": ""}
    asyncio.run(server.app({**scope, "query_string": b"", "headers": []}, receive, send))
    assert waiting(server.blobs) == []
    assert server.blobs.list("") == []


def test_large_files_cost_no_memory(server: Server, s3_server: Service) -> None:
    """Files of 3 GB down and 200 MB up need a bounded memory."""
    put(server.blobs, "big", [b"start"])
    size_bytes = 3 * 1024**3
    file = s3_server.folder / "data" / BUCKET / server.blobs.bucket.key("big")
    with file.open("r+b") as big:
        big.truncate(size_bytes)
    server("GET", f"{PROXY}/artifacts/big", headers={"range": "bytes=0-9"})
    server("PUT", f"{PROXY}/artifacts/up", [b"x" * (PART_BYTES + 1)])
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answer = server("GET", f"{PROXY}/artifacts/big", keep=False)
    assert answer.size_bytes == size_bytes
    piece = b"x" * 65_536
    assert server("PUT", f"{PROXY}/artifacts/up", [piece] * 3_200).status == 200
    info = server.blobs.stat("up")
    assert info is not None
    assert info.size_bytes == 3_200 * 65_536
    grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb) / 1024
    assert grown_mb < 32


def sent_parts(begun: Any, bodies: list[bytes]) -> str:
    """The JSON of parts that were sent to their URLs."""
    parts = []
    for credential, body in zip(begun["credentials"], bodies, strict=True):
        sent = requests.put(credential["url"], data=body, timeout=60)
        assert sent.status_code == 200, sent.text
        etag = sent.headers["ETag"].replace('"', '\\"')
        parts.append(f'{{"part_number": {credential["part_number"]}, "etag": "{etag}"}}')
    return ", ".join(parts)


def test_uploads_in_parts(server: Server) -> None:
    """Parts that a client sends to the bucket become an artifact when the client says so; saying
    it again, after an answer that was lost, changes nothing."""
    bodies = [os.urandom(PART), b"the end"]
    asked = '{"path": "/home/me/model.bin", "num_parts": 2}'
    begun = server.post(f"{PROXY}/mpu/create/1/r/artifacts", asked).json()
    named = f'"path": "model.bin", "upload_id": "{begun["upload_id"]}"'
    parts = sent_parts(begun, bodies)
    assert server.blobs.list("1/r/artifacts") == []
    for _ in range(2):
        complete = server.post(
            f"{PROXY}/mpu/complete/1/r/artifacts", f'{{{named}, "parts": [{parts}]}}'
        )
        assert (complete.status, complete.json()) == (200, {})
    assert content(server.blobs, "1/r/artifacts/model.bin") == b"".join(bodies)
    other = parts.replace('"part_number": 2', '"part_number": 3')
    answer = server.post(
        f"{PROXY}/mpu/complete/1/r/artifacts",
        f'{{"path": "other", "upload_id": "{begun["upload_id"]}", "parts": [{other}]}}',
    )
    assert answer.status in (400, 404)


def test_uploads_in_parts_that_are_given_up(server: Server) -> None:
    """Nothing is left of a given-up upload; giving up what is not there is no error."""
    begun = server.post(f"{PROXY}/mpu/create/d", '{"path": "x", "num_parts": 1}').json()
    sent_parts(begun, [b"some"])
    for _ in range(2):
        answer = server.post(
            f"{PROXY}/mpu/abort/d", f'{{"path": "x", "upload_id": "{begun["upload_id"]}"}}'
        )
        assert (answer.status, answer.json()) == (200, {})
    assert (waiting(server.blobs), server.blobs.list("")) == ([], [])


@pytest.mark.parametrize(
    ("target", "body"),
    [
        ("mpu/create/x", '{"path": "f", "num_parts": 10001}'),
        ("mpu/create/x", '{"path": "f", "num_parts": -1}'),
        ("mpu/create/x", '{"path": ".."}'),
        ("mpu/create/%2e%2e/x", '{"path": "f"}'),
        ("mpu/create/there", '{"path": "f"}'),
        ("mpu/complete/x", '{"path": "f", "parts": []}'),
        ("mpu/complete/x", '{"path": "f", "upload_id": "u", "parts": [{"part_number": 1}]}'),
        ("mpu/abort/x", '{"path": "f"}'),
    ],
)
def test_uploads_in_parts_that_are_refused(server: Server, target: str, body: str) -> None:
    """What can't become an artifact is refused before anything is begun."""
    put(server.blobs, "there", [b"a blob"])
    answer = server.post(f"{PROXY}/{target}", body)
    assert code_of(answer) == (400, "INVALID_PARAMETER_VALUE")
    assert waiting(server.blobs) == []


def test_downloads_by_urls_of_the_bucket(server: Server) -> None:
    """A URL gives the artifact, in ranges too, as a file to be saved under its own name."""
    put(server.blobs, "1/a b.html", [b"<p>content"])
    given = server("GET", f"{PROXY}/presigned/1/a%20b.html").json()
    assert (given["file_size"], given["headers"]) == (10, {})
    found = requests.get(given["url"], headers={"range": "bytes=3-5"}, timeout=60)
    assert (found.status_code, found.content) == (206, b"con")
    assert found.headers["Content-Disposition"] == 'attachment; filename="a b.html"'
    assert code_of(server("GET", f"{PROXY}/presigned/1/nope")) == (404, "RESOURCE_DOES_NOT_EXIST")


def test_urls_for_runs_in_the_bucket(server: Server) -> None:
    """A run below the root is up- and downloaded by URLs, for as long as was asked; none is given
    for a place that a folder or a file has taken."""
    base = "/api/2.0/mlflow/artifacts/presigned"
    up = server.post(f"{base}-upload-url", '{"run_id": "runs", "path": "d/x.txt"}').json()
    assert requests.put(up["presigned_url"], data=b"up", headers=up["headers"], timeout=60).ok
    assert content(server.runs, "1/r/artifacts/d/x.txt") == b"up"
    for taken in ("d", "d/x.txt/y"):
        refused = server.post(f"{base}-upload-url", f'{{"run_id": "runs", "path": "{taken}"}}')
        assert code_of(refused) == (400, "INVALID_PARAMETER_VALUE")
    asked = '{"run_id": "runs", "path": "d/x.txt", "expiration": 1}'
    down = server.post(f"{base}-download-url", asked).json()
    assert requests.get(down["presigned_url"], timeout=60).content == b"up"
    time.sleep(2.5)
    assert requests.get(down["presigned_url"], timeout=60).status_code == 403


def test_clients_are_told_whether_there_are_urls(s3_place: S3Place, tmp_path: Path) -> None:
    """Server-info says that uploads in parts are there; where they were turned off, and over a
    folder, it says no and they answer as MLflow does there."""
    for on in (True, False):
        server = Server(s3_place, presigned_urls=on, home=tmp_path)
        told = server("GET", "/api/3.0/mlflow/server-info").json()
        assert told["multipart_uploads_enabled"] is on
        assert told["multipart_downloads_enabled"] is on
        answer = server.post(f"{PROXY}/mpu/create/x", '{"path": "f"}')
        assert answer.status == (200 if on else 501)
        assert server("GET", f"{PROXY}/presigned/x").status == (404 if on else 501)


def test_a_server_that_is_away(own_s3_server: Service, own_s3_place: S3Place) -> None:
    """While S3 is away each call for artifacts is told to come again, at once and with
    Retry-After, and nothing else is affected."""
    server = Server(own_s3_place)
    put(server.blobs, "x", [b"1"])
    own_s3_server.kill()
    for method, target in (
        ("GET", "artifacts/x"),
        ("PUT", "artifacts/y"),
        ("DELETE", "artifacts/x"),
        ("GET", "artifacts"),
        ("GET", "presigned/x"),
    ):
        answer = server(method, f"{PROXY}/{target}")
        assert code_of(answer) == (503, "TEMPORARILY_UNAVAILABLE")
        assert answer.headers["retry-after"]
    assert server("GET", "/health", headers={"accept": "application/json"}).status == 200
    own_s3_server.start()
    assert server("GET", f"{PROXY}/artifacts/x").body == b"1"
