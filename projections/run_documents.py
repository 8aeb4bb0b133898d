"""Whole runs, put together from the views of every entity that has a part of them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.sql.elements import ColumnElement

from projections.datasets import (
    CONTEXT_TAG,
    RunInputs,
    datasets,
    input_tags,
    inputs_of,
    model_inputs,
    run_inputs,
)
from projections.filter_language import RUNS, OrderBy, parse_filter, parse_order_by
from projections.lifecycle import unknown_run
from projections.logged_models import model_outputs, outputs_of
from projections.metrics import latest_metrics
from projections.owned import json_list, owned_rows
from projections.page_tokens import Position
from projections.runs import params, runs, tags
from projections.search import (
    Among,
    MetricValues,
    Searchable,
    Values,
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
    ids_only=True,
)


NO_ELEMENTS = "[]"
"""The JSON list of a run that has none."""
NO_INPUTS = RunInputs()
"""The inputs of all runs that have neither inputs nor outputs."""


class RunDocument(NamedTuple):
    """All that MLflow's API tells of a run.

    `metrics`, `params` and `tags` are JSON lists of objects as the API answers them, in order of
    their keys: the database makes them, for a page has thousands.
    """

    info: Row
    metrics: str
    params: str
    tags: str
    inputs: RunInputs
    outputs: list[tuple[str, int]]
    """The logged models that it made: (model id, step)."""


_DOUBLE_MAX = sa.literal_column(repr(sys.float_info.max), sa.Double)
_LATEST: dict[str, ColumnElement[Any]] = {
    "key": latest_metrics.c.key,
    "value": sa.case(
        (latest_metrics.c.is_nan, sa.literal_column("'NaN'")),
        (latest_metrics.c.value > _DOUBLE_MAX, _DOUBLE_MAX),
        (latest_metrics.c.value < -_DOUBLE_MAX, -_DOUBLE_MAX),
        else_=latest_metrics.c.value,
    ),
    "timestamp": latest_metrics.c.timestamp,
    "step": latest_metrics.c.step,
}
"""A latest value as MLflow answers it: JSON has no NaN, and no infinity but the greatest double."""


def _texts(table: sa.Table) -> sa.ScalarSelect[str]:
    fields = {"key": table.c.key, "value": table.c.value}
    return json_list(runs.c.run_id, table.c.run_id, fields)


_HAS_MORE = sa.or_(
    *(
        sa.exists(sa.literal_column("1")).where(owner == runs.c.run_id)
        for owner in (run_inputs.c.run_id, model_inputs.c.run_id, model_outputs.c.run_id)
    )
)
_INFO_NAMES = [column.name for column in runs.columns]
DOCUMENTS = sa.select(
    *runs.columns,
    json_list(runs.c.run_id, latest_metrics.c.run_id, _LATEST).label("metrics"),
    _texts(params).label("params"),
    _texts(tags).label("tags"),
    _HAS_MORE.label("has_more"),
)


def documents(connection: sa.Connection, run_ids: Sequence[str]) -> list[RunDocument]:
    """The whole runs with these ids that are there, in the order of the ids."""
    found = {row[0]: row for row in owned_rows(connection, DOCUMENTS, runs.c.run_id, run_ids)}
    # Few runs have inputs and outputs.
    more = [run_id for run_id, row in found.items() if row[-1]]
    inputs = inputs_of(connection, more) if more else {}
    outputs = outputs_of(connection, more) if more else {}
    infos = len(_INFO_NAMES)
    return [
        RunDocument(
            dict(zip(_INFO_NAMES, row, strict=False)),
            row[infos],
            row[infos + 1],
            row[infos + 2],
            inputs.get(run_id, NO_INPUTS),
            outputs.get(run_id, []),
        )
        for run_id in run_ids
        if (row := found.get(run_id)) is not None
    ]


def get_document(connection: sa.Connection, run_id: str) -> RunDocument:
    """One whole run, in any stage. Raises ResourceDoesNotExist."""
    found = documents(connection, [run_id])
    if not found:
        raise unknown_run(run_id)
    return found[0]


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
    page = search(
        connection,
        RUN_SEARCH,
        clauses=parse_filter(RUNS, filter_text),
        order_by=parse_order_by(RUNS, order_by),
        scope=[
            Among(runs.c.experiment_id, tuple(experiment_ids)),
            in_view(runs.c.lifecycle_stage, view),
        ],
        limit=limit,
        after=after,
    )
    return documents(connection, page.ids), page.next_after
