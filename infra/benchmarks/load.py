"""The load: requests built beforehand, sent over keep-alive connections, answers timed.

Each connection sends its next request when the last one was answered, as a client does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

import uvloop

from infra.benchmarks.results import percentile

ADDRESS = "127.0.0.1"

Source = Callable[[bytes], bytes | bytearray | None]
"""Gives a connection its next request, from the body of the last answer (first: empty); None ends
the connection. Must only hand out what was built before."""


def http_request(method: str, path: str, body: bytes | None = None) -> bytes:
    """The bytes of a request, for an answer in JSON."""
    # The port is not known when the bodies are built, and MLflow's check of the host ignores it.
    head = f"{method} {path} HTTP/1.1\r\nHost: {ADDRESS}\r\nAccept: application/json\r\n"
    if body is not None:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + (body or b"")


def same_request(request: bytes, times: int | None = None) -> Source:
    """A source that gives one request again and again, or so many times."""
    left = times

    def source(_answer: bytes) -> bytes | None:
        nonlocal left
        if left is not None:
            if left == 0:
                return None
            left -= 1
        return request

    return source


@dataclass(frozen=True)
class Clients:
    """Connections that do the same kind of work."""

    sources: Sequence[Source]
    every_s: float = 0.0
    """The least time from one request of a connection to its next; 0: at once."""
    port: int | None = None
    """Where they go; by default to the port of the load."""


@dataclass
class Outcome:
    """What a load gave."""

    started: float = 0.0
    ended: float = 0.0
    latencies_s: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)
    """Answers by status; 0 for connections that the server cut."""
    last_body: bytes = b""
    """The last answer that was not 200, or else the last one."""

    @property
    def seconds(self) -> float:
        """How long the load took."""
        return self.ended - self.started

    @property
    def answered(self) -> int:
        """Requests answered with 200."""
        return self.statuses.get(200, 0)

    @property
    def refused(self) -> dict[int, int]:
        """Answers with another status."""
        return {status: count for status, count in self.statuses.items() if status != 200}

    def percentile_ms(self, share: float) -> float:
        """The latency below which this share of the answers came, in milliseconds."""
        return percentile(self.latencies_s, share) * 1000


class _Answer:
    """Puts one answer together from what arrives."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._body_at = 0
        self._length: int | None = None

    def feed(self, data: bytes) -> bool:
        """Takes what arrived; returns whether the answer is whole."""
        buffer = self._buffer
        buffer += data
        if not self._body_at:
            end = buffer.find(b"\r\n\r\n")
            if end < 0:
                return False
            self._body_at = end + 4
            self._length = _content_length(bytes(buffer[:end]).lower())
        if self._length is None:
            return buffer.endswith(b"0\r\n\r\n")
        return len(buffer) - self._body_at >= self._length

    @property
    def status(self) -> int:
        return int(self._buffer[9:12])

    @property
    def body(self) -> bytes:
        raw = bytes(self._buffer[self._body_at :])
        return raw if self._length is not None else _unchunked(raw)


def _content_length(head: bytes) -> int | None:
    """What the head says, or None for a chunked body."""
    place = head.find(b"content-length:")
    if place >= 0:
        return int(head[place + 15 :].split(b"\r\n", 1)[0])
    return None if b"transfer-encoding: chunked" in head else 0


def _unchunked(raw: bytes) -> bytes:
    parts = []
    place = 0
    while place < len(raw):
        end = raw.index(b"\r\n", place)
        size = int(raw[place:end], 16)
        if size == 0:
            break
        parts.append(raw[end + 2 : end + 2 + size])
        place = end + 2 + size + 2
    return b"".join(parts)


class _Connection(asyncio.Protocol):
    """One keep-alive connection that works through its requests."""

    def __init__(self, source: Source, every_s: float, deadline: float, outcome: Outcome) -> None:
        self._source = source
        self._every_s = every_s
        self._deadline = deadline
        self._outcome = outcome
        self._answer = _Answer()
        self._sent = 0.0
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self.done: asyncio.Future[None] = self._loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Sends the first request."""
        # uvloop's transports have the methods but not the class.
        self._transport = cast(asyncio.Transport, transport)
        self._next(b"")

    def _next(self, answer: bytes) -> None:
        now = time.perf_counter()
        request = self._source(answer) if now < self._deadline else None
        if self._transport is None:
            return
        if request is None:
            self._transport.close()
            if not self.done.done():
                self.done.set_result(None)
            return
        self._sent = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Counts a whole answer and sends the next request."""
        answer = self._answer
        if not answer.feed(data):
            return
        elapsed = time.perf_counter() - self._sent
        self._answer = _Answer()
        outcome, status, body = self._outcome, answer.status, answer.body
        outcome.latencies_s.append(elapsed)
        outcome.statuses[status] = outcome.statuses.get(status, 0) + 1
        if status != 200 or not outcome.refused:
            outcome.last_body = body
        wait_s = self._every_s - elapsed
        if wait_s > 0:
            self._loop.call_later(wait_s, self._next, body)
        else:
            self._next(body)

    def connection_lost(self, exc: Exception | None) -> None:
        """Counts a connection that the server has closed before all was sent."""
        self._transport = None
        if not self.done.done():
            statuses = self._outcome.statuses
            statuses[0] = statuses.get(0, 0) + 1
            self._outcome.last_body = f"the server cut the connection: {exc}".encode()
            self.done.set_result(None)


async def _run(
    port: int, groups: Sequence[Clients], seconds: float, outcomes: Sequence[Outcome]
) -> None:
    loop = asyncio.get_running_loop()
    started = time.perf_counter()
    waiting: list[list[asyncio.Future[None]]] = []
    for clients, outcome in zip(groups, outcomes, strict=True):
        outcome.started = started
        waiting.append([])
        for source in clients.sources:
            connection = _Connection(source, clients.every_s, started + seconds, outcome)
            to = port if clients.port is None else clients.port
            await loop.create_connection(lambda made=connection: made, ADDRESS, to)  # type: ignore[misc]
            waiting[-1].append(connection.done)
    for futures, outcome in zip(waiting, outcomes, strict=True):
        await asyncio.gather(*futures)
        outcome.ended = time.perf_counter()


def run_loads(
    port: int,
    groups: Sequence[Clients],
    seconds: float = 3600.0,
    outcomes: Sequence[Outcome] | None = None,
) -> Sequence[Outcome]:
    """Runs groups of connections side by side for at most `seconds`; what each group gave.

    Outcomes that are handed in can be looked at meanwhile.
    """
    outcomes = outcomes or [Outcome() for _ in groups]
    uvloop.run(_run(port, groups, seconds, outcomes))
    return outcomes


def run_load(port: int, sources: Sequence[Source], seconds: float = 3600.0) -> Outcome:
    """Sends each connection's requests in turn, all connections at once, for at most `seconds`."""
    (outcome,) = run_loads(port, [Clients(sources)], seconds)
    return outcome
