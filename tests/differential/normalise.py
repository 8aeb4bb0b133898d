"""Takes out of an answer what two right servers may answer differently.

Ids become the names they were saved under, times of the server's clock become `<now>`, made-up
names `<name>`, page tokens `<token>`, and lists whose order MLflow does not state are sorted.
"""

import json
import re
import time
from collections.abc import Mapping
from typing import Any

CLOCK_SPAN_MS = 6 * 3600 * 1000
RANDOM_NAME = re.compile(r"^[a-z]+-[a-z]+-\d{1,4}$")
RANDOM_ID = re.compile(r"\b(m-)?[0-9a-f]{32}\b|\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")
NAME_KEYS = {"run_name", "name", "value"}
EXPERIMENT_KEYS = {"experiment_id"}
URI_KEYS = {"artifact_uri", "artifact_location", "root_uri"}
SETS = {"tags", "params", "dataset_inputs", "model_inputs", "model_outputs"}


class Normaliser:
    """Rewrites the answers of one server during one sequence."""

    def __init__(self, names: Mapping[str, str], unordered: str = "") -> None:
        # Longest first, so that no id is cut up by a shorter one that it contains.
        known = sorted(names.items(), key=lambda item: -len(item[1]))
        # Only long ids are replaced inside of other text: an experiment's may be as short as "3".
        self._long = [(value, f"<{name}>") for name, value in known if len(value) >= 16]
        self._whole = {value: f"<{name}>" for name, value in known}
        self._sets = SETS | {unordered}

    def rewrite(self, value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {name: self.rewrite(item, name) for name, item in value.items()}
        if isinstance(value, list):
            return self._list([self.rewrite(item, key) for item in value], key)
        if isinstance(value, str):
            return self._text(value, key)
        if isinstance(value, int) and abs(value - time.time() * 1000) < CLOCK_SPAN_MS:
            return "<now>"
        return value

    def _list(self, items: list[Any], key: str) -> list[Any]:
        if key == "metrics":
            return _metrics(items)
        if key in self._sets:
            return sorted(items, key=lambda item: json.dumps(item, sort_keys=True))
        return items

    def _text(self, value: str, key: str) -> str:
        if key == "next_page_token":
            return "<token>"
        if key in EXPERIMENT_KEYS:
            return self._whole.get(value, value)
        for actual, name in self._long:
            value = value.replace(actual, name)
        if key in URI_KEYS:
            head, *segments = value.split("/")
            value = "/".join([head, *(self._whole.get(part, part) for part in segments)])
        if key in NAME_KEYS and RANDOM_NAME.match(value):
            return "<name>"
        return RANDOM_ID.sub("<id>", value)


def _metrics(items: list[Any]) -> list[Any]:
    """Latest metrics are a set; a history is a sequence per run, the runs in any order."""
    if not all(isinstance(item, dict) for item in items):
        return items
    if any("run_id" in item for item in items):
        return sorted(items, key=lambda item: str(item.get("run_id")))
    if len({item.get("key") for item in items}) > 1:
        return sorted(items, key=lambda item: json.dumps(item, sort_keys=True))
    return items
