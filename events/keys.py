"""The rules of keys and run ids that hold at every door into the log; lengths count characters.

They are MLflow's (its utils/validation.py).
"""

from __future__ import annotations

import posixpath
import re

KEY_LENGTH_MAX = 250
KEY = re.compile(r"[/\w.\- :]*")
RUN_ID = re.compile(r"[a-zA-Z0-9][\w\-]{0,255}")


def is_path_unsafe(name: str) -> bool:
    """Whether a name, used as a path, would mean another path."""
    normal = posixpath.normpath(name)
    return normal != name or normal == "." or normal.startswith(("..", "/"))


def is_key(key: str) -> bool:
    """Whether this can be the key of a metric, param or tag."""
    return (
        0 < len(key) <= KEY_LENGTH_MAX
        and KEY.fullmatch(key) is not None
        and not is_path_unsafe(key)
    )
