"""Artifacts over HTTP: of runs and through the proxy, up, down, listed and deleted."""

import asyncio
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route
from starlette.types import Message

from api.artifacts import PROXY_ROUTES, ROUTES, UPLOAD_BYTES_MAX, tracking_disabled
from api.errors import EXCEPTION_HANDLERS, UnexpectedErrors
from api.transfers import content_disposition, content_type
from events.artifact_uris import artifact_roots
from events.blobs import put
from events.errors import ResourceDoesNotExist
from events.local_blobs import UPLOADS, LocalBlobs
from events.settings import Settings
from projections.logged_models import get_model_row
from tests.asgi import Answer, call

PROXY = "/api/2.0/mlflow-artifacts/artifacts"
RUN_ROOT = "1/abc/artifacts"
JSON = {"content-type": "application/json"}


class Views:
    """Knows two runs: one behind the proxy, one in a folder, one in a bucket."""

    def __init__(self, folder: Path) -> None:
        self.uris = {
            "abc": f"mlflow-artifacts:/{RUN_ROOT}",
            "local": str(folder / "1/local/artifacts"),
            "bucket": "s3://bucket/1/bucket/artifacts",
        }

    async def read(self, query: Callable[..., Any], run_id: str) -> Any:
        if query is get_model_row and run_id == "m-1":
            return {"artifact_location": "mlflow-artifacts:/1/models/m-1/artifacts"}
        if run_id not in self.uris:
            raise ResourceDoesNotExist(f"Run with id={run_id} not found")
        return self.uris[run_id]


class Server:
    """The artifact routes over a folder of this test."""

    def __init__(self, home: Path, **settings: Any) -> None:
        told = Settings(home=home, **settings)
        self.root = told.artifacts_path
        self.app = Starlette(
            routes=[*ROUTES, *PROXY_ROUTES, Route("/off", tracking_disabled)],
            middleware=[Middleware(UnexpectedErrors)],
            exception_handlers=EXCEPTION_HANDLERS,
        )
        self.blobs = LocalBlobs(self.root)
        self.app.state.services = SimpleNamespace(
            settings=told,
            artifacts=artifact_roots(told, self.blobs, LocalBlobs),
            views=Views(self.root),
        )

    def __call__(self, method: str, target: str, *args: Any, **kwargs: Any) -> Answer:
        return call(self.app, method, target, *args, **kwargs)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server, whose uploads all ended one way or the other when the test is over."""
    made = Server(tmp_path / "home")
    yield made
    waiting = made.root / UPLOADS
    assert not waiting.exists() or not list(waiting.iterdir())


@pytest.fixture
def filled(server: Server) -> Server:
    """A server with a run's artifacts."""
    for path in ("a.txt", "d/p.html", "d/MLmodel", "d/e/n.png", "é x.txt"):
        put(server.blobs, f"{RUN_ROOT}/{path}", [f"content of {path}".encode()])
    return server


def check_refused(answer: Answer, status: int, code: str) -> None:
    """The answer is MLflow's JSON of this error."""
    assert (answer.status, answer.json()["error_code"]) == (status, code), answer.body
    assert answer.json()["message"]
    assert answer.headers["content-type"] == "application/json"


def test_up_and_down_through_the_proxy(server: Server) -> None:
    """What a client puts is what it gets, byte for byte, also when it puts it again."""
    for body in (b"first", os.urandom(3_000_000), b""):
        chunks = [body[i : i + 60_000] for i in range(0, len(body), 60_000)] or [b""]
        up = server("PUT", f"{PROXY}/{RUN_ROOT}/model.bin", chunks)
        assert (up.status, up.body) == (200, b"")
        down = server("GET", f"{PROXY}/{RUN_ROOT}/model.bin")
        assert (down.status, down.body) == (200, body)
        assert down.headers["content-length"] == str(len(body))


def test_an_upload_that_breaks_off_leaves_nothing(server: Server) -> None:
    """When the client goes away in the middle, the old artifact stays and no part of the new one.

    The connection ends before the last piece has come.
    """
    put(server.blobs, "x", [b"old"])
    parts: list[Message] = [
        {"type": "http.request", "body": b"n" * 2_000_000, "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive() -> Message:
        return parts.pop(0)

    async def send(_message: Message) -> None:
        pass

    scope = {
        "type": "http",
        "method": "PUT",
        "path": f"{PROXY}/x",
        "query_string": b"",
        "headers": [],
        "root_path": "",
    }
    asyncio.run(server.app(scope, receive, send))
    assert server("GET", f"{PROXY}/x").body == b"old"


@pytest.mark.parametrize(
    ("path", "kind", "disposition"),
    [
        ("a.txt", "text/plain", "attachment; filename=a.txt"),
        ("d/p.html", "text/html", "attachment; filename=p.html"),
        ("d/MLmodel", "text/plain", "attachment; filename=MLmodel"),
        ("d/e/n.png", "image/png", "attachment; filename=n.png"),
        (
            "%C3%A9%20x.txt",
            "text/plain",
            "attachment; filename=\"e x.txt\"; filename*=UTF-8''%C3%A9%20x.txt",
        ),
    ],
)
def test_downloads_are_attachments(filled: Server, path: str, kind: str, disposition: str) -> None:
    """Every artifact is saved, never shown as a page of this server, under its own name."""
    for target in (f"{PROXY}/{RUN_ROOT}/{path}", f"/get-artifact?run_id=abc&path={path}"):
        answer = filled("GET", target)
        assert answer.status == 200
        assert answer.headers["content-type"] == kind
        assert answer.headers["content-disposition"] == disposition
        assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("name", ['q"x\\.txt', "日本語", "a;b,c.txt", "naïve\r\nX: y"])
def test_names_stay_inside_their_header(name: str) -> None:
    """No name breaks out of the Content-Disposition header."""
    header = content_disposition(name)
    assert header.isascii()
    assert header.isprintable()
    assert content_type(name)


@pytest.mark.parametrize(
    ("asked", "status", "body"),
    [
        ("bytes=0-3", 206, b"cont"),
        ("bytes=-3", 206, b"txt"),
        ("bytes=11-", 206, b"a.txt"),
        ("bytes=11-999", 206, b"a.txt"),
        ("bytes=-999", 206, b"content of a.txt"),
        ("bytes=15-15", 206, b"t"),
        ("bytes=5-2", 200, b"content of a.txt"),
        ("bytes=a-b", 200, b"content of a.txt"),
        ("bytes=-", 200, b"content of a.txt"),
        ("lines=1-2", 200, b"content of a.txt"),
        ("bytes=0-1,3-4", 200, b"content of a.txt"),
        ("bytes=16-", 416, None),
        ("bytes=-0", 416, None),
        ("bytes=99999999999999999999-", 200, b"content of a.txt"),
    ],
)
def test_ranges(filled: Server, asked: str, status: int, body: bytes | None) -> None:
    """One range is answered with that part; what can't be one, with the whole; none there: 416."""
    answer = filled("GET", f"{PROXY}/{RUN_ROOT}/a.txt", headers={"range": asked})
    assert answer.status == status
    if body is None:
        assert answer.headers["content-range"] == "bytes */16"
        return
    assert answer.body == body
    assert answer.headers["content-length"] == str(len(body))
    if status == 206:
        start = b"content of a.txt".rindex(body)
        assert answer.headers["content-range"] == f"bytes {start}-{start + len(body) - 1}/16"


def test_a_range_of_other_bytes_is_not_mixed_in(filled: Server) -> None:
    """A client that resumes gets the rest only of the very artifact that it has the start of."""
    target = f"{PROXY}/{RUN_ROOT}/a.txt"
    etag = filled("GET", target).headers["etag"]
    resume = {"range": "bytes=3-", "if-range": etag}
    assert filled("GET", target, headers=resume).status == 206
    assert filled("GET", target, headers={"if-none-match": etag}).status == 304
    put(filled.blobs, f"{RUN_ROOT}/a.txt", [b"others of a.txt!"])
    answer = filled("GET", target, headers=resume)
    assert (answer.status, answer.body) == (200, b"others of a.txt!")
    assert filled("GET", target, headers={"if-none-match": etag}).status == 200


def test_head_tells_without_sending(filled: Server) -> None:
    """HEAD has the headers of the GET and no body."""
    for headers in ({}, {"range": "bytes=0-3"}):
        get = filled("GET", f"{PROXY}/{RUN_ROOT}/a.txt", headers=headers)
        head = filled("HEAD", f"{PROXY}/{RUN_ROOT}/a.txt", headers=headers)
        assert (head.status, head.headers) == (get.status, get.headers)
        assert head.body == b""


def test_five_gigabytes_cost_no_memory(server: Server) -> None:
    """A file of 5 GB streams through with less than 32 MB of memory more than before."""
    size_bytes = 5 * 1024**3
    put(server.blobs, "big", [b"start"])
    with (server.root / "big").open("r+b") as big:
        big.truncate(size_bytes)
    server("GET", f"{PROXY}/big", headers={"range": "bytes=0-9"})
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answer = server("GET", f"{PROXY}/big", keep=False)
    assert answer.size_bytes == size_bytes
    piece = b"x" * 65_536
    assert server("PUT", f"{PROXY}/up", [piece] * 3_200).status == 200
    info = server.blobs.stat("up")
    assert info is not None
    assert info.size_bytes == 3_200 * 65_536
    grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb) / 1024
    assert grown_mb < 32


def test_listing_a_run(filled: Server) -> None:
    """A run's listing has paths from the run's root, and where that is."""
    target = "/api/2.0/mlflow/artifacts/list"
    top = {
        "root_uri": "mlflow-artifacts:/1/abc/artifacts",
        "files": [
            {"path": "a.txt", "is_dir": False, "file_size": 16},
            {"path": "d", "is_dir": True},
            {"path": "é x.txt", "is_dir": False, "file_size": 19},
        ],
    }
    for query in ("run_id=abc", "run_uuid=abc", "run_id=abc&path=", "run_id=abc&page_token=x"):
        assert filled("GET", f"{target}?{query}").json() == top
    for path in ("d", "d/", "./d", "d%252f"):
        files = filled("GET", f"{target}?run_id=abc&path={path}").json()["files"]
        assert [file["path"] for file in files] == ["d/MLmodel", "d/e", "d/p.html"]
    for path in ("nope", "a.txt"):
        assert filled("GET", f"{target}?run_id=abc&path={path}").json() == {
            "root_uri": "mlflow-artifacts:/1/abc/artifacts"
        }
    check_refused(filled("GET", f"{target}?run_id=nope"), 404, "RESOURCE_DOES_NOT_EXIST")
    check_refused(filled("GET", target), 400, "INVALID_PARAMETER_VALUE")
    check_refused(filled("GET", f"{target}?run_id=abc&path=.."), 400, "INVALID_PARAMETER_VALUE")
    check_refused(filled("GET", f"{target}?run_id=bucket"), 400, "INVALID_PARAMETER_VALUE")


def test_listing_the_proxy(filled: Server) -> None:
    """The proxy's listing has names alone, as MLflow's has."""
    assert filled("GET", PROXY).json() == {"files": [{"path": "1", "is_dir": True}]}
    files = filled("GET", f"{PROXY}?path={RUN_ROOT}/d").json()["files"]
    assert [file["path"] for file in files] == ["MLmodel", "e", "p.html"]
    assert filled("GET", f"{PROXY}?path=nope").json() == {}
    check_refused(filled("GET", f"{PROXY}?path=/etc"), 400, "INVALID_PARAMETER_VALUE")


def test_artifacts_that_are_not_there(filled: Server) -> None:
    """A missing artifact is 404, a folder or an unsafe path 400, for each way to ask."""
    for path, status, code in (
        ("nope", 404, "RESOURCE_DOES_NOT_EXIST"),
        ("d", 400, "INVALID_PARAMETER_VALUE"),
        ("..%2f..%2f..%2f..%2fetc%2fpasswd", 400, "INVALID_PARAMETER_VALUE"),
    ):
        check_refused(filled("GET", f"{PROXY}/{RUN_ROOT}/{path}"), status, code)
        check_refused(filled("GET", f"/get-artifact?run_id=abc&path={path}"), status, code)
    check_refused(filled("GET", "/get-artifact?run_id=abc"), 400, "INVALID_PARAMETER_VALUE")
    check_refused(filled("GET", "/get-artifact?run_uuid=x&path=a"), 404, "RESOURCE_DOES_NOT_EXIST")
    check_refused(filled("GET", f"{PROXY}/"), 400, "INVALID_PARAMETER_VALUE")


def test_deleting_through_the_proxy(filled: Server) -> None:
    """A file or a whole folder is deleted; what is not there is no error; the root is."""
    for path in ("a.txt", "a.txt", "d", "nope"):
        answer = filled("DELETE", f"{PROXY}/{RUN_ROOT}/{path}")
        assert (answer.status, answer.json()) == (200, {})
    files = filled("GET", f"{PROXY}?path={RUN_ROOT}").json()["files"]
    assert [file["path"] for file in files] == ["é x.txt"]
    for path in ("", ".", "%2e%2e/x"):
        check_refused(filled("DELETE", f"{PROXY}/{path}"), 400, "INVALID_PARAMETER_VALUE")


@pytest.mark.parametrize(
    "path", ["../x", "%2e%2e/x", "a%2f..%2f..%2fx", "/etc/x", "", "d/", "a%00"]
)
def test_puts_to_unsafe_paths_are_refused(server: Server, path: str) -> None:
    """Nothing is written outside, or without a name."""
    check_refused(server("PUT", f"{PROXY}/{path}", b"x"), 400, "INVALID_PARAMETER_VALUE")
    assert server.blobs.list("") == []


UPLOAD = "/ajax-api/2.0/mlflow/upload-artifact"


def test_uploads_of_the_ui(server: Server) -> None:
    """The UI uploads up to 10 MB to a run; it arrives at the run's place."""
    for size_bytes in (1, UPLOAD_BYTES_MAX):
        answer = server("POST", f"{UPLOAD}?run_uuid=abc&path=up/u.txt", b"x" * size_bytes)
        assert (answer.status, answer.body) == (200, b"")
        info = server.blobs.stat(f"{RUN_ROOT}/up/u.txt")
        assert info is not None
        assert info.size_bytes == size_bytes


@pytest.mark.parametrize(
    ("query", "body", "headers"),
    [
        ("run_uuid=abc&path=x", b"", {}),
        ("run_uuid=abc", b"x", {}),
        ("path=x", b"x", {}),
        ("run_uuid=abc&path=../x", b"x", {}),
        ("run_uuid=abc&path=d/", b"x", {}),
        ("run_uuid=abc&path=x", b"a=b", {"content-type": "application/x-www-form-urlencoded"}),
        ("run_uuid=abc&path=x", b"x" * (UPLOAD_BYTES_MAX + 1), {}),
        ("run_uuid=abc&path=x", [b"x" * UPLOAD_BYTES_MAX, b"x"], {}),
    ],
)
def test_uploads_of_the_ui_that_are_refused(
    server: Server, query: str, body: bytes | list[bytes], headers: dict[str, str]
) -> None:
    """An upload without run, path or data, too large, or out of the run's place leaves nothing."""
    check_refused(
        server("POST", f"{UPLOAD}?{query}", body, headers), 400, "INVALID_PARAMETER_VALUE"
    )
    assert server.blobs.list("") == []


def test_an_upload_to_no_run(server: Server) -> None:
    """An upload to a run that is not there is 404."""
    answer = server("POST", f"{UPLOAD}?run_uuid=nope&path=x", b"x")
    check_refused(answer, 404, "RESOURCE_DOES_NOT_EXIST")


def test_runs_in_a_folder(server: Server) -> None:
    """A run whose artifacts are in a configured folder is served from there, and nowhere else."""
    assert server("POST", f"{UPLOAD}?run_uuid=local&path=d/u.txt", b"x").status == 200
    assert (server.root / "1/local/artifacts/d/u.txt").read_bytes() == b"x"
    assert server("GET", "/get-artifact?run_id=local&path=d/u.txt").body == b"x"


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "mpu/create/x", b'{"path":"f","num_parts":2}', 501),
        ("POST", "mpu/create/x", b"{}", 400),
        ("POST", "mpu/create/%2e%2e/x", b'{"path":"f"}', 400),
        ("POST", "mpu/complete/x", b'{"path":"f","upload_id":"u","parts":[]}', 501),
        ("POST", "mpu/complete/x", b'{"path":"f","upload_id":"u"}', 400),
        ("POST", "mpu/abort/x", b'{"path":"f","upload_id":"u"}', 501),
        ("GET", "presigned/x", b"", 501),
        ("GET", "presigned/%2e%2e/x", b"", 400),
    ],
)
def test_multipart_answers_as_mlflow_does(
    server: Server, method: str, path: str, body: bytes, status: int
) -> None:
    """Over a folder there are no uploads in parts and no URLs of the store's own."""
    code = "NOT_IMPLEMENTED" if status == 501 else "INVALID_PARAMETER_VALUE"
    check_refused(server(method, f"/api/2.0/mlflow-artifacts/{path}", body, JSON), status, code)


@pytest.mark.parametrize(
    ("direction", "body", "status", "code"),
    [
        ("download", b'{"run_id":"abc","path":"x"}', 400, "INVALID_PARAMETER_VALUE"),
        ("download", b'{"run_id":"local","path":"x"}', 501, "NOT_IMPLEMENTED"),
        (
            "download",
            b'{"run_id":"local","path":"x","expiration":0}',
            400,
            "INVALID_PARAMETER_VALUE",
        ),
        ("download", b'{"run_id":"nope","path":"x"}', 404, "RESOURCE_DOES_NOT_EXIST"),
        ("download", b"{}", 400, "INVALID_PARAMETER_VALUE"),
        ("upload", b'{"run_id":"abc","path":"x"}', 400, "INVALID_PARAMETER_VALUE"),
        ("upload", b'{"run_id":"local","path":"x"}', 501, "NOT_IMPLEMENTED"),
        ("upload", b'{"model_id":"m-1","path":"x"}', 400, "INVALID_PARAMETER_VALUE"),
        ("upload", b'{"model_id":"m-2","path":"x"}', 404, "RESOURCE_DOES_NOT_EXIST"),
        ("upload", b'{"path":"x"}', 400, "INVALID_PARAMETER_VALUE"),
        ("upload", b'{"run_id":"a","model_id":"m","path":"x"}', 400, "INVALID_PARAMETER_VALUE"),
    ],
)
def test_presigned_urls_answer_as_mlflow_does(
    server: Server, direction: str, body: bytes, status: int, code: str
) -> None:
    """There are no presigned URLs for artifacts behind the proxy or in a folder."""
    target = f"/api/2.0/mlflow/artifacts/presigned-{direction}-url"
    check_refused(server("POST", target, body, JSON), status, code)


def test_no_serve_artifacts(tmp_path: Path) -> None:
    """With --no-serve-artifacts the proxy is off; artifacts of runs in folders are still served."""
    server = Server(tmp_path, serve_artifacts=False)
    for method, path in (
        ("GET", "artifacts"),
        ("GET", "artifacts/x"),
        ("PUT", "artifacts/x"),
        ("DELETE", "artifacts/x"),
        ("POST", "mpu/create/x"),
        ("GET", "presigned/x"),
    ):
        answer = server(method, f"/api/2.0/mlflow-artifacts/{path}", headers=JSON)
        check_refused(answer, 503, "ENDPOINT_NOT_FOUND")
    assert server("GET", "/api/2.0/mlflow/artifacts/list?run_id=local").status == 200


def test_artifacts_only(server: Server) -> None:
    """What the tracking endpoints answer with --artifacts-only has MLflow's status."""
    check_refused(server("GET", "/off"), 503, "ENDPOINT_NOT_FOUND")
