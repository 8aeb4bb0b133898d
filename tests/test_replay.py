"""Random histories: views that were folded as events came equal those rebuilt from the log."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import hypothesis.strategies as st
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from sqlalchemy.pool import StaticPool

from events import experiments, runs
from events.codec import decode_block
from events.datasets import (
    RUN_INPUTS_LOGGED,
    RUN_OUTPUTS_LOGGED,
    DatasetInput,
    InputTag,
    ModelOutput,
    RunInputsLogged,
    RunOutputsLogged,
)
from events.event import JOURNAL, Event
from events.experiments import (
    ExperimentCreated,
    ExperimentDeleted,
    ExperimentPurged,
    ExperimentRenamed,
    ExperimentRestored,
    ExperimentTagDeleted,
    ExperimentTagSet,
    Tag,
)
from events.logged_models import (
    LOGGED_MODEL_CREATED,
    LOGGED_MODEL_DELETED,
    LOGGED_MODEL_FINALIZED,
    LOGGED_MODEL_PARAMS_LOGGED,
    LOGGED_MODEL_PURGED,
    LOGGED_MODEL_TAG_DELETED,
    LOGGED_MODEL_TAGS_SET,
    LoggedModelCreated,
    LoggedModelDeleted,
    LoggedModelFinalized,
    LoggedModelParamsLogged,
    LoggedModelPurged,
    LoggedModelTagDeleted,
    LoggedModelTagsSet,
    ModelParam,
    ModelTag,
)
from events.memory_log import MemoryLog
from events.metrics import POINTS_LOGGED, Point, block_of
from events.runs import (
    Param,
    RunBatchLogged,
    RunCreated,
    RunDeleted,
    RunPurged,
    RunRestored,
    RunTag,
    RunTagDeleted,
    RunUpdated,
)
from projections.folding import fold_batch, read_checkpoint
from projections.lake_changes import CHANGE_TABLES
from projections.metrics import blocks
from projections.runs import RUN_NAME_TAG, tags
from projections.runs import runs as run_rows
from projections.schema import checkpoints, metadata, purged
from projections.scrubbing import kept_data

NAMES = ("secret-a", "secret-b", "secret-c")
MARKS = tuple(table.name for table in CHANGE_TABLES)
NOT_CONTENT = ("checkpoints", "view_meta", "blocks", *MARKS)


def new_views() -> sa.Engine:
    """Empty views in memory."""
    engine = sa.create_engine(
        "sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False}
    )
    metadata.create_all(engine)
    return engine


def fold(engine: sa.Engine, log: MemoryLog, batch_events: int) -> None:
    """Folds all that the log holds, the journal first."""
    for partition in log.partitions():
        while True:
            with engine.begin() as connection:
                after = read_checkpoint(connection, partition).position
                events = log.read(partition, after, batch_events)
                if not events:
                    break
                assert fold_batch(connection, partition, events).stopped is None


def content(engine: sa.Engine) -> dict[str, Any]:
    """Every row of every table that a rebuild must give again; points as sets."""
    found: dict[str, Any] = {}
    with engine.connect() as connection:
        for name, table in metadata.tables.items():
            if name not in NOT_CONTENT:
                order = list(table.primary_key.columns)
                rows = connection.execute(sa.select(table).order_by(*order))
                found[name] = [tuple(row) for row in rows]
        points = set()
        for run_id, data in connection.execute(sa.select(blocks.c.run_id, blocks.c.data)):
            block = decode_block(data)
            for index, step, time, value in zip(
                block.index, block.steps, block.timestamps, block.values, strict=True
            ):
                points.add((run_id, block.series[index], int(step), int(time), float(value)))
        found["points"] = points
        positions = sa.select(
            checkpoints.c.lane, checkpoints.c.partition_number, checkpoints.c.position
        )
        found["positions"] = sorted(tuple(row) for row in connection.execute(positions))
    return found


@dataclass
class History:
    """A log, the views that follow it, and the clock of its events."""

    log: MemoryLog = field(default_factory=MemoryLog)
    live: sa.Engine = field(default_factory=new_views)
    time: int = 1_000
    ids: dict[str, list[str]] = field(
        default_factory=lambda: {"experiment": [], "run": [], "model": []}
    )

    def append(self, event_type: Any, subject: str, payload: Any) -> None:
        """Appends an event a little later than the last."""
        self.time += 1
        self.log.append([event_type.new(subject, payload, time=self.time)])

    def scrub(self) -> None:
        """What gc does once the purges are folded."""
        with self.live.connect() as connection:
            subjects = connection.execute(sa.select(purged.c.subject)).scalars().all()
        self.log.scrub(subjects, kept_data)

    def events(self) -> Iterator[Event]:
        """The whole journal."""
        yield from self.log.read(JOURNAL, 0, 1_000_000)


Made = Callable[[int], tuple[Any, Any]]

EXPERIMENT_EVENTS: dict[str, Made] = {
    "created": lambda n: (
        experiments.EXPERIMENT_CREATED,
        ExperimentCreated(NAMES[n % 3], "secret-uri", n, [Tag("secret-key", "v")]),
    ),
    "renamed": lambda n: (experiments.EXPERIMENT_RENAMED, ExperimentRenamed(NAMES[n % 3])),
    "deleted": lambda _: (experiments.EXPERIMENT_DELETED, ExperimentDeleted()),
    "restored": lambda _: (experiments.EXPERIMENT_RESTORED, ExperimentRestored()),
    "tag_set": lambda n: (experiments.EXPERIMENT_TAG_SET, ExperimentTagSet(f"t{n % 2}", "secret")),
    "tag_deleted": lambda n: (
        experiments.EXPERIMENT_TAG_DELETED,
        ExperimentTagDeleted(f"t{n % 2}"),
    ),
    "purged": lambda _: (experiments.EXPERIMENT_PURGED, ExperimentPurged()),
}
RUN_EVENTS: dict[str, Made] = {
    "created": lambda n: (
        runs.RUN_CREATED,
        RunCreated(str(1 + n % 4), "secret", "me", n, "uri", [RunTag("secret", f"{n}")]),
    ),
    "updated": lambda n: (runs.RUN_UPDATED, RunUpdated("FINISHED", n, f"secret{n % 3}")),
    "created_named": lambda n: (
        runs.RUN_CREATED,
        RunCreated("1", "secret", "me", n, "uri", [RunTag(RUN_NAME_TAG, ("", "other")[n % 2])]),
    ),
    "named": lambda n: (
        runs.RUN_BATCH_LOGGED,
        RunBatchLogged([], [RunTag(RUN_NAME_TAG, name) for name in ("", "one", "two")[n % 3 :]]),
    ),
    "name_deleted": lambda _: (runs.RUN_TAG_DELETED, RunTagDeleted(RUN_NAME_TAG)),
    "deleted": lambda _: (runs.RUN_DELETED, RunDeleted()),
    "restored": lambda _: (runs.RUN_RESTORED, RunRestored()),
    "tag_deleted": lambda n: (runs.RUN_TAG_DELETED, RunTagDeleted(f"t{n % 2}")),
    "batch": lambda n: (
        runs.RUN_BATCH_LOGGED,
        RunBatchLogged(
            [Param(f"p{n % 2}", f"secret{n % 4}")], [RunTag(f"t{n % 2}", "s")], [Point("m", n, n)]
        ),
    ),
    "points": lambda n: (
        POINTS_LOGGED,
        block_of([Point("m", n % 5, n % 7, n % 3), Point("m", n % 5, 1, 1, f"m-{n % 4}")]),
    ),
    "inputs": lambda n: (
        RUN_INPUTS_LOGGED,
        RunInputsLogged(
            [
                DatasetInput(
                    f"d{n % 2}", "1", "code", f"secret{n % 3}", tags=[InputTag("k", f"{n}")]
                )
            ],
            [f"m-{n % 4}"],
        ),
    ),
    "outputs": lambda n: (
        RUN_OUTPUTS_LOGGED,
        RunOutputsLogged([ModelOutput(f"m-{n % 4}", n % 2)]),
    ),
    "purged": lambda _: (runs.RUN_PURGED, RunPurged()),
}

MODEL_EVENTS: dict[str, Made] = {
    "created": lambda n: (
        LOGGED_MODEL_CREATED,
        LoggedModelCreated(str(1 + n % 4), "secret", "uri", n, params=[ModelParam("p", f"{n}")]),
    ),
    "finalized": lambda _: (LOGGED_MODEL_FINALIZED, LoggedModelFinalized("READY")),
    "params": lambda n: (
        LOGGED_MODEL_PARAMS_LOGGED,
        LoggedModelParamsLogged([ModelParam(f"p{n % 2}", f"secret{n % 3}")]),
    ),
    "tags": lambda n: (LOGGED_MODEL_TAGS_SET, LoggedModelTagsSet([ModelTag(f"t{n % 2}", "s")])),
    "tag_deleted": lambda n: (LOGGED_MODEL_TAG_DELETED, LoggedModelTagDeleted(f"t{n % 2}")),
    "deleted": lambda _: (LOGGED_MODEL_DELETED, LoggedModelDeleted()),
    "purged": lambda _: (LOGGED_MODEL_PURGED, LoggedModelPurged()),
}
EVENTS = {"experiment": EXPERIMENT_EVENTS, "run": RUN_EVENTS, "model": MODEL_EVENTS}
IDS = {"experiment": "{}", "run": "run{}", "model": "m-{}"}

numbers = st.integers(0, 20)
steps = st.one_of(
    st.tuples(st.just("experiment"), st.sampled_from(sorted(EXPERIMENT_EVENTS)), numbers),
    st.tuples(st.just("experiment"), st.sampled_from(["created", "renamed"]), numbers),
    st.tuples(st.just("run"), st.sampled_from(sorted(RUN_EVENTS)), numbers),
    st.tuples(st.just("model"), st.sampled_from(sorted(MODEL_EVENTS)), numbers),
    st.tuples(st.sampled_from(["fold", "scrub", "gc"]), st.just(""), numbers),
)


def act(history: History, kind: str, what: str, number: int, subject: str = "") -> None:
    """Plays one step of a history; ids are used once, as a server uses them."""
    if kind in EVENTS:
        ids = history.ids[kind]
        if what.startswith("created"):
            ids.append(IDS[kind].format(len(ids) + 1))
            subject = ids[-1]
        event_type, payload = EVENTS[kind][what](number)
        history.append(event_type, subject or ids[number % len(ids)], payload)
    else:
        fold(history.live, history.log, 1 + number)
        if kind == "gc":
            ids = history.ids["experiment"]
            purge_experiment(history, ids[number % len(ids)])
        if kind in ("scrub", "gc"):
            history.scrub()


def purge_experiment(history: History, experiment_id: str) -> None:
    """An experiment with all its runs, as gc purges it: deleted first, scrubbed after."""
    act(history, "experiment", "deleted", 0, experiment_id)
    fold(history.live, history.log, 100)
    for kind, name, key in (
        ("run", "runs", "run_id"),
        ("model", "logged_models", "model_id"),
    ):
        table = metadata.tables[name]
        with history.live.connect() as connection:
            found = connection.execute(
                sa.select(table.c[key]).where(table.c.experiment_id == experiment_id)
            )
            subjects = found.scalars().all()
        for subject in subjects:
            if kind == "run":
                act(history, "run", "deleted", 0, subject)
            act(history, kind, "purged", 0, subject)
    act(history, "experiment", "purged", 0, experiment_id)
    fold(history.live, history.log, 100)


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(steps, min_size=5, max_size=60), st.integers(1, 20), st.integers(1, 3))
def test_rebuilt_views_equal_live_ones_after_any_history(
    played: list[tuple[str, str, int]], batch_events: int, points_partitions: int
) -> None:
    """Whatever was created, renamed, deleted, restored, purged and scrubbed, in whatever order:
    folding the log from its start gives the rows that folding as events came gave."""
    history = History(MemoryLog(points_partitions))
    act(history, "experiment", "created", 0)
    act(history, "run", "created", 0)
    act(history, "model", "created", 0)
    for step in played:
        act(history, *step)
    fold(history.live, history.log, 7)
    rebuilt = new_views()
    fold(rebuilt, history.log, batch_events)
    assert content(rebuilt) == content(history.live)
    history.scrub()
    rebuilt_from_scrubbed = new_views()
    fold(rebuilt_from_scrubbed, history.log, batch_events)
    assert content(rebuilt_from_scrubbed) == content(history.live)
    assert misnamed(history.live) == []


def misnamed(views: sa.Engine) -> list[tuple[Any, ...]]:
    """The runs whose tag says another name than they have; a search by name looks at both."""
    same_run = sa.and_(tags.c.run_id == run_rows.c.run_id, tags.c.key == RUN_NAME_TAG)
    wrong = sa.select(run_rows.c.name, tags.c.value).join(tags, same_run)
    with views.connect() as connection:
        found = connection.execute(wrong.where(tags.c.value != run_rows.c.name))
        return [tuple(row) for row in found]


def finish(history: History) -> dict[str, Any]:
    """Folds, scrubs, and gives the live content, which a rebuild was found to equal."""
    fold(history.live, history.log, 100)
    history.scrub()
    rebuilt = new_views()
    fold(rebuilt, history.log, 100)
    assert content(rebuilt) == content(history.live)
    return content(history.live)


def test_the_verdict_on_another_that_wanted_the_name_survives_the_scrub() -> None:
    """An experiment that was refused a name stays refused in a rebuild from the scrubbed log, and
    one that got the name after the purge keeps it."""
    history = History()
    act(history, "experiment", "created", 0)
    act(history, "experiment", "renamed", 1, "1")
    act(history, "experiment", "created", 1)
    act(history, "experiment", "created", 0)
    purge_experiment(history, "1")
    act(history, "experiment", "created", 1)
    found = finish(history)
    assert [(row[0], row[1]) for row in found["experiments"]] == [
        ("3", "secret-a"),
        ("4", "secret-b"),
    ]
    left = [event.data for event in history.events() if event.subject == "1"]
    assert not any(b"secret" in data for data in left)


def test_a_purge_that_was_refused_stays_refused_after_the_scrub() -> None:
    """An experiment whose first purge came too early held its name until the second: whoever
    wanted the name in between is refused in a rebuild too."""
    history = History()
    act(history, "experiment", "created", 0)
    act(history, "run", "created", 0)
    act(history, "experiment", "deleted", 0, "1")
    act(history, "experiment", "purged", 0, "1")
    act(history, "experiment", "created", 0)
    purge_experiment(history, "1")
    found = finish(history)
    assert found["experiments"] == []
    assert [row[1] for row in found["rejections"]] == ["2"]


def test_a_run_that_was_restored_before_its_purge_holds_its_experiment_after_the_scrub() -> None:
    """The stages of a scrubbed run are folded: its refused purge did not free its experiment."""
    history = History()
    act(history, "experiment", "created", 0)
    act(history, "run", "created", 0)
    act(history, "experiment", "deleted", 0, "1")
    act(history, "run", "restored", 0, "run1")
    act(history, "run", "purged", 0, "run1")
    act(history, "experiment", "purged", 0, "1")
    act(history, "experiment", "created", 0)
    purge_experiment(history, "1")
    found = finish(history)
    assert found["experiments"] == []
    assert [row[1] for row in found["rejections"]] == ["2"]


def test_a_purge_is_refused_where_the_subject_is_in_use() -> None:
    """A run that was restored before its purge came, and an experiment that still has a run, stay
    with all their rows."""
    history = History()
    act(history, "experiment", "created", 0)
    act(history, "run", "created", 0)
    act(history, "run", "purged", 0)
    act(history, "experiment", "deleted", 0)
    act(history, "experiment", "purged", 0)
    found = finish(history)
    assert [row[0] for row in found["experiments"]] == ["1"]
    assert [row[0] for row in found["runs"]] == ["run1"]
    assert found["purged"] == []
    assert len(found["rejections"]) == 2
