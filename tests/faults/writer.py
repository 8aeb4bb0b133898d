"""A client that writes at full speed and keeps a journal of what it sent and what it was told.

Run as a process of its own: `python -m tests.faults.writer URL EXPERIMENT JOURNAL NAME SEED`. A
line is in the journal before each send and after each answer, so whatever happens to the server,
the journal knows what was promised. It ends when its standard input does.
"""

import http.client
import json
import random
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from tests.faults.wire import Reply, Wire

OPERATIONS_PER_RUN = 150
TRIES_MAX = 400
PAUSE_S = 0.05


@dataclass(frozen=True)
class Operation:
    """One thing to write, under a number that no other operation of this writer has."""

    number: int
    kind: str
    run_id: str
    body: dict[str, Any]

    @property
    def path(self) -> str:
        return PATHS[self.kind]


PATHS = {
    "create": "runs/create",
    "points": "runs/log-batch",
    "batch": "runs/log-batch",
    "param": "runs/log-parameter",
    "tag": "runs/set-tag",
    "refused": "runs/log-batch",
}
KINDS = ("points", "points", "points", "batch", "batch", "param", "tag", "create", "refused")


def points_of(number: int, count: int = 3) -> list[dict[str, Any]]:
    """Points that only the operation of this number sends."""
    return [
        {"key": f"m{part}", "value": number + part / 8, "timestamp": number, "step": number}
        for part in range(count)
    ]


def operation(kind: str, number: int, run_id: str, settled: int) -> Operation:
    """What an operation of this kind sends; the operation `settled` set a param for good."""
    value = f"v{number}"
    body: dict[str, Any] = {"run_id": run_id}
    if kind in ("points", "batch", "refused"):
        body["metrics"] = points_of(number)
    if kind == "batch":
        body["params"] = [{"key": f"p{number}", "value": value}]
    if kind == "refused":
        body["params"] = [{"key": f"p{settled}", "value": "another value"}]
    if kind in ("batch", "refused"):
        body["tags"] = [{"key": f"t{number}", "value": value}]
    if kind == "param":
        body |= {"key": f"p{number}", "value": value}
    if kind == "tag":
        body |= {"key": f"t{number}", "value": value}
    return Operation(number, kind, run_id, body)


class Writer:
    """Writes operation after operation until it is told to stop."""

    def __init__(self, wire: Wire, experiment_id: str, journal: TextIO, name: str, seed: int):
        self._wire = wire
        self._experiment_id = experiment_id
        self._journal = journal
        self._name = name
        self._chance = random.Random(seed)
        self._number = 0
        self.stopping = threading.Event()

    def write(self) -> None:
        while not self.stopping.is_set():
            run_id = self._new_run()
            if not run_id:
                continue
            settled = self._next()
            reply = self._settle(operation("param", settled, run_id, 0), repeat=True)
            if reply is None or reply.status != 200:
                continue
            for _ in range(OPERATIONS_PER_RUN):
                if self.stopping.is_set():
                    return
                kind = self._chance.choice(KINDS)
                repeat = self._chance.random() < 0.5
                if kind == "create":
                    self._new_run()
                else:
                    self._settle(operation(kind, self._next(), run_id, settled), repeat)

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _new_run(self) -> str:
        number = self._next()
        body = {"experiment_id": self._experiment_id, "run_name": f"{self._name}-{number}"}
        # Never repeated: a second request to create is a second run, as with MLflow.
        reply = self._settle(Operation(number, "create", "", body), repeat=False)
        if reply is None or reply.status != 200:
            return ""
        return str(reply.data["run"]["info"]["run_id"])

    def _settle(self, what: Operation, repeat: bool) -> Reply | None:
        """Sends until an answer came; gives up after the first loss unless `repeat`."""
        for _ in range(TRIES_MAX):
            self._note(what, "send", body=what.body)
            try:
                reply = self._wire.post(what.path, what.body)
            except ConnectionRefusedError:
                # Nobody was there to take it, so the next send is still the first.
                self._note(what, "unsent")
                time.sleep(PAUSE_S)
                if self.stopping.is_set():
                    return None
                continue
            except (OSError, http.client.HTTPException, ValueError):
                self._note(what, "lost")
                time.sleep(PAUSE_S)
                if repeat and not self.stopping.is_set():
                    continue
                return None
            self._note(what, "answer", status=reply.status, code=reply.code)
            if reply.status == 503:
                time.sleep(PAUSE_S)
            return reply
        return None

    def _note(self, what: Operation, phase: str, **more: object) -> None:
        line = {"number": what.number, "kind": what.kind, "run_id": what.run_id, "phase": phase}
        self._journal.write(json.dumps({**line, **more}) + "\n")
        self._journal.flush()


def main(url: str, experiment_id: str, journal: str, name: str, seed: str) -> None:
    with Path(journal).open("a") as out:
        writer = Writer(Wire(url, timeout_s=30.0), experiment_id, out, name, int(seed))

        def wait_for_end() -> None:
            sys.stdin.read()
            writer.stopping.set()

        threading.Thread(target=wait_for_end, daemon=True).start()
        writer.write()


if __name__ == "__main__":
    main(*sys.argv[1:])
