"""What must hold of every answer of Runfold, whatever MLflow answers.

Nothing that a client sends gives a 5xx, every refusal is MLflow's error JSON, a refused call has
appended nothing to the log, and JSON is JSON: no bare NaN in it.
"""

import json
from pathlib import Path

from events.event import JOURNAL, POINTS
from events.sqlite_log import SqliteLog
from tests.differential.calls import Call
from tests.servers import Answer

NOT_IMPLEMENTED = 501


def _not_json(constant: str) -> None:
    raise AssertionError(f"{constant} stands bare in an answer: no JSON")


class RefusalCheck:
    """Watches the log beside the answers; only right where no other client writes."""

    def __init__(self, home: Path) -> None:
        self._log = SqliteLog(home / "log.db")
        self._heads = self._read_heads()

    def __call__(self, call: Call, answer: Answer) -> None:
        heads = self._read_heads()
        if answer.status >= 400:
            self._refused(call, answer)
            appended = {name: heads[name] - self._heads[name] for name in heads}
            assert heads == self._heads, f"refused, yet appended {appended}: {call.describe()}"
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

    def _read_heads(self) -> dict[str, int]:
        return {"journal": self._log.head(JOURNAL), "points": self._log.head(POINTS)}
