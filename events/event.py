"""What an event is: its envelope, and the typed declaration of each type of event.

An event is a fact in the past tense. Its stored name is a literal that is never renamed; the
shape of its data is a version that must decode for ever.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import msgspec

Lane = Literal["journal", "points"]
LANES: tuple[Lane, ...] = ("journal", "points")


class Partition(NamedTuple):
    """One ordered sequence of the log. The journal is always one, and so in total order; the
    points lane has as many as its log makes of it."""

    lane: Lane
    number: int = 0
    """From 0."""

    def __str__(self) -> str:
        return f"{self.lane}/{self.number}" if self.number else self.lane


GAP = "log.gap"
"""The type of what stands for positions that hold no event; nothing is folded from it."""
DIRECT = "direct"
"""The origin of events that somebody wrote into the log past the API: nobody has checked them."""

JOURNAL = Partition("journal")
POINTS = Partition("points")
"""The one partition of the points lane in a log that does not divide it."""
UNDIVIDED = (JOURNAL, POINTS)
"""The partitions of such a log."""

Payload = TypeVar("Payload")


class NewEvent(msgspec.Struct, frozen=True, gc=False):
    """An event that has no position yet: what a writer hands to the log."""

    lane: Lane
    type: str
    version: int
    subject: str
    """The id of the run, experiment or model that the event is about."""
    time: int
    """When the server took the event: milliseconds since the epoch."""
    data: bytes
    actor: str | None = None
    """Who sent it, when known."""
    origin: str | None = None
    """Where it came from: the client's address and, in the journal, its user agent."""


class Event(msgspec.Struct, frozen=True, gc=False):
    """An event as the log holds it.

    A Struct, for a fold makes millions, and a frozen dataclass takes nine times as long to make.
    """

    lane: Lane
    position: int
    type: str
    version: int
    subject: str
    time: int
    data: bytes
    actor: str | None = None
    origin: str | None = None
    scrubbed: bool = False
    """True where a purge has emptied the data; only type, subject and position are left."""
    partition: int = 0
    """The number of its partition; 0 in the journal."""


def encode_json(payload: Any) -> bytes:
    """Journal data: JSON that a person can read, keys in the order of their declaration."""
    return msgspec.json.encode(payload)


@dataclass(frozen=True)
class EventType(Generic[Payload]):
    """One version of one type of event.

    `payload` is the type of its data: a msgspec Struct whose docstring and field descriptions are
    the event's documentation (docs/events.md is made from them).
    """

    name: str
    version: int
    payload: type[Payload]
    subject: str
    """What the subject of the event is: "run", "experiment" or "logged model"."""
    lane: Lane = "journal"
    lifecycle: bool = False
    """True for the events that decide whether a run can be written to."""
    encode: Callable[[Payload], bytes] = encode_json
    decode_data: Callable[[bytes], Payload] | None = field(default=None)

    def new(
        self,
        subject: str,
        payload: Payload,
        *,
        time: int,
        actor: str | None = None,
        origin: str | None = None,
    ) -> NewEvent:
        """The event with this data, ready to be appended."""
        return self.holding(subject, self.encode(payload), time=time, actor=actor, origin=origin)

    def holding(
        self,
        subject: str,
        data: bytes,
        *,
        time: int,
        actor: str | None = None,
        origin: str | None = None,
    ) -> NewEvent:
        """The event with data that is encoded already."""
        return NewEvent(self.lane, self.name, self.version, subject, time, data, actor, origin)

    def decode(self, data: bytes) -> Payload:
        """The data of a stored event of this type and version.

        Raises `msgspec.MsgspecError` or `ValueError` where the bytes are not such data.
        """
        if self.decode_data is not None:
            return self.decode_data(data)
        return self._decoder.decode(data)

    @cached_property
    def _decoder(self) -> msgspec.json.Decoder[Payload]:
        return msgspec.json.Decoder(self.payload)
