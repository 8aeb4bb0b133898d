"""HTTP as uvicorn speaks it, with a short way for the busiest calls beside it.

A request that the application's express line admits is kept from ASGI until its body is there and
is then offered to it. What it does not take goes uvicorn's way, as if nothing had been.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

REFUSAL = "runfold.refusal"
"""In a scope: the error that the application answers with, for the request was dealt with."""


class ExpressLine(Protocol):
    """What the application offers under `express` in its lifespan's state."""

    answer: bytes
    last_answer: bytes

    @property
    def body_bytes_max(self) -> int:
        """The longest body that it may be offered."""

    def admits(self, target: bytes, headers: Sequence[tuple[bytes, bytes]]) -> bool:
        """Whether a POST may be offered."""

    def take(
        self,
        target: bytes,
        body: bytes,
        client: str | None,
        answered: Callable[[Exception | None], None],
    ) -> bool:
        """Takes a request and calls `answered` later, or leaves it."""

    def count(self, target: bytes, seconds: float) -> None:
        """Counts a request that was taken and done."""


class _Ignored(asyncio.Event):
    """Nobody waits for what happens to a request on the short way."""

    def set(self) -> None:
        """Nothing."""


_IGNORED = _Ignored()


class _Taken(RequestResponseCycle):
    """A request on the short way, as the rest of the protocol sees it."""

    def __init__(self, scope: Any, target: bytes) -> None:
        # Not the base's: there is no task, and nothing of what it would need.
        self.scope = scope
        self.target = target
        self.started = time.perf_counter()
        self.chunks: list[bytes] = []
        self.size_bytes = 0
        self.keep_alive = True
        self.disconnected = False
        self.response_complete = False
        self.message_event = _IGNORED


class ExpressProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        is_plain = not (server_state.default_headers or config.root_path)
        self._express: ExpressLine | None = None
        if is_plain and config.limit_concurrency is None:
            self._express = app_state.get("express")
        self._taking: _Taken | None = None
        """The request that is being received for the short way."""

    def on_headers_complete(self) -> None:
        """Keeps a request back that the express line admits."""
        express = self._express
        if (
            express is not None
            and (self.cycle is None or self.cycle.response_complete)
            and self.parser.get_method() == b"POST"
            and express.admits(self.url, self.headers)
            and not self.expect_100_continue
            and not self.flow.write_paused
            and self.parser.get_http_version() == "1.1"
            and self.parser.should_keep_alive()
            and not self.parser.should_upgrade()
        ):
            self.cycle = self._taking = _Taken(self.scope, self.url)
            return
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Collects the body; one that is too long is refused the ordinary way, while it comes."""
        taking = self._taking
        if taking is None or self._express is None:
            super().on_body(body)
            return
        taking.chunks.append(body)
        taking.size_bytes += len(body)
        if taking.size_bytes > self._express.body_bytes_max:
            self._leave(taking)

    def on_message_complete(self) -> None:
        """Offers the request."""
        taking = self._taking
        if taking is None or self._express is None:
            super().on_message_complete()
            return
        chunks = taking.chunks
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        client = self.client[0] if self.client else None
        answered = partial(self._answer, taking)
        if self._express.take(taking.target, body, client, answered):
            self._taking = None
            taking.chunks = []
        else:
            self._leave(taking)
            super().on_message_complete()

    def _leave(self, taking: _Taken) -> None:
        """Sends a request uvicorn's way, with what has come of its body."""
        self._taking = None
        self.cycle = None  # type: ignore[assignment]
        super().on_headers_complete()
        # The server may have begun to end meanwhile.
        self.cycle.keep_alive = self.cycle.keep_alive and taking.keep_alive
        super().on_body(b"".join(taking.chunks))

    def _answer(self, taken: _Taken, error: Exception | None) -> None:
        if self._express is not None and error is None:
            self._express.count(taken.target, time.perf_counter() - taken.started)
        if self._express is None or self.transport.is_closing():
            taken.response_complete = True
            return
        if error is not None:
            self._answer_error(taken, error)
            return
        taken.response_complete = True
        if taken.keep_alive:
            self.transport.write(self._express.answer)
        else:
            self.transport.write(self._express.last_answer)
            self.transport.close()
        self.on_response_complete()

    def _answer_error(self, taken: _Taken, error: Exception) -> None:
        """Lets the application answer, which knows how."""
        scope = taken.scope
        scope["method"] = "POST"
        scope["path"] = taken.target.decode("ascii")
        scope["raw_path"] = taken.target
        scope["query_string"] = b""
        scope[REFUSAL] = error  # type: ignore[literal-required]
        cycle = RequestResponseCycle(
            scope=scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=taken.keep_alive,
            on_response=self.on_response_complete,
        )
        cycle.more_body = False
        cycle.message_event.set()
        if self.cycle is taken:
            self.cycle = cycle
        self._start_asgi_task(cycle, self.app)
