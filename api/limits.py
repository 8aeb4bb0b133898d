"""The limits of names, keys and values that every entity shares, and what breaking them says.

The numbers are MLflow's (its utils/validation.py and database columns); lengths count characters.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable

from events.errors import InvalidParameterValue
from events.keys import KEY, KEY_LENGTH_MAX, RUN_ID, is_path_unsafe

PARAM_VALUE_LENGTH_MAX = 6_000
RUN_TAG_VALUE_LENGTH_MAX = 8_000
EXPERIMENT_TAG_VALUE_LENGTH_MAX = 20_000
EXPERIMENT_NAME_LENGTH_MAX = 500
RUN_NAME_LENGTH_MAX = 5_000
BATCH_METRICS_MAX = 1_000
BATCH_PARAMS_MAX = 100
BATCH_TAGS_MAX = 100
BATCH_TOTAL_MAX = 1_000
BATCH_BYTES_MAX = 2_000_000

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_seen_keys: set[str] = set()
"""Keys that passed: a training logs the same few ten thousand times."""
_SEEN_KEYS_MAX = 10_000


def check_key(key: str, what: str, path: str) -> None:
    """Raises InvalidParameterValue for a metric, param or tag key that breaks the rules.

    `what` says what it is the name of ("metric"), `path` where it was sent ("metrics[0].key").
    """
    if key in _seen_keys:
        return
    if not key:
        raise InvalidParameterValue(f"Missing value for required parameter '{path}'.")
    if len(key) > KEY_LENGTH_MAX:
        raise InvalidParameterValue(
            f"Invalid value for parameter '{path}': the {what} name has {len(key)} characters, "
            f"at most {KEY_LENGTH_MAX} are allowed."
        )
    if not KEY.fullmatch(key):
        raise InvalidParameterValue(
            f"Invalid value {key!r} for parameter '{path}': a {what} name may only contain "
            "letters, digits, underscores (_), dashes (-), periods (.), spaces, colons (:) and "
            "slashes (/)."
        )
    if is_path_unsafe(key):
        raise InvalidParameterValue(
            f"Invalid value {key!r} for parameter '{path}': a {what} name is used as a path, and "
            f"this one means another: {posixpath.normpath(key)!r}. Send that one, without '.', "
            "'..' or doubled, leading or trailing slashes."
        )
    if len(_seen_keys) < _SEEN_KEYS_MAX:
        _seen_keys.add(key)


def check_run_id(run_id: str, path: str = "run_id") -> None:
    """Raises InvalidParameterValue for what can't be a run id."""
    if not RUN_ID.fullmatch(run_id):
        raise InvalidParameterValue(
            f"Invalid value {run_id[:300]!r} for parameter '{path}': a run id begins with a letter "
            "or digit and has at most 256 letters, digits, underscores and dashes."
        )


def check_experiment_id(experiment_id: str, path: str = "experiment_id") -> None:
    """Raises InvalidParameterValue for what can't be an experiment id: they are whole numbers."""
    try:
        int(experiment_id)
    except ValueError:
        raise InvalidParameterValue(
            f"Invalid value {experiment_id[:300]!r} for parameter '{path}': an experiment id is a "
            "whole number."
        ) from None


def check_experiment_name(name: str, path: str) -> None:
    """Raises InvalidParameterValue for an experiment name that is too long or has controls."""
    if not name:
        raise InvalidParameterValue(
            f"Missing value for required parameter '{path}': an experiment needs a name."
        )
    if len(name) > EXPERIMENT_NAME_LENGTH_MAX:
        raise InvalidParameterValue(
            f"Invalid value for parameter '{path}': the experiment name has {len(name)} "
            f"characters, at most {EXPERIMENT_NAME_LENGTH_MAX} are allowed."
        )
    if _CONTROL.search(name):
        raise InvalidParameterValue(
            f"Invalid value {name!r} for parameter '{path}': an experiment name may not contain "
            "control characters."
        )


def check_length(value: str, maximum: int, path: str) -> None:
    """Raises InvalidParameterValue for a text of more characters than that."""
    if len(value) > maximum:
        raise InvalidParameterValue(
            f"Invalid value for parameter '{path}': it has {len(value)} characters, at most "
            f"{maximum} are allowed."
        )


def check_unique(keys: Iterable[str], what: str) -> None:
    """Raises InvalidParameterValue where a key stands twice."""
    seen: set[str] = set()
    doubled = sorted({key for key in keys if key in seen or seen.add(key)})  # type: ignore[func-returns-value]
    if doubled:
        raise InvalidParameterValue(
            f"Duplicate {what} keys have been submitted: {doubled}. Please ensure the request "
            f"contains only one {what} value per {what} key."
        )


def check_max_results(value: int | None, default: int, maximum: int, minimum: int = 1) -> int:
    """The number of results to answer with. Raises InvalidParameterValue outside the bounds."""
    if value is None:
        return default
    if not minimum <= value <= maximum:
        raise InvalidParameterValue(
            f"Invalid value {value} for parameter 'max_results': it must be at least {minimum} "
            f"and at most {maximum}."
        )
    return value
