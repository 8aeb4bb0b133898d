"""Calls an ASGI application in this process and hands back what it sent, byte for byte."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from starlette.types import ASGIApp, Message


@dataclass
class Answer:
    """What an application answered."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    size_bytes: int = 0

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


def call(
    app: ASGIApp,
    method: str,
    target: str,
    body: bytes | list[bytes] = b"",
    headers: Mapping[str, str] | None = None,
    *,
    keep: bool = True,
    on_chunk: Callable[[bytes], None] | None = None,
) -> Answer:
    """Sends one request and waits for the whole answer.

    `target` is the path and query as they stand in a request line. With `keep` off the body is
    counted but not kept. `on_chunk` sees each piece of the body as it comes.
    """
    sent = {"host": "localhost:5000", **{k.lower(): v for k, v in (headers or {}).items()}}
    if body and isinstance(body, bytes):
        sent.setdefault("content-length", str(len(body)))
    messages = _incoming([body] if isinstance(body, bytes) else body)
    answer = Answer()
    pieces: list[bytes] = []

    async def receive() -> Message:
        return await anext(messages)

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            answer.status = message["status"]
            for name, value in message["headers"]:
                answer.headers[name.decode("latin-1").lower()] = value.decode("latin-1")
            return
        chunk = message.get("body", b"")
        answer.size_bytes += len(chunk)
        if on_chunk is not None:
            on_chunk(chunk)
        if keep:
            pieces.append(chunk)

    asyncio.run(_run(app, _scope(method, target, sent), receive, send))
    answer.body = b"".join(pieces)
    return answer


async def _run(app: ASGIApp, scope: Any, receive: Any, send: Any) -> None:
    await app(scope, receive, send)


def _scope(method: str, target: str, headers: Mapping[str, str]) -> dict[str, Any]:
    path, _, query = target.partition("?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(k.encode("latin-1"), v.encode("latin-1")) for k, v in headers.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 5000),
        "state": {},
    }


async def _incoming(chunks: list[bytes]) -> AsyncIterator[Message]:
    """The body in its pieces; then the client waits for the answer and never hangs up."""
    for number, chunk in enumerate(chunks):
        more = number < len(chunks) - 1
        yield {"type": "http.request", "body": chunk, "more_body": more}
    while True:
        await asyncio.sleep(3600)
        yield {"type": "http.disconnect"}
