"""The yardstick: the least that a durable logging endpoint must do, as near to the limit as we get.

A bare ASGI route decodes with msgspec and appends to a group-committed SQLite file with
`synchronous=FULL`. No checks, no views, no reads: `python -m infra.benchmarks.yardstick PORT FILE`.
"""

from __future__ import annotations

import asyncio
import queue
import sys
import threading
from array import array
from typing import Any

import msgspec
import pysqlite3.dbapi2 as sqlite
import uvicorn
import zstandard


class Metric(msgspec.Struct, gc=False):
    """One point."""

    key: str
    value: float
    timestamp: int
    step: int = 0


class Batch(msgspec.Struct):
    """The body of log-batch."""

    run_id: str
    metrics: list[Metric] = []


class One(msgspec.Struct):
    """The body of log-metric."""

    run_id: str
    key: str
    value: float
    timestamp: int
    step: int = 0


def pack(metrics: list[Any]) -> bytes:
    """The points as compressed columns."""
    keys = {metric.key: 0 for metric in metrics}
    for place, key in enumerate(keys):
        keys[key] = place
    body = b"".join(
        (
            msgspec.json.encode(list(keys)),
            array("H", [keys[metric.key] for metric in metrics]).tobytes(),
            array("q", [metric.step for metric in metrics]).tobytes(),
            array("q", [metric.timestamp for metric in metrics]).tobytes(),
            array("d", [metric.value for metric in metrics]).tobytes(),
        )
    )
    return zstandard.compress(body, 1) if len(body) > 200 else body


class Store:
    """A thread that commits what was put since its last commit."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._waiting: queue.SimpleQueue[tuple[str, bytes, asyncio.Future[None]]] = (
            queue.SimpleQueue()
        )
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._run, daemon=True).start()

    async def put(self, run_id: str, data: bytes) -> None:
        """Returns when the row is on the disk."""
        future = self._loop.create_future()
        self._waiting.put((run_id, data, future))
        await future

    def _run(self) -> None:
        connection = sqlite.connect(self._path, isolation_level=None)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(
            "CREATE TABLE points (position INTEGER PRIMARY KEY, run TEXT, data BLOB)"
        )
        while True:
            taken = [self._waiting.get()]
            while not self._waiting.empty() and len(taken) < 2_000:
                taken.append(self._waiting.get())
            connection.execute("BEGIN")
            connection.executemany(
                "INSERT INTO points (run, data) VALUES (?, ?)", [item[:2] for item in taken]
            )
            connection.execute("COMMIT")
            self._loop.call_soon_threadsafe(self._settle, [item[2] for item in taken])

    @staticmethod
    def _settle(futures: list[asyncio.Future[None]]) -> None:
        for future in futures:
            if not future.done():
                future.set_result(None)


class App:
    """Two routes, by the end of their path."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._store: Store | None = None
        self._batch = msgspec.json.Decoder(Batch)
        self._one = msgspec.json.Decoder(One)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Takes a request."""
        if scope["type"] != "http":
            return
        if self._store is None:
            self._store = Store(self._path)
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        if scope["path"].endswith("log-batch"):
            batch = self._batch.decode(body)
            await self._store.put(batch.run_id, pack(batch.metrics))
        elif scope["path"].endswith("log-metric"):
            one = self._one.decode(body)
            await self._store.put(one.run_id, pack([one]))
        headers = [(b"content-type", b"application/json"), (b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"{}"})


if __name__ == "__main__":
    uvicorn.run(
        App(sys.argv[2]),
        host="127.0.0.1",
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        lifespan="off",
        access_log=False,
        log_level="error",
        server_header=False,
        date_header=False,
    )
