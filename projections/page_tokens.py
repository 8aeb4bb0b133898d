"""Page tokens: where a listing stopped, given to the client as text that only the server can write.

A token holds a position (the sort keys of the last row that was answered), not a count of rows, so
the next page goes on after that row whatever was added or removed meanwhile. It is signed together
with the query it belongs to and the user who asked: a token that was changed, made up, or taken to
another query is refused with `InvalidParameterValue`.
"""

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from events.errors import InvalidParameterValue

Position = tuple[str | int | float | bool | None, ...]
"""The sort keys of one row, as JSON can hold them."""

TOKEN_CHARS_MAX = 32_768
"""Longer than any token that is ever written: a position can hold a param's 6,000 characters."""

_SIGNATURE_BYTES = 32
_QUERY_BYTES = 8

Row = TypeVar("Row")


@dataclass(frozen=True)
class PageQuery:
    """What a token is bound to: everything that decides which rows there are and in what order.

    `parts` holds what the endpoint takes, as JSON can hold it: the filter, the order, the
    experiment ids, the view type. The page size is no part of it; it may change between pages.
    """

    endpoint: str
    user: str
    parts: tuple[Any, ...] = ()


def write_page_token(secret: bytes, query: PageQuery, position: Position) -> str:
    """The token with which the rows after `position` can be asked for."""
    payload = _query_mark(query) + json.dumps(position, ensure_ascii=False).encode()
    return base64.urlsafe_b64encode(_signature(secret, payload) + payload).decode().rstrip("=")


def read_page_token(secret: bytes, query: PageQuery, token: str | None) -> Position | None:
    """The position in a token that was written for this query; None if there is no token."""
    if not token:
        return None
    raw = _decoded(token)
    signature, payload = raw[:_SIGNATURE_BYTES], raw[_SIGNATURE_BYTES:]
    if not hmac.compare_digest(signature, _signature(secret, payload)):
        raise InvalidParameterValue(
            "Invalid page token: this server did not write it. Send next_page_token as it was "
            "answered, or none to start over"
        )
    mark, position = payload[:_QUERY_BYTES], payload[_QUERY_BYTES:]
    if mark != _query_mark(query):
        raise InvalidParameterValue(
            "Invalid page token: it belongs to another query or user. Send the same filter, order "
            "and ids as for the page before, or no token to start over"
        )
    return tuple(json.loads(position))


def page_of_sorted(
    rows: Sequence[Row],
    key: Callable[[Row], tuple[Any, ...]],
    limit: int,
    after: Position | None,
) -> tuple[list[Row], Position | None]:
    """The next `limit` of rows that are sorted by `key`, and the position to go on after.

    For listings that are at hand whole (files of a folder, points of a run); a search in SQL pages
    by itself. The key must be unique for each row and hold only what a position can hold.
    """
    start = 0
    if after is not None:
        low, high = 0, len(rows)
        while low < high:
            middle = (low + high) // 2
            if key(rows[middle]) <= after:
                low = middle + 1
            else:
                high = middle
        start = low
    page = list(rows[start : start + limit])
    more = start + limit < len(rows)
    return page, key(page[-1]) if more and page else None


def _decoded(token: str) -> bytes:
    malformed = InvalidParameterValue("Invalid page token: it is not one of this server's")
    if len(token) > TOKEN_CHARS_MAX:
        raise malformed
    try:
        return base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise malformed from error


def _signature(secret: bytes, payload: bytes) -> bytes:
    return hmac.new(secret, payload, hashlib.sha256).digest()


def _query_mark(query: PageQuery) -> bytes:
    """Eight bytes that differ between queries. The signature covers them, so they may be short."""
    text = json.dumps([query.endpoint, query.user, query.parts], sort_keys=True)
    return hashlib.sha256(text.encode()).digest()[:_QUERY_BYTES]
