"""The short way of HTTP: what is on it, and that nobody can tell from an answer."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.server import ServerState

from api.app import REFUSAL as REFUSAL_IN_API
from events.errors import TemporarilyUnavailable
from tests.servers import Server
from workers.http_protocol import REFUSAL, ExpressProtocol

TARGET = b"/short"
Answered = Callable[[Exception | None], None]


class Transport(asyncio.Transport):
    """A connection whose other end is the test."""

    def __init__(self) -> None:
        super().__init__({"peername": ("10.1.2.3", 4), "sockname": ("127.0.0.1", 5)})
        self.written = b""
        self.is_closed = False
        self.is_paused = False

    def write(self, data: Any) -> None:
        """Sends to the test."""
        self.written += data

    def close(self) -> None:
        """Ends the connection."""
        self.is_closed = True

    def is_closing(self) -> bool:
        """Whether it has ended."""
        return self.is_closed

    def pause_reading(self) -> None:
        """Takes nothing more in."""
        self.is_paused = True

    def resume_reading(self) -> None:
        """Goes on."""
        self.is_paused = False


class Line:
    """An express line that admits one target and keeps who waits."""

    answer = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nshort"
    last_answer = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nshort"
    body_bytes_max = 100

    def __init__(self) -> None:
        self.taken: list[tuple[bytes, str | None, Answered]] = []
        self.takes = True
        self.counted: list[tuple[bytes, float]] = []

    def admits(self, target: bytes, headers: Sequence[tuple[bytes, bytes]]) -> bool:
        """One target, but for a header that speaks against it."""
        return target == TARGET and (b"x-long-way", b"yes") not in headers

    def count(self, target: bytes, seconds: float) -> None:
        """Keeps how long it took."""
        self.counted.append((target, seconds))

    def take(self, target: bytes, body: bytes, client: str | None, answered: Answered) -> bool:
        """Keeps the request, where the test wants it so."""
        assert target == TARGET
        if self.takes:
            self.taken.append((body, client, answered))
        return self.takes


class App:
    """An application that answers with how it was called."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = []
        self.bodies: list[bytes] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Takes a request."""
        self.scopes.append(scope)
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        self.bodies.append(body)
        headers = [(b"content-length", b"4")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"long"})


class Connection:
    """A protocol between a transport, an express line and an application."""

    def __init__(self) -> None:
        self.app = App()
        self.line = Line()
        self.transport = Transport()
        config = Config(self.app, lifespan="off", log_config=None, proxy_headers=False)
        self.protocol = ExpressProtocol(config, ServerState(), {"express": self.line})
        self.protocol.connection_made(self.transport)

    def send(self, body: bytes, *headers: str, target: bytes = TARGET) -> None:
        """A request arrives, whole."""
        self.protocol.data_received(request(body, *headers, target=target))

    @property
    def answers(self) -> list[bytes]:
        """The bodies of the answers so far, in order."""
        return [part[-5:].strip() for part in self.transport.written.split(b"HTTP/1.1 ")[1:]]


def request(body: bytes, *headers: str, target: bytes = TARGET) -> bytes:
    """The bytes of a POST."""
    lines = ["Host: h", f"Content-Length: {len(body)}", *headers, "", ""]
    return b"POST " + target + b" HTTP/1.1\r\n" + "\r\n".join(lines).encode() + body


async def settle() -> None:
    """Lets tasks run."""
    for _ in range(10):
        await asyncio.sleep(0)


def test_what_is_taken_needs_no_application() -> None:
    """The line gets body and client, and its answer goes out when the line says so."""

    async def run() -> Connection:
        connection = Connection()
        connection.send(b"one")
        await settle()
        assert connection.transport.written == b""
        connection.line.taken[0][2](None)
        whole = request(b"two-and-more")
        connection.protocol.data_received(whole[:-8])
        connection.protocol.data_received(whole[-8:-3])
        connection.protocol.data_received(whole[-3:])
        connection.line.taken[1][2](None)
        return connection

    connection = asyncio.run(run())
    assert [(body, client) for body, client, _ in connection.line.taken] == [
        (b"one", "10.1.2.3"),
        (b"two-and-more", "10.1.2.3"),
    ]
    assert connection.transport.written == 2 * Line.answer
    assert connection.app.scopes == []


@pytest.mark.parametrize("why", ["refused", "long", "header", "target", "1.0", "close", "slow"])
def test_what_is_not_taken_goes_the_ordinary_way(why: str) -> None:
    """The application gets the whole request, and the connection is usable afterwards."""

    async def run() -> Connection:
        connection = Connection()
        body = b"b" * (150 if why == "long" else 10)
        if why == "refused":
            connection.line.takes = False
        if why == "slow":
            connection.protocol.pause_writing()
        headers = {"header": ["X-Long-Way: yes"], "close": ["Connection: close"]}.get(why, [])
        sent = request(body, *headers, target=b"/other" if why == "target" else TARGET)
        if why == "1.0":
            sent = sent.replace(b"HTTP/1.1", b"HTTP/1.0")
        connection.protocol.data_received(sent[:-20])
        connection.protocol.data_received(sent[-20:])
        await settle()
        assert connection.app.bodies == [body]
        if why == "slow":
            assert connection.answers == []
            connection.protocol.resume_writing()
            await settle()
        assert connection.line.taken == []
        return connection

    connection = asyncio.run(run())
    (scope,) = connection.app.scopes
    assert (scope["method"], scope["path"]) == ("POST", "/other" if why == "target" else "/short")
    assert connection.answers == [b"long"]
    assert connection.transport.is_closed == (why in ("1.0", "close"))


def test_answers_come_in_the_order_of_the_requests() -> None:
    """A client may send the next requests before it has the answer; each waits for its turn."""

    async def run() -> Connection:
        connection = Connection()
        other = request(b"x", target=b"/other")
        connection.protocol.data_received(request(b"1") + other + request(b"2") + request(b"3"))
        await settle()
        assert connection.transport.written == b""
        paused = [connection.transport.is_paused]
        connection.line.taken[0][2](None)
        await settle()
        paused.append(connection.transport.is_paused)
        assert paused == [True, False]
        connection.send(b"4")
        connection.line.taken[-1][2](None)
        return connection

    connection = asyncio.run(run())
    assert connection.answers == [b"short", b"long", b"long", b"long", b"short"]
    assert connection.app.bodies == [b"x", b"2", b"3"]


def test_the_application_answers_what_went_wrong() -> None:
    """A request that was taken and failed is given to the application with its error, once."""

    async def run() -> Connection:
        connection = Connection()
        error = TemporarilyUnavailable("the disk is full")
        connection.protocol.data_received(request(b"1") + request(b"2"))
        connection.line.taken[0][2](error)
        await settle()
        assert connection.app.scopes[0][REFUSAL] is error
        connection.send(b"3")
        connection.line.taken[-1][2](error)
        await settle()
        return connection

    connection = asyncio.run(run())
    assert [REFUSAL in scope for scope in connection.app.scopes] == [True, False, True]
    assert [scope["path"] for scope in connection.app.scopes] == ["/short"] * 3
    assert connection.app.bodies == [b"", b"2", b""]
    assert connection.answers == [b"long"] * 3


def test_a_server_that_ends_waits_for_what_it_has_taken() -> None:
    """The answer is given, says that it is the last, and then the connection is closed."""

    async def run() -> tuple[Connection, Connection]:
        taken, begun = Connection(), Connection()
        taken.send(b"1")
        taken.protocol.shutdown()
        assert not taken.transport.is_closed
        taken.line.taken[0][2](None)
        begun.line.takes = False
        begun.protocol.data_received(request(b"12")[:-1])
        begun.protocol.shutdown()
        begun.protocol.data_received(b"2")
        await settle()
        return taken, begun

    taken, begun = asyncio.run(run())
    assert taken.transport.written == Line.last_answer
    assert taken.transport.is_closed
    assert begun.answers == [b"long"]
    assert b"connection: close" in begun.transport.written
    assert begun.transport.is_closed


def test_nobody_is_answered_who_has_left() -> None:
    """A client that closed its connection while the disk was busy harms nothing."""

    async def run() -> Connection:
        connection = Connection()
        connection.send(b"1")
        connection.transport.is_closed = True
        connection.protocol.connection_lost(None)
        connection.line.taken[0][2](None)
        connection.line.taken[0][2](TemporarilyUnavailable("late"))
        await settle()
        return connection

    connection = asyncio.run(run())
    assert connection.transport.written == b""
    assert connection.app.scopes == []


def test_both_sides_mean_the_same_refusal() -> None:
    """The protocol and the application, which don't import each other, agree on the name."""
    assert REFUSAL == REFUSAL_IN_API


class Wire:
    """A connection to a server, byte by byte."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), 30)
        self._file = self._socket.makefile("rb")

    def ask(self, sent: bytes) -> bytes:
        """The answer's bytes."""
        self._socket.sendall(sent)
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = self._file.readline()
            if not line:
                return head
            head += line
        length = next(
            int(line.split(b":")[1])
            for line in head.lower().split(b"\r\n")
            if line.startswith(b"content-length:")
        )
        return head + self._file.read(length)

    def close(self) -> None:
        """Ends it."""
        self._file.close()
        self._socket.close()


def api(port: int, call: str, body: bytes, *headers: str) -> bytes:
    """The bytes of a call, as a client sends it."""
    lines = [
        f"POST /api/2.0/mlflow/runs/{call} HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        "User-Agent: test",
        f"Content-Length: {len(body)}",
        *(headers or ("Content-Type: application/json",)),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


def point(**changes: Any) -> dict[str, Any]:
    """A metric as it is sent."""
    return {"key": "loss", "value": 0.5, "timestamp": 1_700_000_000_000, "step": 3} | changes


def bodies(run_id: str) -> Iterator[tuple[str, bytes]]:
    """Calls with bodies of every kind, good ones and bad ones."""
    yield "log-metric", json.dumps({"run_id": run_id, **point()}).encode()
    for changes in (
        {"value": "NaN"},
        {"value": "x"},
        {"timestamp": -1},
        {"timestamp": "17"},
        {"key": ""},
        {"key": "../x"},
        {"key": "a\\b"},
        {"key": "é"},
        {"step": None},
        {"step": 2**63},
        {"model_id": "m-none"},
        {"run_id": "nobody"},
        {"run_id": ""},
        {"other": 1},
    ):
        sent = {"run_id": run_id, **point(), **changes}
        yield "log-metric", json.dumps(sent, ensure_ascii=False).encode()
        batch = {"run_id": sent.pop("run_id"), "metrics": [point(), sent]}
        yield "log-batch", json.dumps(batch, ensure_ascii=False).encode()
    for count in (0, 1, 2, 1_000, 1_001):
        many = [point(step=step, key=f"k{step % 7}") for step in range(count)]
        yield "log-batch", json.dumps({"run_id": run_id, "metrics": many}).encode()
    yield "log-batch", b"{"
    yield "log-batch", b""
    yield "log-batch", b" " * 2_000_001
    yield "log-metric", b'{"run_uuid":"%s","key":"k","value":1,"timestamp":1}' % run_id.encode()


def test_an_answer_does_not_tell_its_way(
    tmp_path: Path, start_runfold: Callable[..., Server]
) -> None:
    """Byte for byte the same answers, for good requests and bad ones, and the same points."""
    server = start_runfold(tmp_path / "home")
    wire = Wire(server.port)
    runs = []
    for way in ("short", "long"):
        body = json.dumps({"experiment_id": "0", "run_name": way, "start_time": 1}).encode()
        made = wire.ask(api(server.port, "create", body)).split(b"\r\n\r\n")[1]
        runs.append(json.loads(made)["run"]["info"]["run_id"])
    json_type = "Content-Type: application/json"
    for (call, short), (_, long) in zip(*map(bodies, runs), strict=True):
        fast = wire.ask(api(server.port, call, short, json_type))
        # With this header it is no plain request any more, which changes nothing else.
        slow = wire.ask(api(server.port, call, long, json_type, "X-Forwarded-Proto: http"))
        assert fast.replace(runs[0].encode(), b"RUN") == slow.replace(runs[1].encode(), b"RUN")
    histories = []
    for run_id in runs:
        points = {}
        for key in ("loss", "é", *(f"k{place}" for place in range(7))):
            target = f"/api/2.0/mlflow/metrics/get-history?run_id={run_id}&metric_key={key}"
            target = target.replace("é", "%C3%A9")
            sent = f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
            answer = json.loads(wire.ask(sent).split(b"\r\n\r\n", 1)[1])
            points[key] = answer.get("metrics", [])
        histories.append(points)
    wire.close()
    assert histories[0] == histories[1]
    assert len(histories[0]["loss"]) >= 2
    assert len(histories[0]["k1"]) >= 143


def test_a_request_is_plain_or_goes_the_ordinary_way(
    tmp_path: Path, start_runfold: Callable[..., Server]
) -> None:
    """The checks of hosts, origins and content types stand in front of the short way too."""
    server = start_runfold(tmp_path / "home")
    wire = Wire(server.port)
    made = wire.ask(api(server.port, "create", b'{"experiment_id":"0"}'))
    run_id = json.loads(made.split(b"\r\n\r\n")[1])["run"]["info"]["run_id"]
    body = json.dumps({"run_id": run_id, **point()}).encode()
    json_type = "Content-Type: application/json"

    def status(*headers: str, host: str = f"127.0.0.1:{server.port}") -> int:
        other = Wire(server.port)
        sent = api(server.port, "log-metric", body, *headers)
        sent = sent.replace(f"Host: 127.0.0.1:{server.port}".encode(), f"Host: {host}".encode())
        answer = other.ask(sent)
        other.close()
        return int(answer[9:12])

    assert status(json_type) == 200
    assert status(json_type, host="evil.example") == 403
    assert status(json_type, host="evil.example") == 403
    assert status(json_type, "Host: evil.example") == 403
    assert status(json_type, "Origin: https://evil.example") == 403
    assert status(json_type, "Origin: http://localhost:3000") == 200
    assert status("Content-Type: text/plain") == 400
    assert status("Accept: */*") == 400
    assert status(json_type, "Content-Encoding: gzip") == 400
    deleted = wire.ask(api(server.port, "delete", b'{"run_id":"%s"}' % run_id.encode()))
    assert deleted.startswith(b"HTTP/1.1 200")
    assert status(json_type) == 400
    wire.close()
