"""Verdicts that are certain as soon as an event has its position, before it is folded.

The fold decides in journal order, and its rules are known. Where every event between what is
folded and the new one was appended by this process, and none of them touches what the new event's
rule asks about, then what the door found still holds at the event's position, and the verdict can
only be "accepted". Whoever logs params one by one then waits for the disk, not for the projector.

Positions tell whether another process wrote in between: they would have a gap. With one there is
no foresight, and the call waits for the fold as it would without all this. Nothing here is ever
a refusal, and nothing is remembered that the views don't say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from events.event import JOURNAL, NewEvent, Partition
from events.runs import Param
from projections.folding import LIFECYCLE, Checkpoint
from projections.runs import require_unchanged

PARAMS_LENGTH_MAX = 16 << 20
"""Characters of params held; beyond it all is forgotten and read again as it is needed."""
TOUCHED_MAX = 10_000


class Seen(Protocol):
    """How far the log was folded when last looked at: the Watch."""

    checkpoints: Mapping[Partition, Checkpoint]


class Claim:
    """What an event needs to be accepted: a subject that can be written to, as the gate found it,
    and params that contradict none that is set."""

    __slots__ = ("creates", "lifecycle", "params")

    def __init__(
        self, lifecycle: int, params: Sequence[Param] = (), *, creates: bool = False
    ) -> None:
        """`lifecycle`: the checkpoint's of that name when the gate let it pass. `creates`: the
        event makes a run, which then has no params."""
        self.lifecycle = lifecycle
        self.params = params
        self.creates = creates


class Foresight:
    """What this process knows of the journal's end; used on the event loop alone."""

    def __init__(self, watch: Seen) -> None:
        self._watch = watch
        self._last = 0
        """The last event that this process appended."""
        self._since = 1
        """The first of the unbroken row of its own events that ends there."""
        self._changed_lifecycle = 0
        """The last of its own that decides who may be written to."""
        self._touched: dict[str, int] = {}
        """The last own event about each subject, of those that may not be folded yet."""
        self._touched_max = TOUCHED_MAX
        self._let_go = 0
        """Events up to here may be missing in `_touched`, for they are folded."""
        self._params: dict[str, dict[str, str]] = {}
        """All params of a run, as they stand after the last own event."""
        self._length = 0

    def check(self, run_id: str, given: Sequence[Param]) -> bool:
        """Whether these params contradict none that is set, as far as this process knows the run's.

        False where it doesn't know them. Raises InvalidParameterValue where another value is set.
        """
        known = self._params.get(run_id)
        if known is None:
            return False
        require_unchanged(run_id, known, given)
        return True

    def learn(self, run_id: str, folded: int, params: Mapping[str, str]) -> None:
        """Takes in a run's params as views had them that were folded up to this position."""
        changed = max(self._since - 1, self._let_go, self._touched.get(run_id, 0))
        if folded >= changed:
            self._hold(run_id, params)

    def appended(self, event: NewEvent, position: int, claim: Claim | None) -> bool:
        """Takes in a journal event of this process, in the order of positions; returns whether it
        is certain that the fold accepts it."""
        if position != self._last + 1:
            # Somebody else wrote in between: what is known of params may be outdated.
            self._since = position
            self._forget()
        self._last = position
        if (event.type, event.version) in LIFECYCLE:
            self._changed_lifecycle = position
        accepted = claim is not None and self._stands(claim) and self._agrees(event, claim)
        self._touch(event.subject, position)
        if claim is not None and accepted:
            if claim.creates:
                self._hold(event.subject, {})
            self._add(event.subject, claim.params)
        elif claim is None or claim.params or claim.creates:
            # It may change params or be refused: only the views will know.
            self._params.pop(event.subject, None)
        return accepted

    def _stands(self, claim: Claim) -> bool:
        """Whether nothing has changed who may be written to since the gate was asked."""
        checkpoint = self._watch.checkpoints[JOURNAL]
        return (
            checkpoint.lifecycle == claim.lifecycle
            and checkpoint.position >= self._since - 1
            and checkpoint.position >= self._changed_lifecycle
            and checkpoint.stopped is None
        )

    def _agrees(self, event: NewEvent, claim: Claim) -> bool:
        if not claim.params:
            return True
        known = self._params.get(event.subject)
        if known is None:
            return False
        return all(known.get(param.key, param.value) == param.value for param in claim.params)

    def _touch(self, subject: str, position: int) -> None:
        self._touched[subject] = position
        if len(self._touched) > self._touched_max:
            self._let_go = self._watch.checkpoints[JOURNAL].position
            self._touched = {s: last for s, last in self._touched.items() if last > self._let_go}
            self._touched_max = max(TOUCHED_MAX, 2 * len(self._touched))

    def _hold(self, run_id: str, params: Mapping[str, str]) -> None:
        self._params[run_id] = {}
        self._add(run_id, [Param(key, value) for key, value in params.items()])

    def _add(self, run_id: str, params: Sequence[Param]) -> None:
        known = self._params.get(run_id)
        if known is None:
            return
        for param in params:
            known[param.key] = param.value
            self._length += len(param.key) + len(param.value) + 64
        self._length += 128
        if self._length > PARAMS_LENGTH_MAX:
            self._forget()

    def _forget(self) -> None:
        self._params.clear()
        self._length = 0
