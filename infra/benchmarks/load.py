"""The load: requests built beforehand, sent over keep-alive connections, answers timed.

Each connection sends its next request when the last one was answered, as a client does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast

import uvloop

Requests = Callable[[], Iterator[bytes]]
"""Makes the requests of one connection; called before the clock starts."""


def http_request(host: str, method: str, path: str, body: bytes | None = None) -> bytes:
    """The bytes of a request."""
    head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n"
    if body is not None:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + (body or b"")


@dataclass
class Outcome:
    """What a load gave."""

    started: float = 0.0
    ended: float = 0.0
    latencies_s: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)
    last_body: bytes = b""

    @property
    def seconds(self) -> float:
        """How long the load took."""
        return self.ended - self.started

    @property
    def answered(self) -> int:
        """Requests answered with 200."""
        return self.statuses.get(200, 0)

    def percentile_ms(self, share: float) -> float:
        """The latency below which this share of the answers came, in milliseconds."""
        ordered = sorted(self.latencies_s)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000 if ordered else 0.0


class _Connection(asyncio.Protocol):
    """One keep-alive connection that works through its requests."""

    def __init__(self, requests: Iterator[bytes], deadline: float, outcome: Outcome) -> None:
        self._requests = requests
        self._deadline = deadline
        self._outcome = outcome
        self._buffer = b""
        self._sent = 0.0
        self._transport: asyncio.Transport | None = None
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Sends the first request."""
        # uvloop's transports have the methods but not the class.
        self._transport = cast(asyncio.Transport, transport)
        self._next()

    def _next(self) -> None:
        now = time.perf_counter()
        request = next(self._requests, None) if now < self._deadline else None
        assert self._transport is not None
        if request is None:
            self._transport.close()
            if not self.done.done():
                self.done.set_result(None)
            return
        self._sent = now
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Counts a whole answer and sends the next request."""
        buffer = self._buffer + data if self._buffer else data
        end = buffer.find(b"\r\n\r\n")
        if end < 0:
            self._buffer = buffer
            return
        body = _body(buffer[:end].lower(), buffer, end + 4)
        if body is None:
            self._buffer = buffer
            return
        self._buffer = b""
        status = int(buffer[9:12])
        outcome = self._outcome
        outcome.latencies_s.append(time.perf_counter() - self._sent)
        outcome.statuses[status] = outcome.statuses.get(status, 0) + 1
        if status != 200 or not outcome.last_body:
            outcome.last_body = body
        self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        """Says so where the server closed before all was sent."""
        if not self.done.done():
            self.done.set_exception(exc or ConnectionError("the server closed the connection"))


def _body(head: bytes, buffer: bytes, start: int) -> bytes | None:
    """The answer's body, or None while it is not whole."""
    place = head.find(b"content-length:")
    if place >= 0:
        length = int(head[place + 15 :].split(b"\r\n", 1)[0])
        return buffer[start:] if len(buffer) - start >= length else None
    if b"transfer-encoding: chunked" in head:
        return buffer[start:] if buffer.endswith(b"0\r\n\r\n") else None
    return b""


async def _run(port: int, connections: Sequence[Iterator[bytes]], seconds: float) -> Outcome:
    loop = asyncio.get_running_loop()
    outcome = Outcome(started=time.perf_counter())
    protocols = []
    for requests in connections:
        deadline = outcome.started + seconds
        _, protocol = await loop.create_connection(
            lambda requests=requests, deadline=deadline: _Connection(requests, deadline, outcome),  # type: ignore[misc]
            "127.0.0.1",
            port,
        )
        protocols.append(protocol)
    await asyncio.gather(*(protocol.done for protocol in protocols))
    outcome.ended = time.perf_counter()
    return outcome


def run_load(port: int, connections: Sequence[Iterator[bytes]], seconds: float = 3600.0) -> Outcome:
    """Sends each connection's requests in turn, all connections at once, for at most `seconds`."""
    return uvloop.run(_run(port, connections, seconds))
