"""Views with a lake over a log in memory, asked through SQL and through what REST answers with."""

import math
import shutil
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import duckdb
import sqlalchemy as sa

from events.event import JOURNAL, Event
from events.memory_log import MemoryLog
from projections.datasets import inputs_of
from projections.history import metric_history, run_points
from projections.lake import Lake
from projections.logged_models import (
    get_model_row,
    logged_model_params,
    logged_model_tags,
    model_texts,
)
from projections.metrics import latest_metrics
from projections.opened_views import open_views
from projections.query_points import declare_metrics
from projections.runs import get_rows, params, tags, texts_of
from projections.schema import metadata, purged, rejections
from projections.sql_snapshot import Snapshot, take_snapshot
from projections.sql_tables import TABLES
from workers.exporter import Exporter, ExporterSettings
from workers.projector import Projector
from workers.sealer import Sealer, SealerSettings

Tables = dict[str, list[Any]]
SMALL = SealerSettings(merge_segments=2, retired_s=0.0, seal_age_s=0.0, round_s=0.0)


class SqlCase:
    """A log and its views; every question is asked of a snapshot of its own."""

    def __init__(
        self,
        folder: Path,
        log: MemoryLog | None = None,
        views_uri: str | None = None,
        lake: Lake | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.log = MemoryLog() if log is None else log
        self.lake = lake or Lake(folder / "lake")
        self.lake.folder.mkdir(exist_ok=True)
        uri = views_uri or f"sqlite:///{folder / 'views.db'}"
        self.views = open_views(uri, self.log.identity.log_id)
        self.views.create()
        self.projector = Projector(self.log, self.views)
        self.sealer = Sealer(self.views, self.lake, SMALL)
        self.exporter = Exporter(self.views, self.log, self.lake, ExporterSettings(retired_s=0))
        self.time = 1_000
        self._taken = 0

    def given(self, event_type: Any, subject: str, payload: Any) -> None:
        """Appends an event a little later than the last; not folded yet."""
        self.time += 1
        self.log.append([event_type.new(subject, payload, time=self.time)])

    def snapshot(self, experiments: Collection[str] | None = None) -> Snapshot:
        """A snapshot of all tables in a new folder."""
        self._taken += 1
        folder = self.folder / f"snapshot-{self._taken}"
        folder.mkdir()
        return take_snapshot(self.views, self.log, self.lake, experiments, folder)

    def connected(self, experiments: Collection[str] | None = None) -> duckdb.DuckDBPyConnection:
        """A DuckDB with the tables of a snapshot."""
        connection = duckdb.connect()
        taken = self.snapshot(experiments)
        declare_metrics(connection, taken.folder)
        for statement in taken.statements:
            connection.execute(statement)
        return connection

    def tables(self, experiments: Collection[str] | None = None) -> Tables:
        """Every row of every table, as SQL gives them."""
        with self.connected(experiments) as connection:
            found = {
                table.name: sorted(connection.execute(f"FROM {table.name}").fetchall(), key=repr)
                for table in TABLES
            }
        shutil.rmtree(self.folder / f"snapshot-{self._taken}")
        return found

    def close(self) -> None:
        """Closes what is open."""
        self.sealer.close()
        self.views.close()


def without_times(tables: Tables) -> Tables:
    """The tables as plain values, without the columns that only show another as a TIMESTAMP."""
    found: Tables = {}
    for table in TABLES:
        wanted = [place for place, c in enumerate(table.columns) if c.type != "TIMESTAMP"]
        rows = [tuple(_plain(row[place]) for place in wanted) for row in tables[table.name]]
        found[table.name] = sorted(rows, key=repr)
    return found


def _plain(value: Any) -> Any:
    """Maps in order, and no sign on a zero."""
    if isinstance(value, dict):
        return dict(sorted(value.items()))
    return value + 0.0 if isinstance(value, float) else value


def as_rest_says(case: SqlCase) -> Tables:
    """The same tables from the functions that REST's answers are made of."""
    found: Tables = {table.name: [] for table in TABLES}
    with case.views.read() as connection:

        def rows(name: str) -> list[Any]:
            return list(connection.execute(sa.select(metadata.tables[name])))

        run_rows = get_rows(connection, [row.run_id for row in rows("runs")])
        home = {run_id: row["experiment_id"] for run_id, row in run_rows.items()}
        for one in rows("experiments"):
            of_it = {t.key: t.value for t in rows("experiment_tags") if t[0] == one[0]}
            found["experiments"].append((*one, of_it))
        for run_id, row in run_rows.items():
            found["runs"].append(_run(row))
            _add_of_run(found, connection, case, run_id, home[run_id])
        model_ids = [row.model_id for row in rows("logged_models")]
        for model_id in model_ids:
            found["logged_models"].append(_model(connection, model_id))
        gone = {row.subject for row in rows(purged.name)}
        refused = {row.position: row for row in rows(rejections.name)}
        home |= {row[0]: row[1] for row in rows("logged_models")}
        home |= {row[0]: row[0] for row in rows("experiments")}
        for event in case.log.read(JOURNAL, 0, 1_000_000):
            if event.subject not in gone:
                found["events"].append(_event(event, home, refused.get(event.position)))
    return {
        name: sorted((tuple(map(_plain, row)) for row in table), key=repr)
        for name, table in found.items()
    }


def _run(row: Any) -> tuple[Any, ...]:
    ends = row["end_time"]
    return (
        *(row["run_id"], row["experiment_id"], row["name"], row["user_id"], row["status"]),
        *(row["lifecycle_stage"], row["start_time"], ends),
        *(None if ends is None else ends - row["start_time"], row["deleted_time"]),
        row["artifact_uri"],
    )


def _add_of_run(
    found: Tables, connection: sa.Connection, case: SqlCase, run_id: str, home: str
) -> None:
    for name, table in (("params", params), ("tags", tags)):
        texts = texts_of(connection, table, [run_id])[run_id]
        found[name] += [(run_id, home, key, value) for key, value in texts]
    latest = sa.select(latest_metrics).where(latest_metrics.c.run_id == run_id)
    for one in connection.execute(latest):
        value = math.nan if one.is_nan else one.value
        found["latest_metrics"].append((run_id, home, one.key, value, one.step, one.timestamp))
    for dataset in inputs_of(connection, [run_id])[run_id].datasets:
        of_it = dict(dataset.tags)
        texts_of_it = (dataset.source_type, dataset.source, dataset.schema, dataset.profile)
        context = of_it.get("mlflow.data.context")
        row = (run_id, home, dataset.name, dataset.digest, context, *texts_of_it, of_it)
        found["datasets"].append(row)
    points = set()
    for block in run_points(connection, case.lake, run_id):
        columns = (block.index, block.steps, block.timestamps, block.values)
        for index, step, at, value in zip(*columns, strict=True):
            key, *rest = block.series[index]
            plain = repr(float(value) + 0.0)
            points.add((run_id, home, key, int(step), int(at), plain, *rest))
    found["metrics"] += [(*row[:5], float(row[5]), *row[6:]) for row in points]
    for key in {row[2] for row in points}:
        told, _ = metric_history(connection, case.lake, run_id, key)
        told_rows = zip(
            told.timestamps.tolist(), told.steps.tolist(), told.values.tolist(), strict=True
        )
        assert {repr(row) for row in told_rows} == {
            repr((row[4], row[3], _as_mlflow(float(row[5])))) for row in points if row[2] == key
        }


def _as_mlflow(value: float) -> float:
    largest = sys.float_info.max
    return value if math.isnan(value) else max(-largest, min(largest, value))


def _model(connection: sa.Connection, model_id: str) -> tuple[Any, ...]:
    row = get_model_row(connection, model_id, allow_deleted=True)
    names = (
        *("model_id", "experiment_id", "name", "source_run_id", "status", "lifecycle_stage"),
        *("model_type", "creation_timestamp", "last_updated_timestamp", "artifact_location"),
    )
    texts = (model_texts(connection, table, model_id) for table in _MODEL_TEXTS)
    return (*(row[name] for name in names), *texts)


_MODEL_TEXTS = (logged_model_params, logged_model_tags)


def _event(event: Event, home: dict[str, str], refusal: Any) -> tuple[Any, ...]:
    verdict = ("rejected", refusal.error_code, refusal.message) if refusal else None
    return (
        *(event.position, event.type, event.version, event.subject, home.get(event.subject)),
        *(event.time, event.actor, event.origin, *(verdict or ("accepted", None, None))),
        event.data.decode(),
    )
