"""Event types: each is declared once, documented, and decodes its stored samples for ever."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from events.catalog import EVENT_TYPES
from events.codec import Block
from events.documentation import events_markdown
from events.event import EventType
from events.log import PURGED_TYPES
from events.metrics import points_of

GOLDEN = Path(__file__).parent / "golden" / "events"
DOCS = Path(__file__).parent.parent / "docs"
"""One stored sample a type and version: `data` as the log holds it (hex for the points lane) and
`decoded`, what it means. A sample is written once and never changed."""


def sample_path(event_type: EventType[Any]) -> Path:
    """Where the sample of a type is stored."""
    return GOLDEN / f"{event_type.name}.v{event_type.version}.json"


def meaning(payload: Any) -> Any:
    """A decoded payload as plain JSON values."""
    if isinstance(payload, Block):
        payload = points_of(payload)
    return json.loads(msgspec.json.encode(payload))


@pytest.mark.parametrize("event_type", EVENT_TYPES, ids=lambda t: f"{t.name}.v{t.version}")
def test_the_golden_sample_decodes_to_what_it_meant(event_type: EventType[Any]) -> None:
    """Bytes that an earlier Runfold stored still decode to the same data."""
    path = sample_path(event_type)
    assert path.exists(), (
        f"store a sample of {event_type.name} v{event_type.version} as {path.name}"
    )
    sample = json.loads(path.read_text())
    data = sample["data"]
    raw = bytes.fromhex(data) if event_type.lane == "points" else data.encode()
    assert meaning(event_type.decode(raw)) == sample["decoded"]


@pytest.mark.parametrize("event_type", EVENT_TYPES, ids=lambda t: f"{t.name}.v{t.version}")
def test_the_golden_sample_is_what_is_written_today(event_type: EventType[Any]) -> None:
    """Encoding the decoded sample gives data that decodes to the same: nothing is lost."""
    data = json.loads(sample_path(event_type).read_text())["data"]
    raw = bytes.fromhex(data) if event_type.lane == "points" else data.encode()
    payload = event_type.decode(raw)
    assert meaning(event_type.decode(event_type.encode(payload))) == meaning(payload)


def test_no_sample_is_without_a_declaration() -> None:
    """A type that was ever stored is never dropped from the catalog."""
    stored = {path.name for path in GOLDEN.glob("*.json")}
    assert stored == {sample_path(event_type).name for event_type in EVENT_TYPES}


def test_names_are_past_tense_literals_and_unique() -> None:
    """Each (name, version) is declared once; names are `noun.verb`, lower case."""
    names = [(event_type.name, event_type.version) for event_type in EVENT_TYPES]
    assert len(set(names)) == len(names)
    assert all(name.islower() and name.count(".") == 1 for name, _ in names)


def test_the_purge_events_are_known_to_the_log() -> None:
    """The types after which the log allows a scrub are those that the catalog declares."""
    declared = {t.name for t in EVENT_TYPES if t.name.endswith(".purged")}
    assert declared == set(PURGED_TYPES)


def test_every_declaration_is_documented() -> None:
    """docs/events.md is what the declarations say today; every field has a description."""
    assert (DOCS / "events.md").read_text() == events_markdown(), (
        "make it again: python -m events.documentation > docs/events.md"
    )
    assert "|  |" not in events_markdown().split("## Parts of events")[0]
