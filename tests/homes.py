"""Home folders filled with events, for the tests of the maintenance commands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from events.artifact_uris import artifact_roots
from events.blobs import put
from events.codec import Series, decode_block, make_block
from events.datasets import RUN_INPUTS_LOGGED, DatasetInput, RunInputsLogged
from events.event import JOURNAL, UNDIVIDED, EventType, NewEvent
from events.experiments import EXPERIMENT_CREATED, ExperimentCreated, Tag
from events.local_blobs import LocalBlobs
from events.log import Log
from events.logged_models import (
    LOGGED_MODEL_CREATED,
    LOGGED_MODEL_TAGS_SET,
    LoggedModelCreated,
    LoggedModelTagsSet,
    ModelParam,
    ModelTag,
)
from events.metrics import POINTS_LOGGED, Point
from events.runs import (
    RUN_BATCH_LOGGED,
    RUN_CREATED,
    Param,
    RunBatchLogged,
    RunCreated,
    RunTag,
)
from events.settings import Settings
from events.sqlite_log import SqliteLog
from projections.database import Views
from projections.folding import read_checkpoint
from projections.history import run_points
from projections.lake import Lake
from projections.lake_changes import CHANGE_TABLES
from projections.metrics import blocks
from projections.opened_views import open_views
from projections.schema import metadata
from projections.segments import LAYOUT_TABLES
from workers.gc import Gc
from workers.maintenance import fold_to_head
from workers.sealer import Sealer

NOT_CONTENT = {
    *("checkpoints", "view_meta"),
    *(table.name for table in (*LAYOUT_TABLES, *CHANGE_TABLES)),
}


@dataclass
class Home:
    """A home folder, opened; its stores live as long as the test."""

    folder: Path
    log: Log
    views: Views
    gc: Gc
    said: list[str]
    time: int = 1_000

    def append(self, event_type: EventType[Any], subject: str, payload: Any) -> int:
        """Appends one event, a little later than the last."""
        return self.log.append([self.made(event_type, subject, payload)])[0]

    def made(self, event_type: EventType[Any], subject: str, payload: Any) -> NewEvent:
        """An event, a little later than the last."""
        self.time += 1
        return event_type.new(subject, payload, time=self.time)

    def fold(self) -> None:
        """Folds all that there is."""
        fold_to_head(self.log, self.views)

    def experiment(self, experiment_id: str, name: str) -> None:
        """An experiment with a tag that holds its name's marker."""
        created = ExperimentCreated(
            name, f"mlflow-artifacts:/{experiment_id}", self.time, [Tag("tag", f"{name}-tag")]
        )
        self.append(EXPERIMENT_CREATED, experiment_id, created)

    def run(self, run_id: str, experiment_id: str, marker: str) -> None:
        """A run whose every kind of data holds the marker: also what was refused, and files."""
        uri = f"mlflow-artifacts:/{experiment_id}/{run_id}/artifacts"
        tags = [RunTag("mlflow.runName", f"{marker}-name"), RunTag(f"{marker}-tagkey", "v")]
        created = RunCreated(experiment_id, f"{marker}-name", "me", self.time, uri, tags)
        params = [Param(f"p{n}", f"{marker}-param-{n}-" + "x" * 60) for n in range(5)]
        series = Series(f"{marker}-long", f"m-{run_id}", f"{marker}-data", "1")
        long = [(series, step, step, step / 7) for step in range(300)]
        dataset = DatasetInput(f"{marker}-data", "1", "code", f"{marker}-src" + "y" * 4_000)
        events: list[tuple[EventType[Any], Any]] = [
            (RUN_CREATED, created),
            (RUN_BATCH_LOGGED, RunBatchLogged(params, [RunTag("t", marker)])),
            (RUN_BATCH_LOGGED, RunBatchLogged([Param("p0", f"{marker}-refused")])),
            (RUN_BATCH_LOGGED, RunBatchLogged(metrics=[Point(f"{marker}-j", 1, 1)])),
            (POINTS_LOGGED, make_block([(Series(f"{marker}-m"), 1, 1, 0.5)])),
            (POINTS_LOGGED, make_block(long)),
            (RUN_INPUTS_LOGGED, RunInputsLogged([dataset])),
        ]
        self.log.append([self.made(kind, run_id, payload) for kind, payload in events])
        path = f"{experiment_id}/{run_id}/artifacts/model/{marker}.txt"
        put(self.gc.artifacts.proxied, path, [f"{marker}-bytes".encode()])

    def model(self, model_id: str, experiment_id: str, marker: str) -> None:
        """A logged model whose every kind of data holds the marker."""
        uri = f"mlflow-artifacts:/{experiment_id}/models/{model_id}/artifacts"
        params = [ModelParam("p", f"{marker}-param")]
        created = LoggedModelCreated(experiment_id, f"{marker}-name", uri, self.time, params=params)
        self.append(LOGGED_MODEL_CREATED, model_id, created)
        tags = LoggedModelTagsSet([ModelTag("t", f"{marker}-tag")])
        self.append(LOGGED_MODEL_TAGS_SET, model_id, tags)
        path = f"{experiment_id}/models/{model_id}/artifacts/MLmodel"
        put(self.gc.artifacts.proxied, path, [f"{marker}-bytes".encode()])

    def seal(self) -> None:
        """Everything into segments."""
        sealer = Sealer(self.views, self.gc.lake)
        sealer.seal_all()
        sealer.close()

    def content(self) -> dict[str, Any]:
        """What the live views hold."""
        return content(self.views, self.gc.lake)

    def close(self) -> None:
        """Closes the stores."""
        self.views.close()
        self.log.close()

    def holds(self, markers: Sequence[str]) -> list[str]:
        """The files in which any of these texts is found, in names or bytes or packed points."""
        found = []
        for file in self.folder.rglob("*"):
            data = file.read_bytes() if file.is_file() else b""
            if any(marker in file.name or marker.encode() in data for marker in markers):
                found.append(str(file.relative_to(self.folder)))
        with self.views.read() as connection:
            for run_id, data in connection.execute(sa.select(blocks.c.run_id, blocks.c.data)):
                names = " ".join(series.key for series in decode_block(data).series)
                if any(marker in names for marker in markers):
                    found.append(f"a block of {run_id}")
        return found


def open_home(folder: Path, log: Log | None = None, views_uri: str | None = None) -> Home:
    """The stores of a home folder; the log and the views in it unless they are elsewhere."""
    settings = Settings(home=folder)
    log = log or SqliteLog(folder / "log.db")
    views = open_views(views_uri or settings.views_place, log.identity.log_id)
    artifacts = artifact_roots(settings, LocalBlobs(settings.artifacts_path), LocalBlobs)
    said: list[str] = []
    gc = Gc(log, views, artifacts, Lake(settings.lake_path), echo=said.append)
    return Home(folder, log, views, gc, said)


def content(views: Views, lake: Lake) -> dict[str, Any]:
    """Every row that a rebuild must give again, and every point."""
    found: dict[str, Any] = {}
    with views.read() as connection:
        for name, table in metadata.tables.items():
            if name not in NOT_CONTENT:
                order = list(table.primary_key.columns)
                rows = connection.execute(sa.select(table).order_by(*order))
                found[name] = [tuple(row) for row in rows]
        for run_id in [row[0] for row in found["runs"]]:
            points = set()
            for block in run_points(connection, lake, run_id):
                columns = (block.index, block.steps, block.timestamps, block.values)
                for index, step, time, value in zip(*columns, strict=True):
                    points.add((block.series[index], int(step), int(time), float(value)))
            found[f"points of {run_id}"] = points
        for partition in UNDIVIDED:
            position = read_checkpoint(connection, partition).position
            found[f"position of {partition}"] = position
    return found


def content_by_number(log: Log, views: Views, lake: Lake) -> dict[str, Any]:
    """The same with each position of the journal as the number of its event, and those of points
    left out: what views of a log and of a copy that has other positions both hold."""
    events = log.read(JOURNAL, 0, log.head(JOURNAL))
    numbers = {event.position: number for number, event in enumerate(events, 1)}
    found = {name: rows for name, rows in content(views, lake).items() if "position of" not in name}
    for name, table in metadata.tables.items():
        if name in found and "position" in table.columns:
            place = list(table.columns).index(table.columns["position"])
            found[name] = [
                (*row[:place], numbers[row[place]], *row[place + 1 :]) for row in found[name]
            ]
    return found
