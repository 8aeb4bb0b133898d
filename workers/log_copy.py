"""Copies a log from any backend to any other, event by event, so that it can be gone on with after
it was killed, and again when the source has grown.

The target keeps a note: which log it is copied from, and the rounds, each with where the source's
partitions ended when it began. That fixes the order of the events in the target, so what is there
already, in each of its partitions the first so many, says what is still to come.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from events.event import GAP, LANES, Event, Lane, Partition
from events.log import CopyTarget, Log, LogError
from workers.progress import Progress

PAGE_EVENTS: dict[Lane, int] = {"journal": 1_000, "points": 256}
DIGEST_BYTES = 16

Change = Callable[[Event], Event]


class CopyError(Exception):
    """The copy can't be made or is not the same; the message says why, and what to do."""


class Note(msgspec.Struct):
    """What a target keeps of the copy into it."""

    source: str
    """The id of the log that is copied."""
    scrub: bool
    """Whether purged data is left behind."""
    rounds: list[dict[str, int]] = []
    """The source's heads at the start of each round, by the partition's name."""
    counts: dict[str, int] | None = None
    """The target's heads at the end of the last round; None while one is not finished."""


@dataclass
class Copied:
    """What a copy did."""

    events: dict[Lane, int]
    """So many are in the target, all in all."""
    new: int
    """Of which so many were not there before."""
    keeps_positions: bool
    digests: dict[Lane, str] = field(default_factory=dict)


def read_note(target: CopyTarget) -> Note | None:
    """The note of a copy into this log, if there ever was one."""
    note = target.copy_note
    return None if note is None else msgspec.json.decode(note, type=Note)


def require_whole(log: CopyTarget) -> None:
    """Raises LogError where a copy into this log was begun and not finished."""
    note = read_note(log)
    if note is not None and note.counts is None:
        raise LogError("a copy into this log is not finished: run the same runfold log copy again")


def copy_log(source: Log, target: CopyTarget, *, scrub: bool = False, change: Change) -> Copied:
    """Makes the target the same as the source is now; `change` is made to each event.

    Raises CopyError where the target holds anything else, or is not the same in the end.
    """
    note = _begin(source, target, scrub)
    new = sum(_copy_lane(source, target, lane, note, change) for lane in LANES)
    copied = _check(source, target, note, change)
    copied.new = new
    note.counts = _named(target.heads())
    target.note_copy(msgspec.json.encode(note), source.identity if copied.keeps_positions else None)
    return copied


def _named(heads: Mapping[Partition, int]) -> dict[str, int]:
    return {str(partition): head for partition, head in heads.items()}


def _begin(source: Log, target: CopyTarget, scrub: bool) -> Note:
    """The note with a round that is to be made, kept in the target."""
    note = read_note(target)
    heads = _named(source.heads())
    if note is None:
        if any(target.heads().values()):
            raise CopyError("the target holds another log: name an empty one")
        note = Note(source.identity.log_id, scrub)
    if note.source != source.identity.log_id:
        raise CopyError("the target holds a copy of another log: name an empty one")
    if note.scrub != scrub:
        word = "with" if note.scrub else "without"
        raise CopyError(f"the copy was begun {word} --scrub: go on {word} it, or begin a new one")
    if note.counts is not None and note.counts != _named(target.heads()):
        raise CopyError("the target has gone on by itself since it was copied: name an empty one")
    finished = note.counts is not None or not note.rounds
    if finished and (not note.rounds or note.rounds[-1] != heads):
        note.rounds.append(heads)
        note.counts = None
        target.note_copy(msgspec.json.encode(note))
    return note


def _events(source: Log, lane: Lane, note: Note, skip: int = 0) -> Iterator[list[Event]]:
    """Pages of the lane's events in the order of the target: round by round, in each partition by
    partition. The first `skip` are not read where the lane is one partition without gaps."""
    partitions = [one for one in source.partitions() if one.lane == lane]
    before: Mapping[str, int] = {}
    for heads in note.rounds:
        for partition in partitions:
            head = heads.get(str(partition), 0)
            after = max(before.get(str(partition), 0), min(skip, head))
            while after < head:
                events = source.read(partition, after, PAGE_EVENTS[lane])
                if not events:
                    raise CopyError(f"the source ends before {partition} {head}")
                yield [e for e in events if e.position <= head and e.type != GAP]
                after = events[-1].position
        before = heads


def _copy_lane(source: Log, target: CopyTarget, lane: Lane, note: Note, change: Change) -> int:
    """Appends what is missing; returns how many."""
    there = {p: head for p, head in target.heads().items() if p.lane == lane}
    total = sum(head for name, head in note.rounds[-1].items() if name.startswith(lane))
    undivided = len(there) == 1 == sum(one.lane == lane for one in source.partitions())
    skip = sum(there.values()) if undivided and not source.has_gaps else 0
    if skip:
        there = dict.fromkeys(there, 0)
    progress = Progress(f"copying {lane}", max(0, total - skip), "events")
    count = 0
    for page in _events(source, lane, note, skip):
        missing = []
        for event in page:
            partition = target.partition_of(lane, event.subject)
            if there.get(partition, 0) > 0:
                there[partition] -= 1
            else:
                missing.append(change(event))
        if missing:
            target.adopt(missing)
        count += len(missing)
        progress.add(len(page))
    progress.finish()
    return count


class _Digest:
    """A lane's digest. The journal's order counts; of points only which there are, for a target
    may divide them otherwise."""

    def __init__(self, lane: Lane) -> None:
        self._ordered = lane == "journal"
        self._chain = hashlib.blake2b(digest_size=DIGEST_BYTES)
        self._sum = 0
        self.count = 0

    def add(self, event: Event) -> None:
        packed = _packed(event)
        self.count += 1
        if self._ordered:
            self._chain.update(len(packed).to_bytes(8, "little") + packed)
        else:
            one = hashlib.blake2b(packed, digest_size=DIGEST_BYTES).digest()
            self._sum = (self._sum + int.from_bytes(one, "little")) % (1 << (8 * DIGEST_BYTES))

    def hex(self) -> str:
        if self._ordered:
            return self._chain.hexdigest()
        return self._sum.to_bytes(DIGEST_BYTES, "big").hex()


def _packed(event: Event) -> bytes:
    """All of an event but where it lies."""
    parts: tuple[Any, ...] = (
        *(event.type, event.version, event.subject, event.time, event.actor, event.origin),
        *(event.scrubbed, event.data),
    )
    return msgspec.msgpack.encode(parts)


def _check(source: Log, target: CopyTarget, note: Note, change: Change) -> Copied:
    """Reads both whole and compares counts and digests."""
    counts: dict[Lane, int] = {}
    digests: dict[Lane, str] = {}
    keeps = True
    for lane in LANES:
        progress = Progress(f"checking {lane}", 2 * sum(_of(target, lane).values()), "events")
        ours, theirs = _Digest(lane), _Digest(lane)
        places: list[tuple[_Digest, Iterator[list[Event]]]] = [
            (ours, _events(source, lane, note)),
            (theirs, _all(target, lane)),
        ]
        for digest, pages in places:
            for page in pages:
                for event in page:
                    digest.add(change(event) if digest is ours else event)
                    # A log without gaps and partitions: the position is the count.
                    keeps = keeps and event.position == digest.count and not event.partition
                progress.add(len(page))
        progress.finish()
        if (ours.count, ours.hex()) != (theirs.count, theirs.hex()):
            raise CopyError(
                f"the {lane} differs: {ours.count} events with digest {ours.hex()} in the source, "
                f"{theirs.count} with {theirs.hex()} in the target. If gc has scrubbed the source "
                "since the copy began, copy it into an empty target"
            )
        counts[lane], digests[lane] = ours.count, ours.hex()
    return Copied(counts, 0, keeps, digests)


def _of(log: Log, lane: Lane) -> dict[Partition, int]:
    return {partition: head for partition, head in log.heads().items() if partition.lane == lane}


def _all(log: Log, lane: Lane) -> Iterator[list[Event]]:
    """Pages of all events of a lane."""
    for partition, head in _of(log, lane).items():
        after = 0
        while after < head:
            events = log.read(partition, after, PAGE_EVENTS[lane])
            if not events:
                raise CopyError(f"the target ends before {partition} {head}")
            yield [event for event in events if event.type != GAP]
            after = events[-1].position
