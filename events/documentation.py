"""docs/events.md, made from the declarations: `python -m events.documentation > docs/events.md`."""

from __future__ import annotations

import inspect
import sys
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec

from events.catalog import EVENT_TYPES
from events.codec import Block
from events.event import EventType

_HEAD = """# The events

Made from the declarations in `events/` by `python -m events.documentation > docs/events.md`; a
test holds it current.

Every event has a position in its partition of a lane, a type and version, a subject (the id that it
is about), the time at which the server took it (milliseconds since the epoch), who sent it (actor)
and where it came from (origin: the client's address and, in the journal, its user agent). The names
are stored as they stand here and are never changed; each version decodes for ever.

The **journal** holds everything but bulk metric points, totally ordered; its data is JSON. The
**points** lane holds batches of metric points, in which order does not matter; its data is a
columnar block (`events/codec.py` describes the bytes). A rejected event stays in the journal and
changes nothing; its verdict is in the views. After a purge the data of the subject's events is
scrubbed: type, subject, position and time stay.
"""


def _type_text(hint: Any) -> str:
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return hint.__name__
    if get_origin(hint) is list:
        return f"list of {_type_text(get_args(hint)[0])}"
    if get_args(hint):
        return " or ".join(_type_text(part) for part in get_args(hint))
    names = {type(None): "null", str: "text", int: "int64", float: "double", bool: "boolean"}
    return names.get(hint, getattr(hint, "__name__", str(hint)))


def _description(hint: Any) -> str:
    for note in get_args(hint)[1:] if get_origin(hint) is Annotated else ():
        if isinstance(note, msgspec.Meta) and note.description:
            return note.description
    return ""


def _fields(payload: type[Any]) -> list[str]:
    hints = get_type_hints(payload, include_extras=True)
    if not hints:
        return ["No data.", ""]
    lines = ["| field | type | meaning |", "|---|---|---|"]
    lines += [
        f"| `{name}` | {_type_text(hint)} | {_description(hint)} |" for name, hint in hints.items()
    ]
    return [*lines, ""]


def _nested(payload: type[Any]) -> set[type[Any]]:
    found = set()
    for hint in get_type_hints(payload).values():
        for part in (hint, *get_args(hint)):
            if isinstance(part, type) and issubclass(part, msgspec.Struct):
                found |= {part, *_nested(part)}
    return found


def _section(event_type: EventType[Any]) -> list[str]:
    lines = [
        f"### `{event_type.name}` version {event_type.version}",
        "",
        f"Lane: {event_type.lane}. Subject: the {event_type.subject}'s id.",
        "",
    ]
    if event_type.payload is Block:
        return [
            *lines,
            "Metric points were logged to a run: columns of series (key, and optionally logged "
            "model and dataset), step, timestamp and value, compressed with zstd.",
            "",
        ]
    return [
        *lines,
        inspect.cleandoc(event_type.payload.__doc__ or ""),
        "",
        *_fields(event_type.payload),
    ]


def events_markdown() -> str:
    """The whole page."""
    lines = [_HEAD, "## Event types", ""]
    for event_type in EVENT_TYPES:
        lines += _section(event_type)
    parts = {part for t in EVENT_TYPES if t.payload is not Block for part in _nested(t.payload)}
    lines += ["## Parts of events", ""]
    for part in sorted(parts, key=lambda part: part.__name__):
        lines += [f"### {part.__name__}", "", inspect.cleandoc(part.__doc__ or ""), ""]
        lines += _fields(part)
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    sys.stdout.write(events_markdown())
