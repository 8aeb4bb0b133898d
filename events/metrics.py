"""Metric points: the one event of the points lane, and a point as a journal event holds it."""

from __future__ import annotations

import math
from typing import Annotated

import msgspec
from msgspec import Meta

from events.codec import (
    COLUMNS_KEYS_MAX,
    Block,
    Series,
    decode_block,
    encode_block,
    encode_columns,
    make_block,
)
from events.event import EventType

NumberText = float | str


class Point(msgspec.Struct, frozen=True, omit_defaults=True):
    """One metric point as the journal's JSON holds it."""

    key: Annotated[str, Meta(description="The metric's name.")]
    value: Annotated[
        NumberText,
        Meta(description='The value; "NaN", "Infinity" and "-Infinity" are text, as JSON needs.'),
    ]
    timestamp: Annotated[int, Meta(description="When it was measured: ms since the epoch.")]
    step: Annotated[int, Meta(description="The training step; may be negative.")] = 0
    model_id: Annotated[str | None, Meta(description="The logged model it was measured on.")] = None
    dataset_name: Annotated[str | None, Meta(description="The dataset it was measured on.")] = None
    dataset_digest: Annotated[str | None, Meta(description="That dataset's digest.")] = None


def number_text(value: float) -> NumberText:
    """A float as JSON can hold it."""
    if math.isfinite(value):
        return value
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def block_of(points: list[Point]) -> Block:
    """The points of a journal event as a block."""
    return make_block(
        [
            (
                Series(p.key, p.model_id, p.dataset_name, p.dataset_digest),
                p.step,
                p.timestamp,
                float(p.value),
            )
            for p in points
        ]
    )


PLAIN_POINTS_MAX = 64
"""So few points are not worth compressing for the time until they are sealed."""


def encode_points(points: list[Point]) -> bytes:
    """The bytes of the block of these points, to be stored for a while."""
    keys: dict[str, int] = {}
    index = [keys.setdefault(p.key, len(keys)) for p in points]
    if len(keys) > COLUMNS_KEYS_MAX or any(p.model_id or p.dataset_name for p in points):
        return encode_block(block_of(points))
    return encode_columns(
        list(keys),
        index,
        [p.step for p in points],
        [p.timestamp for p in points],
        [float(p.value) for p in points],
        plain=len(points) <= PLAIN_POINTS_MAX,
    )


def points_of(block: Block) -> list[Point]:
    """A block as points of a journal event."""
    columns = zip(
        block.index.tolist(),
        block.values.tolist(),
        block.timestamps.tolist(),
        block.steps.tolist(),
        strict=True,
    )
    points = []
    for place, value, timestamp, step in columns:
        key, model_id, dataset_name, dataset_digest = block.series[place]
        points.append(
            Point(key, number_text(value), timestamp, step, model_id, dataset_name, dataset_digest)
        )
    return points


POINTS_LOGGED: EventType[Block] = EventType(
    "points.logged",
    1,
    Block,
    "run",
    lane="points",
    encode=encode_block,
    decode_data=decode_block,
)
"""Metric points were logged to a run: a columnar block (see events/codec.py)."""
