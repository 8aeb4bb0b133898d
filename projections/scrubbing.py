"""What a purge leaves of the events of its subject, and how that is read again.

A purged subject's data must go, yet a rebuild must come to the same verdicts on others: who had
an experiment's name when another wanted it, whether an experiment still had runs. Each view says
what little it needs for that (EntityView.kept) and folds it (EntityView.scrubbed).
"""

from __future__ import annotations

import msgspec

from events.event import Event
from projections.catalog import EVENT_TYPES, VIEWS
from projections.view import Keep

_TYPES = {(t.name, t.version): t for t in EVENT_TYPES}
_KEPT: dict[tuple[str, int], list[Keep]] = {}
for _view in VIEWS:
    for _type, _keep in _view.kept.items():
        _KEPT.setdefault((_type.name, _type.version), []).append(_keep)

_decoder = msgspec.json.Decoder(dict[str, str])


def kept_data(event: Event) -> bytes:
    """What stays of the event's data when its subject is purged."""
    if event.lane == "points":
        return b""
    key = (event.type, event.version)
    kept: dict[str, str] = {}
    if key in _KEPT:
        data = _TYPES[key].decode(event.data)
        for keep in _KEPT[key]:
            kept.update(keep(data))
    return msgspec.json.encode(kept)


def scrubbed_data(event: Event) -> dict[str, str]:
    """What `kept_data` has left of a scrubbed event."""
    return _decoder.decode(event.data) if event.lane == "journal" else {}
