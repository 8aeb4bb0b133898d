"""The one table from error code to HTTP status, and MLflow's JSON for everything that goes wrong.

`EXCEPTION_HANDLERS` is given to the application; `UnexpectedErrors` is the middleware that turns a
bug into a plain 500 and a logged traceback, so that no internals reach the caller.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
import structlog
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from events.errors import RunfoldError

HTTP_STATUS: Final[Mapping[str, int]] = {
    "INVALID_PARAMETER_VALUE": 400,
    "RESOURCE_ALREADY_EXISTS": 400,
    "BAD_REQUEST": 400,
    "UNAUTHENTICATED": 401,
    "CUSTOMER_UNAUTHORIZED": 401,
    "PERMISSION_DENIED": 403,
    "RESOURCE_DOES_NOT_EXIST": 404,
    "ENDPOINT_NOT_FOUND": 404,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "RESOURCE_CONFLICT": 409,
    "ABORTED": 409,
    "RESOURCE_EXHAUSTED": 429,
    "REQUEST_LIMIT_EXCEEDED": 429,
    "CANCELLED": 499,
    "INTERNAL_ERROR": 500,
    "INVALID_STATE": 500,
    "DATA_LOSS": 500,
    "NOT_IMPLEMENTED": 501,
    "TEMPORARILY_UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}

CLASSIFICATION: Final[Mapping[str, tuple[str, str]]] = {
    "BAD_REQUEST": ("KAM00", "INVALID_PARAMETER_VALUE"),
    "INVALID_PARAMETER_VALUE": ("KAM00", "INVALID_PARAMETER_VALUE"),
    "CUSTOMER_UNAUTHORIZED": ("KAM00", "PERMISSION_DENIED"),
    "PERMISSION_DENIED": ("KAM00", "PERMISSION_DENIED"),
    "ENDPOINT_NOT_FOUND": ("KAM00", "RESOURCE_NOT_FOUND"),
    "NOT_FOUND": ("KAM00", "RESOURCE_NOT_FOUND"),
    "RESOURCE_DOES_NOT_EXIST": ("KAM00", "RESOURCE_NOT_FOUND"),
    "RESOURCE_ALREADY_EXISTS": ("KAM00", "RESOURCE_ALREADY_EXISTS"),
    "INTERNAL_ERROR": ("XXM00", "CLIENT_INTERNAL_ERROR"),
    "INVALID_STATE": ("XXM00", "CLIENT_INTERNAL_ERROR"),
    "TEMPORARILY_UNAVAILABLE": ("XXM00", "CLIENT_INTERNAL_ERROR"),
}
"""The `sqlstate` and `error_class` that MLflow 3.17 adds to a code; other codes have none."""

RETRY_AFTER_S: Final = 1

log = structlog.get_logger(__name__)


def error_response(
    error_code: str,
    message: str,
    *,
    status: int | None = None,
    headers: Mapping[str, str] | None = None,
    details: Mapping[str, int] | None = None,
) -> Response:
    """An error as MLflow's JSON. `status` only where it differs from the table's; `details` are
    further fields."""
    # A message may quote what was sent, half a surrogate pair too, which no JSON can carry.
    body: dict[str, Any] = {
        "error_code": error_code,
        "message": message.encode(errors="replace").decode(),
    }
    if error_code in CLASSIFICATION:
        body["sqlstate"], body["error_class"] = CLASSIFICATION[error_code]
    body |= details or {}
    return Response(
        msgspec.json.encode(body),
        status_code=HTTP_STATUS.get(error_code, 500) if status is None else status,
        media_type="application/json",
        headers=dict(headers or {}),
    )


async def answer_runfold_error(_request: Request, error: Exception) -> Response:
    """An error that the caller is told about."""
    if not isinstance(error, RunfoldError):
        raise error
    headers = {}
    if error.error_code in ("TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED"):
        headers["Retry-After"] = str(RETRY_AFTER_S)
    return error_response(error.error_code, error.message, headers=headers)


async def answer_routing_error(request: Request, error: Exception) -> Response:
    """No such path, or a path that has no such verb."""
    if not isinstance(error, HTTPException):
        raise error
    if error.status_code == 404:
        message = f"There is no endpoint {request.url.path[:200]!r} on this server."
        return error_response("ENDPOINT_NOT_FOUND", message)
    if error.status_code == 405:
        message = f"{request.method} is not a method of {request.url.path[:200]!r}."
        return error_response("ENDPOINT_NOT_FOUND", message, status=405, headers=error.headers)
    code = "BAD_REQUEST" if error.status_code < 500 else "INTERNAL_ERROR"
    return error_response(code, error.detail, status=error.status_code, headers=error.headers)


async def answer_disconnect(_request: Request, _error: Exception) -> Response:
    """The client left while its request was read: nobody will see this answer."""
    return error_response("CANCELLED", "The client closed the connection.")


EXCEPTION_HANDLERS: Final[dict[Any, Callable[[Request, Exception], Any]]] = {
    RunfoldError: answer_runfold_error,
    HTTPException: answer_routing_error,
    ClientDisconnect: answer_disconnect,
}


class UnexpectedErrors:
    """Answers 500 with nothing but INTERNAL_ERROR when a bug gets through; the log has the rest."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def watched_send(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, watched_send)
        except Exception:
            log.exception("request_failed", method=scope["method"], path=scope["path"])
            if started:
                # A body that was cut short must not look complete: the server closes the socket.
                raise
            answer = error_response(
                "INTERNAL_ERROR", "Runfold failed to answer this request; its log says why."
            )
            await answer(scope, receive, send)
