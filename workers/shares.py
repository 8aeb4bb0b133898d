"""Which partitions a projector folds where several share them out."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping

from events.event import JOURNAL, Partition
from projections.folding import Checkpoints

LEFT_S = 2.0
"""A partition whose events nobody has folded for so long is folded by who folds the journal."""

Given = Callable[[], Collection[Partition]]


class Shares:
    """What was given to this projector, and what another one has left lying.

    Who shares the partitions out takes its time to notice that one has died, and reads wait for
    every partition. To fold what may be another's does no harm: the checkpoint decides.
    """

    def __init__(self, given: Given) -> None:
        self._given = given
        self._mine: Collection[Partition] = ()
        self._others: dict[Partition, tuple[int, float, bool]] = {}
        """Where each other partition stood, since when, and whether this one brought it there."""

    def have_changed(self) -> bool:
        """Whether others were given since the last look. Raises TemporarilyUnavailable."""
        return self._given() != self._mine

    def look(
        self, heads: Mapping[Partition, int], checkpoints: Checkpoints
    ) -> Collection[Partition]:
        """The partitions to fold now. Raises TemporarilyUnavailable."""
        given = self._given()
        if given != self._mine or JOURNAL not in given:
            # Where partitions were shared out anew, each has somebody who is alive.
            self._others.clear()
        self._mine = given
        if JOURNAL not in given:
            return given
        return {*given, *self._left_lying(heads, checkpoints)}

    def _left_lying(
        self, heads: Mapping[Partition, int], checkpoints: Checkpoints
    ) -> Iterator[Partition]:
        now = time.monotonic()
        for partition, head in heads.items():
            position = checkpoints[partition].position
            stood, since, by_us = self._others.get(partition, (-1, now, False))
            if position != stood or (position >= head and not by_us):
                since, by_us = now, False
            self._others[partition] = (position, since, by_us)
            if partition not in self._mine and (by_us or now - since >= LEFT_S):
                yield partition

    def folded(self, partition: Partition, position: int) -> None:
        """Takes in that this projector has brought a partition there."""
        if partition in self._others:
            _, since, _ = self._others[partition]
            self._others[partition] = (position, since, partition not in self._mine)
