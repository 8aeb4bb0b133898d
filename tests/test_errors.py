"""What goes wrong, as clients see it."""

import gzip
import json

import pytest
from msgspec import Struct
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from api.errors import (
    CLASSIFICATION,
    EXCEPTION_HANDLERS,
    HTTP_STATUS,
    UnexpectedErrors,
    error_response,
)
from api.requests import BODY_BYTES_MAX, Int32, RunId, decode
from events.errors import ERRORS, RunfoldError, TemporarilyUnavailable, TooManyRequests
from tests.asgi import Answer, call

JSON = {"content-type": "application/json"}


class Asked(Struct):
    run_id: RunId
    max_results: Int32 | None = None
    names: list[str] = []


async def echo(request: Request) -> Response:
    """Answers with what was understood."""
    asked = await decode(request, Asked)
    return Response(json.dumps([asked.run_id, asked.max_results, asked.names]))


async def fail(request: Request) -> Response:
    """Raises what the query names."""
    name = request.query_params["error"]
    for error in ERRORS:
        if error.__name__ == name:
            raise error("what happened")
    raise ZeroDivisionError("a secret path: /etc/secret")


async def half(_request: Request) -> Response:
    """Begins an answer that it can't end."""

    async def pieces() -> object:
        yield b"begin"
        raise ZeroDivisionError

    return StreamingResponse(pieces())  # type: ignore[arg-type]


APP = Starlette(
    routes=[
        Route("/echo", echo, methods=["GET", "POST", "PUT", "PATCH", "DELETE"]),
        Route("/fail", fail, methods=["GET"]),
        Route("/half", half, methods=["GET"]),
    ],
    middleware=[Middleware(UnexpectedErrors)],
    exception_handlers=EXCEPTION_HANDLERS,
)


def told(answer: Answer) -> tuple[int, str]:
    """Status and error code."""
    return answer.status, answer.json()["error_code"]


@pytest.mark.parametrize("error", ERRORS)
def test_every_error_has_its_status_and_shape(error: type[RunfoldError]) -> None:
    """Each error that exists has a status in the table, and MLflow's JSON with its two extras."""
    answer = call(APP, "GET", f"/fail?error={error.__name__}")
    body = answer.json()
    assert answer.status == HTTP_STATUS[error.error_code]
    assert answer.headers["content-type"] == "application/json"
    assert (body["error_code"], body["message"]) == (error.error_code, "what happened")
    extras = (body.get("sqlstate"), body.get("error_class"))
    assert extras == CLASSIFICATION.get(error.error_code, (None, None))
    assert ("retry-after" in answer.headers) == (error in (TemporarilyUnavailable, TooManyRequests))


def test_a_bug_is_not_told_to_the_caller(capsys: pytest.CaptureFixture[str]) -> None:
    """An unexpected exception is a plain 500 outside, and a traceback in the log."""
    answer = call(APP, "GET", "/fail?error=none")
    assert told(answer) == (500, "INTERNAL_ERROR")
    assert b"secret" not in answer.body
    assert "a secret path" in capsys.readouterr().out


def test_an_answer_cut_short_does_not_look_whole() -> None:
    """A failure after the first bytes breaks the connection."""
    with pytest.raises(ZeroDivisionError):
        call(APP, "GET", "/half")


def test_a_message_can_quote_anything() -> None:
    """Half a surrogate pair in a message does not keep the error from being told."""
    body = bytes(error_response("BAD_REQUEST", "sent: \ud800").body)
    assert json.loads(body)["message"] == "sent: ?"


def test_routing() -> None:
    """An unknown URL and a wrong verb are told in JSON."""
    assert told(call(APP, "GET", "/api/2.0/mlflow/nope")) == (404, "ENDPOINT_NOT_FOUND")
    answer = call(APP, "DELETE", "/fail")
    assert told(answer) == (405, "ENDPOINT_NOT_FOUND")
    assert "GET" in answer.headers["allow"]


@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", ""])
def test_the_content_type_is_json(method: str, kind: str | None) -> None:
    """2.5: POST and PUT say that they send JSON; a form of another site's page can't."""
    headers = {} if kind is None else {"content-type": kind}
    answer = call(APP, method, "/echo", b'{"run_id":"r"}', headers)
    assert told(answer) == (400, "INVALID_PARAMETER_VALUE")


@pytest.mark.parametrize("kind", ["application/json", "Application/JSON; charset=utf-8"])
def test_the_content_type_may_have_parameters(kind: str) -> None:
    """2.5: parameters of the content type don't matter; PATCH and DELETE need none."""
    for method in ("POST", "PUT"):
        answer = call(APP, method, "/echo", b'{"run_id":"r"}', {"content-type": kind})
        assert answer.json() == ["r", None, []]
    for method in ("PATCH", "DELETE"):
        assert call(APP, method, "/echo", b'{"run_id":"r"}').status == 200


def test_bodies_in_pieces_and_too_large() -> None:
    """L-45: a body is taken up to the bound, announced or not, in one piece or many."""
    whole = json.dumps({"run_id": "r", "names": ["x" * 90] * 20_000}).encode()
    assert len(whole) < BODY_BYTES_MAX
    pieces = [whole[i : i + 65_536] for i in range(0, len(whole), 65_536)]
    for body in (whole, pieces):
        assert call(APP, "POST", "/echo", body, JSON).status == 200
    over = b'{"run_id":"r"}' + b" " * BODY_BYTES_MAX
    for too_much in (over, [over[:1_000_000], over[1_000_000:]]):
        answer = call(APP, "POST", "/echo", too_much, JSON)
        assert told(answer) == (400, "INVALID_PARAMETER_VALUE")


def test_compressed_bodies_are_refused() -> None:
    """2.5: a compressed body is refused, not taken for an empty one."""
    body = gzip.compress(b'{"run_id":"r"}')
    answer = call(APP, "POST", "/echo", body, {**JSON, "content-encoding": "gzip"})
    assert told(answer) == (400, "INVALID_PARAMETER_VALUE")
    same = call(APP, "POST", "/echo", b'{"run_id":"r"}', {**JSON, "content-encoding": "identity"})
    assert same.status == 200


def test_queries() -> None:
    """A GET is read from its query, or from its body when it has none."""
    answer = call(APP, "GET", "/echo?run_uuid=r&max_results=5&names=a&names=%C3%A9&x=1")
    assert answer.json() == ["r", 5, ["a", "é"]]
    assert call(APP, "GET", "/echo", b'{"run_id":"r"}').json() == ["r", None, []]
    for query in ("?max_results=5", "?run_id=", "?run_id=r&max_results=1.5", ""):
        assert told(call(APP, "GET", f"/echo{query}")) == (400, "INVALID_PARAMETER_VALUE")
