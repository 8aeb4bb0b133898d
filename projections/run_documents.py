"""Whole runs, put together from the views of every entity that has a part of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from projections.datasets import (
    CONTEXT_TAG,
    RunInputs,
    datasets,
    input_tags,
    inputs_of,
    run_inputs,
)
from projections.filter_language import RUNS, OrderBy, parse_filter, parse_order_by
from projections.logged_models import outputs_of
from projections.metrics import LatestMetric, latest_metrics, latest_of
from projections.page_tokens import Position
from projections.runs import get_row, params, runs, tags, texts_of
from projections.search import (
    MetricValues,
    Searchable,
    Values,
    among,
    in_view,
    search,
)
from projections.state import Row

_run_datasets = run_inputs.join(datasets, run_inputs.c.dataset_id == datasets.c.dataset_id)

RUN_SEARCH = Searchable(
    table=runs,
    id=runs.c.run_id,
    attributes={
        "run_id": runs.c.run_id,
        "run_name": runs.c.name,
        "user_id": runs.c.user_id,
        "status": runs.c.status,
        "artifact_uri": runs.c.artifact_uri,
        "start_time": runs.c.start_time,
        "end_time": runs.c.end_time,
    },
    tail_order=(OrderBy("attribute", "start_time", False), OrderBy("attribute", "run_id")),
    metrics=MetricValues(
        latest_metrics,
        owner=latest_metrics.c.run_id,
        key=latest_metrics.c.key,
        value=latest_metrics.c.value,
        is_nan=latest_metrics.c.is_nan,
        by_value=True,
    ),
    params=Values(params, params.c.run_id, params.c.value, params.c.key, by_value=True),
    tags=Values(tags, tags.c.run_id, tags.c.value, tags.c.key, by_value=True),
    datasets={
        "name": Values(_run_datasets, run_inputs.c.run_id, datasets.c.name),
        "digest": Values(_run_datasets, run_inputs.c.run_id, datasets.c.digest),
        "context": Values(
            input_tags,
            input_tags.c.run_id,
            input_tags.c.value,
            where=(input_tags.c.key == CONTEXT_TAG,),
        ),
    },
    # MLflow filters run_name by the tag and sorts by the column.
    filtered_by_tag={"run_name": "mlflow.runName"},
)


@dataclass(frozen=True, slots=True)
class RunDocument:
    """All that MLflow's API tells of a run."""

    info: Row
    metrics: list[LatestMetric]
    params: list[tuple[str, str]]
    tags: list[tuple[str, str]]
    inputs: RunInputs
    outputs: list[tuple[str, int]]
    """The logged models that it made: (model id, step)."""


def documents(connection: sa.Connection, rows: Sequence[Row]) -> list[RunDocument]:
    """The whole runs of these rows, in their order; each view is asked once for all of them."""
    ids = [row["run_id"] for row in rows]
    metrics_of = latest_of(connection, ids)
    params_of = texts_of(connection, params, ids)
    tags_of = texts_of(connection, tags, ids)
    inputs = inputs_of(connection, ids)
    outputs = outputs_of(connection, ids)
    return [
        RunDocument(
            row,
            metrics_of[run_id],
            params_of[run_id],
            tags_of[run_id],
            inputs[run_id],
            outputs[run_id],
        )
        for run_id, row in zip(ids, rows, strict=True)
    ]


def get_document(connection: sa.Connection, run_id: str) -> RunDocument:
    """One whole run, in any stage. Raises ResourceDoesNotExist."""
    return documents(connection, [get_row(connection, run_id)])[0]


def search_documents(
    connection: sa.Connection,
    *,
    experiment_ids: Sequence[str],
    filter_text: str | None,
    order_by: Sequence[str],
    view: str,
    limit: int,
    after: Position | None,
) -> tuple[list[RunDocument], Position | None]:
    """A page of runs, and where the next one begins. Raises InvalidParameterValue."""
    scope: list[Any] = [
        among(connection, runs.c.experiment_id, experiment_ids),
        in_view(runs.c.lifecycle_stage, view),
    ]
    page = search(
        connection,
        RUN_SEARCH,
        clauses=parse_filter(RUNS, filter_text),
        order_by=parse_order_by(RUNS, order_by),
        scope=scope,
        limit=limit,
        after=after,
    )
    return documents(connection, page.rows), page.next_after
