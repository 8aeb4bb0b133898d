"""Verdicts that are foreseen are those that the fold gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.foresight import Claim, Foresight
from events.errors import InvalidParameterValue
from events.event import JOURNAL, UNDIVIDED, NewEvent, Partition
from events.experiments import (
    EXPERIMENT_DELETED,
    EXPERIMENT_RESTORED,
    ExperimentDeleted,
    ExperimentRestored,
)
from events.runs import (
    RUN_BATCH_LOGGED,
    RUN_CREATED,
    RUN_DELETED,
    RUN_RESTORED,
    Param,
    RunBatchLogged,
    RunCreated,
    RunDeleted,
    RunRestored,
)
from projections.folding import Checkpoint, fold_batch, read_checkpoint
from projections.runs import checked_params
from tests.folds import Folds

RUNS = ("a", "b")


@dataclass
class Seen:
    """The checkpoints as the process has last looked at them."""

    checkpoints: Mapping[Partition, Checkpoint] = field(
        default_factory=lambda: dict.fromkeys(UNDIVIDED, Checkpoint())
    )


class Process:
    """An API process over views that are folded only when told to, with another process beside."""

    def __init__(self) -> None:
        self.folds = Folds()
        self.folds.experiment()
        for run_id in RUNS:
            self.folds.run(run_id)
        self.seen = Seen()
        self.foresight = Foresight(self.seen)
        self.passed: list[tuple[NewEvent, Claim]] = []
        self.foreseen: list[int] = []
        self.created = False
        self.opened: set[str] = set()
        self.look()

    def look(self) -> None:
        """Reads the checkpoints."""
        with self.folds.engine.connect() as connection:
            self.seen.checkpoints = {one: read_checkpoint(connection, one) for one in UNDIVIDED}

    def fold(self, events: int) -> None:
        """Folds so many events of the journal."""
        with self.folds.engine.begin() as connection:
            after = read_checkpoint(connection, JOURNAL).position
            fold_batch(connection, JOURNAL, self.folds.log.read(JOURNAL, after, events))

    def rows(self, table: str) -> dict[Any, Any]:
        """The rows of runs or experiments as they are folded: their stage by id."""
        place = {"runs": 7, "experiments": 3}[table]
        return {row[0]: row[place] for row in self.folds.rows(table)}

    def door(self, run_id: str, params: Mapping[str, str]) -> None:
        """A batch comes to the door, and is refused there or let pass to be appended later."""
        lifecycle = self.seen.checkpoints[JOURNAL].lifecycle
        asked = [Param(key, value) for key, value in params.items()]
        stage = self.rows("runs").get(run_id)
        if stage == "deleted" or (stage is None and run_id not in self.opened):
            return
        try:
            if asked and not self.foresight.check(run_id, asked):
                with self.folds.engine.connect() as connection:
                    folded, stored = checked_params(connection, run_id, asked)
                self.foresight.learn(run_id, folded, stored)
        except InvalidParameterValue:
            return
        event = RUN_BATCH_LOGGED.new(run_id, RunBatchLogged(asked), time=1)
        self.passed.append((event, Claim(lifecycle, asked)))

    def create(self, run_id: str) -> None:
        """A run is created, once: ids are never used again."""
        if self.created:
            return
        self.created = True
        claim = Claim(self.seen.checkpoints[JOURNAL].lifecycle, creates=True)
        event = RUN_CREATED.new(run_id, RunCreated("1", "name", "", 1, "uri"), time=1)
        self.passed.append((event, claim))

    def append(self, event: NewEvent, claim: Claim | None) -> bool:
        """Appends an event of this process; whether its acceptance is foreseen."""
        (position,) = self.folds.log.append([event])
        accepted = self.foresight.appended(event, position, claim)
        if accepted:
            self.foreseen.append(position)
            self.opened.add(event.subject)
        return accepted

    def append_passed(self) -> bool:
        """Appends what passed the door first."""
        return self.append(*self.passed.pop(0)) if self.passed else False

    def elsewhere(self, event: NewEvent) -> None:
        """Another process appends an event."""
        self.folds.log.append([event])

    def rejected(self) -> set[int]:
        """The positions that the fold rejects, once all is folded."""
        self.fold(10_000)
        return {row[0] for row in self.folds.rows("rejections")}


def batch(run_id: str, **params: str) -> NewEvent:
    """A batch of params."""
    found = [Param(key, value) for key, value in params.items()]
    return RUN_BATCH_LOGGED.new(run_id, RunBatchLogged(found), time=1)


def test_a_lone_process_foresees_what_it_logs() -> None:
    """Creating a run and logging params one by one needs no fold in between."""
    process = Process()
    process.create("new")
    assert process.append_passed()
    for params in ({"x": "1"}, {"y": "2"}, {"x": "1", "z": "3"}, {}):
        process.door("new", params)
        assert process.append_passed()
    process.door("new", {"y": "other"})
    assert not process.passed
    assert process.rejected() == set()


def test_params_of_an_old_run_are_learnt_once() -> None:
    """What the views said of a run's params holds for all that this process appends after it."""
    process = Process()
    process.elsewhere(batch("a", x="1"))
    process.fold(10)
    process.look()
    process.door("a", {"y": "1"})
    # The gap: the other process's event is not this one's, so the first verdict is waited for.
    process.append_passed()
    process.fold(10)
    process.look()
    for key in ("p", "q"):
        process.door("a", {key: "1"})
        assert process.append_passed()
    process.door("a", {"x": "2"})
    assert not process.passed


def test_two_at_the_door_with_one_param_are_not_both_foreseen() -> None:
    """Of two values that passed the door together only the first is certain."""
    process = Process()
    process.create("new")
    assert process.append_passed()
    process.door("new", {"x": "1"})
    process.door("new", {"x": "2"})
    assert process.append_passed()
    assert not process.append_passed()
    assert len(process.rejected()) == 1


def test_nothing_is_foreseen_behind_another_process() -> None:
    """An event of another process, which may hold anything, ends foresight until it is folded."""
    process = Process()
    process.create("new")
    assert process.append_passed()
    process.door("new", {"x": "1"})
    process.elsewhere(batch("new", x="2"))
    assert not process.append_passed()
    assert len(process.rejected()) == 1


def test_params_are_not_learnt_from_views_that_are_behind_another_process() -> None:
    """What another process logged before this one's last event must be folded to be known."""
    process = Process()
    process.elsewhere(batch("a", x="2"))
    process.append(batch("b"), None)
    process.door("a", {"x": "1"})
    process.fold(10)
    process.look()
    assert not process.append_passed()
    assert len(process.rejected()) == 1


@pytest.mark.parametrize("own", [True, False])
def test_nothing_is_foreseen_behind_a_deletion(own: bool) -> None:
    """A deletion that is not folded yet, whoever appended it, makes the fold decide."""
    process = Process()
    process.door("a", {})
    deleted = RUN_DELETED.new("a", RunDeleted(), time=1)
    if own:
        process.append(deleted, None)
    else:
        process.elsewhere(deleted)
    assert not process.append_passed()
    assert len(process.rejected()) == 1


def test_what_passed_before_a_deletion_was_folded_is_not_foreseen() -> None:
    """The stage that the gate saw must be that of the last checkpoint."""
    process = Process()
    process.door("a", {})
    process.append(RUN_DELETED.new("a", RunDeleted(), time=1), None)
    process.fold(10)
    process.look()
    assert not process.append_passed()
    assert len(process.rejected()) == 1


def test_held_params_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound everything is forgotten, and verdicts are waited for again."""
    monkeypatch.setattr("api.foresight.PARAMS_LENGTH_MAX", 1_000)
    process = Process()
    process.create("new")
    assert process.append_passed()
    process.door("new", {"x": "1" * 2_000})
    assert process.append_passed()
    process.door("new", {"y": "1"})
    assert not process.append_passed()
    assert process.rejected() == set()


VALUES = st.dictionaries(st.sampled_from("xyz"), st.sampled_from("12"), max_size=2)
RUN = st.sampled_from([*RUNS, "new"])
STEPS = st.one_of(
    st.tuples(st.just("door"), RUN, VALUES),
    st.tuples(st.just("create")),
    st.tuples(st.just("append")),
    st.tuples(st.just("delete"), st.sampled_from(RUNS), st.booleans()),
    st.tuples(st.just("restore"), st.sampled_from(RUNS), st.booleans()),
    st.tuples(st.just("close"), st.booleans(), st.booleans()),
    st.tuples(st.just("elsewhere"), RUN, VALUES),
    st.tuples(st.just("fold"), st.integers(1, 4)),
    st.tuples(st.just("look")),
)


def take(process: Process, step: tuple[Any, ...]) -> None:
    """Does one step of a random history."""
    match step:
        case ("door", run_id, params):
            process.door(run_id, params)
        case ("create",):
            process.create("new")
        case ("append",):
            process.append_passed()
        case ("elsewhere", run_id, params):
            process.elsewhere(batch(run_id, **params))
        case ("fold", events):
            process.fold(events)
        case ("look",):
            process.look()
        case (name, subject, own):
            event = {
                "delete": lambda: RUN_DELETED.new(subject, RunDeleted(), time=1),
                "restore": lambda: RUN_RESTORED.new(subject, RunRestored(), time=1),
                "close": lambda: (
                    EXPERIMENT_DELETED.new("1", ExperimentDeleted(), time=1)
                    if subject
                    else EXPERIMENT_RESTORED.new("1", ExperimentRestored(), time=1)
                ),
            }[name]()
            if own:
                process.append(event, None)
            else:
                process.elsewhere(event)


@settings(max_examples=400, deadline=None)
@given(st.lists(STEPS, min_size=4, max_size=40))
def test_what_is_foreseen_is_what_the_fold_says(steps: list[tuple[Any, ...]]) -> None:
    """Whatever this process, another one and the projector do in whatever order, no event that was
    foreseen to be accepted is rejected."""
    process = Process()
    for step in steps:
        take(process, step)
    assert process.rejected().isdisjoint(process.foreseen)
