"""What must hold of every answer of Runfold, whatever MLflow answers.

Nothing that a client sends gives a 5xx, every refusal is MLflow's error JSON, a refused call has
appended nothing to the log, and JSON is JSON: no bare NaN in it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from events.event import Partition
from events.log import Log
from tests.differential.calls import Call
from tests.servers import Answer

NOT_IMPLEMENTED = 501


def _not_json(constant: str) -> None:
    raise AssertionError(f"{constant} stands bare in an answer: no JSON")


class RefusalCheck:
    """Watches the log beside the answers; only right while no other client writes."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._heads = log.heads()

    def from_now(self) -> RefusalCheck:
        """The same, for answers that come from now on."""
        self._heads = self._log.heads()
        return self

    def __call__(self, call: Call, answer: Answer) -> None:
        heads = self._log.heads()
        if answer.status >= 400:
            self._refused(call, answer)
            assert heads == self._heads, f"refused, yet {self._appended(heads)}: {call.describe()}"
        elif answer.headers.get("content-type", "").startswith("application/json"):
            json.loads(answer.body or b"{}", parse_constant=_not_json)
        self._heads = heads

    def _refused(self, call: Call, answer: Answer) -> None:
        shown = f"{call.describe()} gave {answer.status} {answer.body[:500]!r}"
        assert answer.status < 500 or answer.status == NOT_IMPLEMENTED, f"a 5xx: {shown}"
        if call.method == "HEAD":
            return
        try:
            error = json.loads(answer.body)
        except ValueError:
            raise AssertionError(f"no error JSON: {shown}") from None
        assert error.get("error_code"), f"no error code: {shown}"
        assert "message" in error, f"no message: {shown}"

    def _appended(self, heads: Mapping[Partition, int]) -> str:
        grown = {str(partition): head - self._heads[partition] for partition, head in heads.items()}
        return f"appended {grown}"
