"""Plays a sequence of calls on a server and compares what two servers answered."""

import json
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.differential.calls import Call, dig, resolve
from tests.differential.normalise import Normaliser
from tests.servers import Answer, send

SHOWN_CHARACTERS_MAX = 1500
NOT_IMPLEMENTED = 501


@dataclass(frozen=True)
class Seen:
    """An answer, as far as it is compared."""

    status: int
    error_code: str
    body: Any
    # For the reader of a failed test only: texts are not compared.
    message: str = ""

    def show(self) -> str:
        text = self.body if isinstance(self.body, str) else json.dumps(self.body, sort_keys=True)
        shown = (self.message or text)[:SHOWN_CHARACTERS_MAX]
        return f"{self.status} {self.error_code} {shown}"


Checker = Callable[[Call, Answer], None]


def play(url: str, calls: Sequence[Call], unique: str, check: Checker | None = None) -> list[Seen]:
    """Sends the calls in order; `check` may look at each answer as it came."""
    names = {"unique": unique}
    seen = []
    for call in calls:
        answer = _send(url, call, names)
        parsed = _parse(answer)
        for name, path in call.save.items():
            if (value := dig(parsed, path)) is not None:
                names[name] = value
        if check is not None:
            check(call, answer)
        seen.append(_seen(call, answer, parsed, names))
    return seen


def compare(calls: Sequence[Call], theirs: Sequence[Seen], ours: Sequence[Seen]) -> list[str]:
    """A readable line for each call that was answered otherwise than it should be."""
    found = []
    for number, (call, mlflow, runfold) in enumerate(zip(calls, theirs, ours, strict=True)):
        problem = _judge(call, mlflow, runfold)
        if problem:
            found.append(
                f"[{number}] {call.describe()}\n      {problem}\n"
                f"      mlflow : {mlflow.show()}\n      runfold: {runfold.show()}"
            )
    return found


def _judge(call: Call, mlflow: Seen, runfold: Seen) -> str:
    if call.ours is None and mlflow.status >= 500 and mlflow.status != NOT_IMPLEMENTED:
        # The difference "no-5xx": where MLflow falls over, Runfold says what is wrong.
        return "" if 400 <= runfold.status < 500 else "no-5xx: should be refused"
    if call.ours is None:
        return _same(mlflow, runfold)
    expected = call.ours
    if not _same(mlflow, runfold):
        return f"{expected.difference} is no difference any more: both answer the same"
    if (runfold.status, runfold.error_code) != (expected.status, expected.error_code):
        return f"{expected.difference}: should be {expected.status} {expected.error_code}"
    if expected.body is not None and _canonical(expected.body) != _canonical(runfold.body):
        return f"{expected.difference}: should be {_canonical(expected.body)}"
    return ""


def _same(mlflow: Seen, runfold: Seen) -> str:
    if 400 <= mlflow.status == runfold.status and not mlflow.error_code:
        # The difference "error-json": MLflow gave no code that could be compared.
        return ""
    if (mlflow.status, mlflow.error_code) != (runfold.status, runfold.error_code):
        return "status or error code differ"
    if _canonical(mlflow.body) != _canonical(runfold.body):
        return f"the answers differ at {_where(mlflow.body, runfold.body)}"
    return ""


def _where(theirs: Any, ours: Any, path: str = "") -> str:
    """The first place at which two JSON values differ, with what each has there."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in sorted({*theirs, *ours}):
            if _canonical(theirs.get(key, "absent")) != _canonical(ours.get(key, "absent")):
                return _where(theirs.get(key, "absent"), ours.get(key, "absent"), f"{path}.{key}")
    if isinstance(theirs, list) and isinstance(ours, list) and len(theirs) == len(ours):
        for number, (left, right) in enumerate(zip(theirs, ours, strict=True)):
            if _canonical(left) != _canonical(right):
                return _where(left, right, f"{path}[{number}]")
    shown = f"mlflow {_canonical(theirs)[:300]}, runfold {_canonical(ours)[:300]}"
    return f"{path or 'the root'}: {shown}"


def _canonical(body: Any) -> str:
    # As text, because Python holds 1 and 1.0 and True for equal; JSON clients may not.
    return json.dumps(body, sort_keys=True)


def _send(url: str, call: Call, names: Mapping[str, str]) -> Answer:
    query = [(key, resolve(str(value), names)) for key, value in call.query]
    target = urllib.parse.quote(resolve(call.path, names), safe="/%?&=:+~")
    if query:
        target += "?" + urllib.parse.urlencode(query)
    raw = call.raw
    if call.body is not None:
        raw = json.dumps(resolve(call.body, names)).encode()
    elif raw is not None:
        raw = _resolve_bytes(raw, names)
    return send(url, call.method, target, raw, call.headers)


def _resolve_bytes(raw: bytes, names: Mapping[str, str]) -> bytes:
    # Latin-1 maps each byte to one character and back, so that broken bytes survive.
    text: str = resolve(raw.decode("latin-1"), names)
    return text.encode("latin-1")


def _parse(answer: Answer) -> Any:
    try:
        # The difference "bare-nan": what stands in MLflow's text as NaN is read as "NaN".
        return json.loads(answer.body, parse_constant=str)
    except ValueError:
        return None


def _seen(call: Call, answer: Answer, parsed: Any, names: Mapping[str, str]) -> Seen:
    code = parsed.get("error_code", "") if isinstance(parsed, dict) else ""
    if answer.status >= 400 or call.status_only:
        return Seen(answer.status, code, "", answer.body.decode("latin-1"))
    if parsed is None:
        return Seen(answer.status, code, answer.body.decode("latin-1"))
    return Seen(answer.status, code, Normaliser(names, call.unordered).rewrite(parsed))
