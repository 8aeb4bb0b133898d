"""Puts things into the database of mlflow's own SQL store, and asks it for their order."""

import sys
import uuid
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.search_rows import Experiment, Model, Run

with warnings.catch_warnings():
    # mlflow's own use of SQLAlchemy is deprecated; that is no fault of ours to fail for.
    warnings.simplefilter("ignore")
    from mlflow.entities import LoggedModelStatus, ViewType
    from mlflow.store.tracking.dbmodels import models as tables
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

VIEWS = {
    "ACTIVE_ONLY": ViewType.ACTIVE_ONLY,
    "DELETED_ONLY": ViewType.DELETED_ONLY,
    "ALL": ViewType.ALL,
}


class MlflowStore:
    """mlflow's SQL store over a SQLite file of its own."""

    def __init__(self, folder: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._store = SqlAlchemyStore(
                f"sqlite:///{folder / 'mlflow.db'}", str(folder / "artifacts")
            )

    def put(
        self, experiments: Sequence[Experiment], runs: Sequence[Run], models: Sequence[Model]
    ) -> None:
        """Inserts all of these, past mlflow's checks, as its tables hold them."""
        with self._store.ManagedSessionMaker(read_only=False) as session:
            for experiment in experiments:
                session.add_all(_experiment_rows(experiment))
            session.flush()
            for run in runs:
                session.add_all(_run_rows(run))
            session.flush()
            for row in _dataset_rows(runs):
                session.add(row)
            for model in models:
                session.add_all(_model_rows(model))

    def default_experiment(self) -> Experiment:
        """The experiment that its tables hold from the start."""
        found = self._store.get_experiment("0")
        return Experiment(
            found.experiment_id,
            found.name,
            creation_time=found.creation_time,
            last_update_time=found.last_update_time,
        )

    def runs(
        self, experiment_ids: Sequence[str], text: str, view: str, order: Sequence[str]
    ) -> list[str]:
        """The ids of the runs that it finds, in its order."""
        found = self._store._search_runs(
            list(experiment_ids), text, VIEWS[view], 1000, list(order), None
        )[0]
        return [run.info.run_id for run in found]

    def experiments(self, text: str, view: str, order: Sequence[str]) -> list[str]:
        """The ids of the experiments that it finds, in its order."""
        found = self._store._search_experiments(VIEWS[view], 1000, text, list(order), None)[0]
        return [experiment.experiment_id for experiment in found]

    def models(
        self,
        experiment_ids: Sequence[str],
        text: str,
        order: Sequence[dict[str, Any]],
        datasets: Sequence[dict[str, str]],
    ) -> list[str]:
        """The ids of the logged models that it finds, in its order."""
        found = self._store.search_logged_models(
            list(experiment_ids), text, list(datasets) or None, 1000, list(order)
        )
        return [model.model_id for model in found]

    def close(self) -> None:
        """Lets go of its database."""
        self._store._dispose_engine()


def _experiment_rows(item: Experiment) -> list[Any]:
    number = int(item.experiment_id)
    return [
        tables.SqlExperiment(
            experiment_id=number,
            name=item.name,
            artifact_location="",
            lifecycle_stage=item.lifecycle_stage,
            creation_time=item.creation_time,
            last_update_time=item.last_update_time,
        ),
        *(
            tables.SqlExperimentTag(experiment_id=number, key=key, value=value)
            for key, value in item.tags.items()
        ),
    ]


def _run_rows(item: Run) -> list[Any]:
    rows: list[Any] = [
        tables.SqlRun(
            run_uuid=item.run_id,
            name=item.name,
            source_type="UNKNOWN",
            source_name="",
            entry_point_name="",
            user_id=item.user_id,
            status=item.status,
            start_time=item.start_time,
            end_time=item.end_time,
            source_version="",
            lifecycle_stage=item.lifecycle_stage,
            artifact_uri=item.artifact_uri,
            experiment_id=int(item.experiment_id),
        )
    ]
    for table, of in ((tables.SqlParam, item.params), (tables.SqlTag, item.tags)):
        rows += [table(run_uuid=item.run_id, key=key, value=value) for key, value in of.items()]
    for key, value in item.metrics.items():
        nan, stored = _as_stored(value)
        rows.append(
            tables.SqlLatestMetric(
                run_uuid=item.run_id, key=key, value=stored, timestamp=0, step=0, is_nan=nan
            )
        )
    return rows


def _as_stored(value: float) -> tuple[bool, float]:
    """As mlflow stores a metric: NaN is 0 and a flag, the infinities are the last doubles."""
    if value != value:
        return True, 0.0
    return False, max(-sys.float_info.max, min(sys.float_info.max, value))


def _dataset_rows(runs: Sequence[Run]) -> list[Any]:
    rows: list[Any] = []
    known: dict[tuple[str, str, str], str] = {}
    for run in runs:
        for given in run.inputs:
            name = (run.experiment_id, given.name, given.digest)
            if name not in known:
                known[name] = uuid.uuid4().hex
                rows.append(
                    tables.SqlDataset(
                        dataset_uuid=known[name],
                        experiment_id=int(run.experiment_id),
                        name=given.name,
                        digest=given.digest,
                        dataset_source_type="x",
                        dataset_source="x",
                    )
                )
            link = uuid.uuid4().hex
            rows.append(
                tables.SqlInput(
                    input_uuid=link,
                    source_type="DATASET",
                    source_id=known[name],
                    destination_type="RUN",
                    destination_id=run.run_id,
                )
            )
            if given.context is not None:
                rows.append(
                    tables.SqlInputTag(
                        input_uuid=link, name="mlflow.data.context", value=given.context
                    )
                )
    return rows


def _model_rows(item: Model) -> list[Any]:
    number = int(item.experiment_id)
    rows: list[Any] = [
        tables.SqlLoggedModel(
            model_id=item.model_id,
            experiment_id=number,
            name=item.name,
            artifact_location=item.artifact_location,
            creation_timestamp_ms=item.creation_timestamp,
            last_updated_timestamp_ms=item.last_updated_timestamp,
            status=LoggedModelStatus(item.status).to_int(),
            lifecycle_stage=item.lifecycle_stage,
            model_type=item.model_type,
            source_run_id=item.source_run_id,
        )
    ]
    for key, value in item.params.items():
        rows.append(
            tables.SqlLoggedModelParam(
                model_id=item.model_id, experiment_id=number, param_key=key, param_value=value
            )
        )
    for key, value in item.tags.items():
        rows.append(
            tables.SqlLoggedModelTag(
                model_id=item.model_id, experiment_id=number, tag_key=key, tag_value=value
            )
        )
    for metric in item.metrics:
        rows.append(
            tables.SqlLoggedModelMetric(
                model_id=item.model_id,
                metric_name=metric.key,
                metric_timestamp_ms=metric.timestamp,
                metric_step=metric.step,
                metric_value=_as_stored(metric.value)[1],
                experiment_id=number,
                run_id=metric.run_id,
                dataset_uuid=None,
                dataset_name=metric.dataset_name,
                dataset_digest=metric.dataset_digest,
            )
        )
    return rows
