"""Events as Kafka records, and back: docs/kafka.md describes the format for who writes his own.

The key is the event's subject, the value its data, the timestamp its time, and the headers have
the rest. What Runfold itself wrote says so in the header `by`; any other record was never checked
by anybody, and its event's origin is DIRECT.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from typing import Protocol

from events.event import DIRECT, GAP, Event, NewEvent, Partition

BY, BY_US = "by", b"runfold"
TYPE, VERSION, ACTOR, ORIGIN, MARK = "type", "version", "actor", "origin", "mark"
SCRUBBED = "scrubbed"
Headers = list[tuple[str, bytes]]
_UNCHECKED_LENGTH_MAX = 300
"""Of a text that nobody has checked so much is kept: no run's id or type is longer."""


class Record(Protocol):
    """A record as the consumer gives it."""

    offset: int
    timestamp: int
    """Milliseconds since the epoch."""
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


def marks() -> Iterator[bytes]:
    """Marks for records of which no two are equal, by which a producer finds its own again."""
    maker = os.urandom(8)
    return (maker + number.to_bytes(6, "big") for number in itertools.count())


def headers_of(event: NewEvent | Event, mark: bytes) -> Headers:
    """The headers of the record of an event."""
    headers = [
        (BY, BY_US),
        (MARK, mark),
        (TYPE, event.type.encode()),
        (VERSION, b"%d" % event.version),
    ]
    if event.actor is not None:
        headers.append((ACTOR, event.actor.encode()))
    if event.origin is not None:
        headers.append((ORIGIN, event.origin.encode()))
    if isinstance(event, Event) and event.scrubbed:
        headers.append((SCRUBBED, b"1"))
    return headers


def event_of(partition: Partition, position: int, record: Record) -> Event:
    """The event that a record holds. Never fails: what is no event is one of no known type."""
    headers = dict(record.headers)
    is_ours = headers.get(BY) == BY_US
    text = _text if is_ours else _unchecked
    return Event(
        partition.lane,
        position,
        text(headers.get(TYPE)) or "",
        _number(headers.get(VERSION)),
        text(record.key) or "",
        max(0, record.timestamp),
        bytes(record.value or b""),
        text(headers.get(ACTOR)),
        text(headers.get(ORIGIN)) if is_ours else DIRECT,
        is_ours and SCRUBBED in headers,
        partition=partition.number,
    )


def gap(partition: Partition, position: int) -> Event:
    """What stands for offsets that hold no event, up to this position."""
    return Event(partition.lane, position, GAP, 0, "", 0, b"", partition=partition.number)


def mark_of(record: Record) -> bytes | None:
    """The record's mark, where it has one."""
    return dict(record.headers).get(MARK)


def _text(value: bytes | None) -> str | None:
    return None if value is None else bytes(value).decode("utf-8", "replace")


def _unchecked(value: bytes | None) -> str | None:
    """The same of a text by anybody, as every database can keep it."""
    text = _text(value)
    return None if text is None else text[:_UNCHECKED_LENGTH_MAX].replace("\0", "\ufffd")


def _number(value: bytes | None) -> int:
    text = bytes(value or b"")
    return int(text) if text.isdigit() and len(text) < 9 else 0
