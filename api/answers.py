"""JSON answers as MLflow's clients read them."""

from __future__ import annotations

import math
import sys
from typing import Any

import msgspec
from starlette.responses import Response

_encoder = msgspec.json.Encoder()
FLOAT_MAX = sys.float_info.max


def json_answer(content: Any, status: int = 200) -> Response:
    """An answer with this content."""
    return Response(_encoder.encode(content), status, media_type="application/json")


EMPTY: dict[str, Any] = {}


def json_number(value: float) -> float | str:
    """A metric's value as MLflow answers it: "NaN" as text, the infinities as the largest float."""
    if math.isfinite(value):
        return value
    if math.isnan(value):
        return "NaN"
    return FLOAT_MAX if value > 0 else -FLOAT_MAX


def key_values(pairs: list[tuple[str, str]]) -> list[dict[str, str]]:
    """Params or tags as a list of objects."""
    return [{"key": key, "value": value} for key, value in pairs]


def without_empty(answer: dict[str, Any]) -> dict[str, Any]:
    """The fields that are neither null nor an empty list, as protobuf's JSON leaves them out."""
    return {key: value for key, value in answer.items() if value is not None and value != []}
