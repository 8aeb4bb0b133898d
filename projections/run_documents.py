"""Whole runs, put together from the views of every entity that has a part of them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import msgspec
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
from projections.owned import json_list, owned_rows, sent_json
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
from projections.statements import MYSQL

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
    "value": sa.type_coerce(
        sa.case(
            (latest_metrics.c.is_nan, sa.literal_column("'NaN'")),
            (latest_metrics.c.value > _DOUBLE_MAX, _DOUBLE_MAX),
            (latest_metrics.c.value < -_DOUBLE_MAX, -_DOUBLE_MAX),
            else_=latest_metrics.c.value,
        ),
        sa.Double,
    ),
    "timestamp": latest_metrics.c.timestamp,
    "step": latest_metrics.c.step,
}
"""A latest value as MLflow answers it: JSON has no NaN, and no infinity but the greatest double."""


_OWNED: dict[sa.Table, dict[str, ColumnElement[Any]]] = {
    latest_metrics: _LATEST,
    **{table: {"key": table.c.key, "value": table.c.value} for table in (params, tags)},
}
"""The tables whose rows are lists in an answer, and the fields there."""


_HAS_MORE = sa.or_(
    *(
        sa.exists(sa.literal_column("1")).where(owner == runs.c.run_id)
        for owner in (run_inputs.c.run_id, model_inputs.c.run_id, model_outputs.c.run_id)
    )
)
_INFO_NAMES = [column.name for column in runs.columns]


@cache
def documents_query(dialect: str) -> sa.Select[Any]:
    """What finds whole runs: their rows, their lists as JSON, and whether there is more to read."""
    lists: list[ColumnElement[str]] = [
        # MySQL puts no list in order: `_read_lists` does.
        sa.literal_column(f"'{NO_ELEMENTS}'")
        if dialect == MYSQL
        else json_list(dialect, runs.c.run_id, table.c.run_id, fields)
        for table, fields in _OWNED.items()
    ]
    named = [one.label(f"list_{number}") for number, one in enumerate(lists)]
    return sa.select(*runs.columns, *named, _HAS_MORE.label("has_more"))


_LISTED = {
    table: sa.select(
        table.c.run_id,
        # Of a text and a number in one column MySQL makes texts.
        *(table.c[name] for name in fields),
        table.c.is_nan if table is latest_metrics else sa.false(),
    ).order_by(*table.primary_key)
    for table, fields in _OWNED.items()
}


def _read_lists(connection: sa.Connection, run_ids: Sequence[str]) -> dict[str, list[str]]:
    """The lists of runs as JSON, where the database does not make them."""
    found: dict[str, list[str]] = {run_id: [] for run_id in run_ids}
    for table, fields in _OWNED.items():
        of_run: dict[str, list[dict[str, Any]]] = {run_id: [] for run_id in run_ids}
        listed = owned_rows(connection, _LISTED[table], table.c.run_id, run_ids)
        for run_id, *values, is_nan in listed:
            row = dict(zip(fields, values, strict=True))
            if is_nan:
                row["value"] = "NaN"
            elif table is latest_metrics:
                row["value"] = max(-sys.float_info.max, min(row["value"], sys.float_info.max))
            of_run[run_id].append(row)
        for run_id, rows in of_run.items():
            found[run_id].append(msgspec.json.encode(rows).decode())
    return found


def documents(connection: sa.Connection, run_ids: Sequence[str]) -> list[RunDocument]:
    """The whole runs with these ids that are there, in the order of the ids."""
    dialect = connection.dialect.name
    query = documents_query(dialect)
    found = {row[0]: row for row in owned_rows(connection, query, runs.c.run_id, run_ids)}
    lists = _read_lists(connection, list(found)) if dialect == MYSQL else {}
    # Few runs have inputs and outputs.
    more = [run_id for run_id, row in found.items() if row[-1]]
    inputs = inputs_of(connection, more) if more else {}
    outputs = outputs_of(connection, more) if more else {}
    infos = len(_INFO_NAMES)
    whole: list[RunDocument] = []
    for run_id in run_ids:
        row = found.get(run_id)
        if row is None:
            continue
        listed = lists.get(run_id) or [sent_json(dialect, one) for one in row[infos : infos + 3]]
        metrics, params_of_run, tags_of_run = listed
        whole.append(
            RunDocument(
                dict(zip(_INFO_NAMES, row, strict=False)),
                metrics,
                params_of_run,
                tags_of_run,
                inputs.get(run_id, NO_INPUTS),
                outputs.get(run_id, []),
            )
        )
    return whole


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
