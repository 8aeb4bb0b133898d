"""Every error that a caller can see, each with MLflow's error code.

The docstring of a class says when it is raised; the message given to it says what was wrong and
what to do. The one table from code to HTTP status is in `api/errors.py`.
"""

from typing import ClassVar


class RunfoldError(Exception):
    """Something that the caller is told about, in MLflow's error JSON."""

    error_code: ClassVar[str] = "INTERNAL_ERROR"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidParameterValue(RunfoldError):
    """A value that was sent is missing, malformed, too long, or breaks a rule."""

    error_code = "INVALID_PARAMETER_VALUE"


class BadRequest(RunfoldError):
    """The request can't be served as it stands."""

    error_code = "BAD_REQUEST"


class ResourceDoesNotExist(RunfoldError):
    """The experiment, run, model, tag or artifact that was named is not there."""

    error_code = "RESOURCE_DOES_NOT_EXIST"


class ResourceAlreadyExists(RunfoldError):
    """The name is taken."""

    error_code = "RESOURCE_ALREADY_EXISTS"


class InvalidState(RunfoldError):
    """The entity is in a state that does not allow the call (MLflow answers these with 500)."""

    error_code = "INVALID_STATE"


class PermissionDenied(RunfoldError):
    """The caller may not do this, or the request came from a page or name that may not."""

    error_code = "PERMISSION_DENIED"


class EndpointNotFound(RunfoldError):
    """No such route on this server."""

    error_code = "ENDPOINT_NOT_FOUND"


class NotImplementedHere(RunfoldError):
    """A call of MLflow's API that this server, or this kind of artifact store, does not offer."""

    error_code = "NOT_IMPLEMENTED"


class TemporarilyUnavailable(RunfoldError):
    """Not now; the client should try again. Raised only when nothing was appended."""

    error_code = "TEMPORARILY_UNAVAILABLE"


class OutcomeUnknown(RunfoldError):
    """What stores the event went away during its commit and could not be asked since whether it was
    made. The one answer after which a write may be there or not; only reading tells."""

    error_code = "DEADLINE_EXCEEDED"


class TooManyRequests(RunfoldError):
    """As much of this is being done as the server does at a time; the client should try again."""

    error_code = "REQUEST_LIMIT_EXCEEDED"


ERRORS: tuple[type[RunfoldError], ...] = (
    InvalidParameterValue,
    BadRequest,
    ResourceDoesNotExist,
    ResourceAlreadyExists,
    InvalidState,
    PermissionDenied,
    EndpointNotFound,
    NotImplementedHere,
    TemporarilyUnavailable,
    OutcomeUnknown,
    TooManyRequests,
)

ERRORS_BY_CODE: dict[str, type[RunfoldError]] = {error.error_code: error for error in ERRORS}
