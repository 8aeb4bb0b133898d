"""The short way for the busiest calls: metric points from a client that sends plain JSON.

What ASGI, a request object and a task cost is more than the work for one metric. So the protocol
(workers/http_protocol.py) offers each request of `QUICK` here first, headers and then body. What is
anything but plain is left to the ordinary way, and so is whatever would be refused: there is one
place for each check and each error message, and it is not this one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import structlog

from api.answers import json_answer
from api.limits import BATCH_BYTES_MAX
from api.request_counts import RequestCounts
from api.run_logging import QUICK
from api.security import Security
from api.services import Services
from events.errors import RunfoldError

Header = tuple[bytes, bytes]
Answered = Callable[[Exception | None], None]

JSON_TYPES: Final = frozenset({b"application/json", b"application/json; charset=utf-8"})
NOT_PLAIN: Final = frozenset(
    {
        b"origin",  # a page's request: api/security.py has rules for those
        b"content-encoding",
        b"transfer-encoding",
        b"x-forwarded-for",  # says another client's address
        b"x-forwarded-proto",
    }
)

logger = structlog.get_logger(__name__)


class Express:
    """Takes requests that are plain and certain to be answered with `{}`."""

    body_bytes_max: Final = BATCH_BYTES_MAX

    def __init__(
        self,
        services: Services,
        security: Security | None,
        static_prefix: str,
        counts: RequestCounts,
    ) -> None:
        self._services = services
        self._security = security
        self._quick = {(static_prefix + path).encode(): quick for path, quick in QUICK.items()}
        self._counts = {
            (static_prefix + path).encode(): counts.of(static_prefix + path, "POST")
            for path in QUICK
        }
        response = json_answer({})
        headers: Sequence[Header] = [*response.raw_headers, *(security.headers if security else ())]
        head = b"".join(b"%s: %s\r\n" % header for header in headers)
        status = b"HTTP/1.1 200 OK\r\n"
        self.answer = status + head + b"\r\n" + response.body
        """All bytes of the answer."""
        self.last_answer = status + head + b"connection: close\r\n\r\n" + response.body
        """The same on a connection that ends with it."""

    def admits(self, target: bytes, headers: Sequence[Header]) -> bool:
        """Whether a POST to this target with these headers may be offered to `take`."""
        if target not in self._quick:
            return False
        hosts = types = 0
        for name, value in headers:
            if name == b"host":
                hosts += 1
                if self._security is not None and not self._security.has_admitted(value):
                    return False
            elif name == b"content-type":
                types += 1
                if value not in JSON_TYPES:
                    return False
            elif name in NOT_PLAIN:
                return False
        return hosts == types == 1

    def count(self, target: bytes, seconds: float) -> None:
        """Counts a request that was taken and answered."""
        self._counts[target].add(200, seconds)

    def take(self, target: bytes, body: bytes, client: str | None, answered: Answered) -> bool:
        """Has the request's event appended; `answered` is called once it is durable, or with the
        error where it could not be appended.

        False where the request must go the ordinary way: then nothing has happened.
        """
        try:
            event = self._quick[target](self._services, body, client)
            if event is None:
                return False
            self._services.writer.submit(event, answered)
        except RunfoldError:
            return False
        except Exception:
            logger.exception("the short way failed", target=target)
            return False
        return True
