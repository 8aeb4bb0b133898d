"""From the bytes that a client sent to a typed Struct, with MLflow's leniency and none of its loss.

An entity file declares a request as a `msgspec.Struct` of the field types below and its handler
calls `await decode(request, ThatStruct)`. Two paths give the same answer:

- the fast one lets msgspec decode the bytes straight into the Struct. It stands only when nothing
  can hide in the body: no backslash, and exactly as many quotation marks as the decoded fields
  account for. An unknown field, a repeated key, or a null adds quotation marks, so it is noticed;
- the exact one (`api/values.py`) parses the JSON, refuses repeated keys, converts each field the
  way MLflow's clients rely on ("5" for 5, "NaN", `runUuid` spellings) and says what is wrong where.

How to declare a field:

    key: RequiredText                     missing, null or "" is refused
    run_id: RunId                         the same, and `run_uuid` is accepted in its place
    timestamp: Int64                      required
    step: Int64 | None = None             optional; what was not sent (or was null) is None
    metrics: list[Metric] = []            optional; what was not sent is empty
    status: Annotated[str, choices(RUNNING=1, FINISHED=3)] | None = None
"""

import json
import re
from collections.abc import Callable
from functools import cache
from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import Meta
from starlette.requests import Request

from api.quotes import quote_counter
from api.values import convert_struct, description_of, refuse
from events.errors import InvalidParameterValue

RequiredText = Annotated[str, Meta(min_length=1)]
RunId = Annotated[str, Meta(min_length=1, extra={"alias": "run_uuid"})]
Int32 = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Double = float

BODY_BYTES_MAX: Final = 2_000_000
"""The most that a JSON body may have unless a handler allows more; a full log-batch has 100 kB."""

Decoded = TypeVar("Decoded", bound=msgspec.Struct)


def choices(**numbers: int) -> Meta:
    """A text field that takes one of these names, or its number; the Struct holds the name."""
    return Meta(extra={"choices": numbers})


async def decode(
    request: Request, to: type[Decoded], *, body_bytes_max: int = BODY_BYTES_MAX
) -> Decoded:
    """The request's parameters as `to`.

    A GET is read from its query. Everything else, and a GET without a query, from its JSON body.
    Raises InvalidParameterValue, with the path of the field (`metrics[0].key`), for anything that
    can't be taken as it is.
    """
    if request.method in ("GET", "HEAD") and request.scope["query_string"]:
        return decode_query(request.query_params.multi_items(), to)
    if request.method in ("POST", "PUT"):
        _check_content_type(request.headers.get("content-type"))
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise InvalidParameterValue(
            "A compressed request body is not accepted: send it without Content-Encoding."
        )
    return decode_body(await read_body(request, body_bytes_max), to)


async def read_body(request: Request, bytes_max: int) -> bytes:
    """The whole body; InvalidParameterValue as soon as it is known to be over `bytes_max`."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and len(announced) < 20 and int(announced) > bytes_max:
        raise _too_large(bytes_max)
    chunks: list[bytes] = []
    size_bytes = 0
    async for chunk in request.stream():
        size_bytes += len(chunk)
        if size_bytes > bytes_max:
            raise _too_large(bytes_max)
        chunks.append(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def decode_body(body: bytes, to: type[Decoded]) -> Decoded:
    """The JSON body as `to`, by the fast path where that can be trusted."""
    found = decode_body_quickly(body, to)
    return decode_body_exactly(body, to) if found is None else found


def decode_body_quickly(body: bytes, to: type[Decoded]) -> Decoded | None:
    """The JSON body as `to` by the fast path, None where that can't be trusted."""
    if b"\\" in body:
        return None
    quick = _quick_decoder(to)
    return None if quick is None else quick(body)


def decode_body_exactly(body: bytes, to: type[Decoded]) -> Decoded:
    """The JSON body as `to`, by the path that looks at everything."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise InvalidParameterValue("The request body is not valid UTF-8.") from None
    if "\0" in text:
        raise InvalidParameterValue("The request body must be UTF-8, not UTF-16 or UTF-32.")
    sent = parse_json(text.removeprefix("\ufeff"))
    if isinstance(sent, str):
        # Old clients encode their JSON twice.
        sent = parse_json(sent)
    if sent is None:
        sent = {}
    if not isinstance(sent, dict):
        raise InvalidParameterValue(
            f"The request body must be a JSON object, not {type(sent).__name__}."
        )
    return convert_struct(sent, to)


def decode_query(items: list[tuple[str, str]], to: type[Decoded]) -> Decoded:
    """Query parameters as `to`: a repeated one is a list where the field is one, else its first."""
    sent: dict[str, Any] = {}
    values: dict[str, list[str]] = {}
    for name, value in items:
        values.setdefault(name, []).append(value)
    for field in description_of(to).fields:
        for name in field.query_names:
            if name not in values:
                continue
            first = values[name][0]
            if field.is_list:
                sent[name] = values[name]
            elif field.is_bool:
                sent[name] = _query_bool(first, name)
            else:
                sent[name] = first
    return convert_struct(sent, to)


def parse_json(text: str) -> Any:
    """Python values of a JSON text; what is not JSON at all is None, as MLflow takes it."""
    try:
        return json.loads(text, object_pairs_hook=_unique_pairs, parse_float=_finite)
    except RecursionError:
        raise InvalidParameterValue("The request body is nested too deeply.") from None
    except ValueError as error:
        if isinstance(error, json.JSONDecodeError):
            return None
        raise InvalidParameterValue("The request body has a number with too many digits.") from None


def _unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise refuse(f"The request body gives {name[:100]!r} more than once.")
            seen.add(name)
    return found


def _finite(digits: str) -> float:
    """Refuses 1e400, which would otherwise pass for a deliberate Infinity."""
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        raise refuse(f"The number {digits[:40]} is too large for a double.")
    return number


@cache
def _quick_decoder(to: type[msgspec.Struct]) -> Callable[[bytes], Any] | None:
    """The fast path for `to`, or None when its fields need conversions that msgspec can't do."""
    expected_quotes = quote_counter(description_of(to))
    if expected_quotes is None:
        return None
    decoder = msgspec.json.Decoder(to)

    def quick(body: bytes) -> msgspec.Struct | None:
        try:
            found = decoder.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
        return found if expected_quotes(found, body.count(b'"')) else None

    return quick


def _check_content_type(content_type: str | None) -> None:
    if content_type is None:
        raise InvalidParameterValue("Bad Request. Content-Type header is missing.")
    if content_type.split(";")[0].strip().lower() != "application/json":
        raise InvalidParameterValue("Bad Request. Content-Type must be 'application/json'.")


def _too_large(bytes_max: int) -> InvalidParameterValue:
    return InvalidParameterValue(
        f"The request body is larger than the {bytes_max:,} bytes that are accepted here."
    )


def _query_bool(value: str, name: str) -> bool:
    if not re.fullmatch("true|false", value, re.IGNORECASE):
        raise InvalidParameterValue(
            f"Invalid boolean value {value[:100]!r} for parameter '{name}': "
            "it must be 'true' or 'false'."
        )
    return value.lower() == "true"
