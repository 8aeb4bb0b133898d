"""The tags that come with a run or are set on it: checked and cut to their length."""

from __future__ import annotations

import msgspec

from api.limits import RUN_NAME_LENGTH_MAX, RUN_TAG_VALUE_LENGTH_MAX, check_key, check_length
from api.requests import RequiredText
from events.runs import RunTag
from projections.runs import RUN_NAME_TAG


class TagSent(msgspec.Struct, gc=False):
    """A tag as a client sends it."""

    key: RequiredText
    value: str | None = None


def checked_tags(sent: list[TagSent]) -> list[RunTag]:
    """The tags, checked and cut to their length; of a key that stands twice the last wins."""
    found: dict[str, RunTag] = {}
    for place, tag in enumerate(sent):
        check_key(tag.key, "tag", f"tags[{place}].key")
        found[tag.key] = RunTag(tag.key, tag_value(tag.key, tag.value))
    return list(found.values())


def tag_value(key: str, value: str | None) -> str:
    text = (value or "")[:RUN_TAG_VALUE_LENGTH_MAX]
    if key == RUN_NAME_TAG:
        check_length(text, RUN_NAME_LENGTH_MAX, "value")
    return text
