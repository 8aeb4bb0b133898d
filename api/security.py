"""Keeps pages of other sites, and names that were rebound to this address, away from the server.

The defaults are MLflow's: requests must be sent to localhost or to a private address, and a page of
another origin can't change anything. A request's `Host` is what the browser believes it talks to:
when an attacker's name is pointed at 127.0.0.1 it is still the attacker's name, so it is refused.
"""

import ipaddress
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Final
from urllib.parse import urlsplit

import structlog
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import error_response

Header = tuple[bytes, bytes]

LOCAL_NAMES: Final = frozenset({"localhost", "127.0.0.1", "[::1]", "::1", "0.0.0.0"})
PRIVATE_NETWORKS: Final = tuple(
    ipaddress.ip_network(network)
    for network in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
)
CHANGING_METHODS: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})
OPEN_PATHS: Final = ("/health", "/ready", "/metrics", "/version")
"""What load balancers and scrapers ask under whatever name they know the server by. No answer has
anything of a run in it."""

VERDICTS_MAX: Final = 1000
NOSNIFF: Final = (b"x-content-type-options", b"nosniff")

log = structlog.get_logger(__name__)


class Security:
    """Middleware that refuses foreign hosts and origins with 403 and adds the safety headers.

    `allowed_hosts` and `cors_allowed_origins` are names with `*` as a wildcard, or None for the
    defaults. `x_frame_options` is SAMEORIGIN, DENY, or NONE for no such header.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        allowed_hosts: Sequence[str] | None = None,
        cors_allowed_origins: Sequence[str] | None = None,
        x_frame_options: str = "SAMEORIGIN",
        static_prefix: str = "",
    ) -> None:
        self.app = app
        self.allowed_hosts = None if not allowed_hosts else tuple(map(str.lower, allowed_hosts))
        self.checks_hosts = self.allowed_hosts is None or "*" not in self.allowed_hosts
        self.allowed_origins = tuple(cors_allowed_origins or ())
        self.allows_all_origins = "*" in self.allowed_origins
        self.open_paths = frozenset(static_prefix.rstrip("/") + path for path in OPEN_PATHS)
        self.headers: list[Header] = [NOSNIFF]
        if x_frame_options.upper() != "NONE":
            self.headers.append((b"x-frame-options", x_frame_options.upper().encode("latin-1")))
        self.hosts_seen: dict[bytes, bool] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        hosts: list[bytes] = []
        origin: bytes | None = None
        for name, value in scope["headers"]:
            if name == b"host":
                hosts.append(value)
            elif name == b"origin":
                origin = value
        answer = None
        if self.checks_hosts and scope["path"] not in self.open_paths:
            answer = self._refuse_host(hosts)
        added = self.headers
        if origin is not None:
            is_allowed = self._is_allowed_origin(origin, hosts)
            if is_allowed:
                added = [*self.headers, *self._cors_headers(origin)]
            if answer is None:
                answer = self._answer_origin(scope, origin, is_allowed)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = message.get("headers", ())
                message["headers"] = [*present, *_missing(added, present)]
            await send(message)

        await (answer or self.app)(scope, receive, send_with_headers)

    def has_admitted(self, host: bytes) -> bool:
        """Whether a request to this name, and no other, is sure to be let in."""
        return not self.checks_hosts or self.hosts_seen.get(host, False)

    def _refuse_host(self, hosts: list[bytes]) -> Response | None:
        # Two Host headers are a trick to make two parties see two names.
        if len(hosts) == 1:
            host = hosts[0]
            verdict = self.hosts_seen.get(host)
            if verdict is None:
                verdict = self._is_allowed_host(host.decode("latin-1").lower())
                if len(self.hosts_seen) < VERDICTS_MAX:
                    self.hosts_seen[host] = verdict
            if verdict:
                return None
        named = b", ".join(hosts)[:200].decode("latin-1")
        log.warning("host_refused", host=named)
        return error_response(
            "PERMISSION_DENIED",
            f"This server does not answer to the name {named!r}. "
            "Name it with --allowed-hosts to have requests to it accepted.",
        )

    def _is_allowed_host(self, host: str) -> bool:
        name = _without_port(host)
        if self.allowed_hosts is None:
            return name in LOCAL_NAMES or _is_private(name)
        return _matches(host, self.allowed_hosts) or _matches(name, self.allowed_hosts)

    def _is_allowed_origin(self, origin: bytes, hosts: list[bytes]) -> bool:
        if self.allows_all_origins:
            return True
        text = origin.decode("latin-1")
        try:
            parts = urlsplit(text)
        except ValueError:
            return False
        if parts.scheme in ("http", "https"):
            if parts.hostname in LOCAL_NAMES - {"0.0.0.0"}:
                return True
            # The server's own pages, where its name was checked to be its own.
            if self.checks_hosts and [parts.netloc.encode("latin-1")] == hosts:
                return self._refuse_host(hosts) is None
        return _matches(text, self.allowed_origins)

    def _answer_origin(self, scope: Scope, origin: bytes, is_allowed: bool) -> Response | None:
        """The answer to a preflight, and to a page that may not change anything here."""
        if scope["method"] == "OPTIONS":
            asked = dict(scope["headers"])
            if b"access-control-request-method" not in asked:
                return None
            if is_allowed:
                return Response(status_code=200, headers=_preflight(asked))
        elif is_allowed or scope["method"] not in CHANGING_METHODS:
            return None
        named = origin[:200].decode("latin-1")
        log.warning("origin_refused", origin=named, method=scope["method"], path=scope["path"])
        return error_response(
            "PERMISSION_DENIED",
            f"A page of {named!r} may not do this. "
            "Name it with --cors-allowed-origins to have its requests accepted.",
        )

    def _cors_headers(self, origin: bytes) -> list[Header]:
        if self.allows_all_origins:
            # Never with credentials: any page could use those of whoever looks at it.
            return [(b"access-control-allow-origin", b"*")]
        return [
            (b"access-control-allow-origin", origin),
            (b"access-control-allow-credentials", b"true"),
            (b"access-control-expose-headers", b"*"),
            (b"vary", b"Origin"),
        ]


def _preflight(asked: dict[bytes, bytes]) -> dict[str, str]:
    return {
        "access-control-allow-methods": "GET, POST, PUT, PATCH, DELETE, OPTIONS",
        "access-control-allow-headers": asked.get(
            b"access-control-request-headers", b"content-type"
        ).decode("latin-1"),
        "access-control-max-age": "600",
    }


def _missing(added: Iterable[Header], present: Iterable[Header]) -> list[Header]:
    names = {name for name, _ in present}
    return [header for header in added if header[0] not in names]


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdecimal() and (":" not in name or name[-1:] == "]") else host


def _is_private(name: str) -> bool:
    try:
        address = ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return any(address in network for network in PRIVATE_NETWORKS)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a name is one of these, or fits one that has a `*`; brackets stand for themselves."""
    return any(
        fnmatchcase(name, pattern.replace("[", "[[]")) if "*" in pattern else name == pattern
        for pattern in patterns
    )
