"""Whole logged models, with their params, tags and metrics: get and search."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from projections.filter_language import (
    LOGGED_MODELS,
    OrderBy,
    parse_filter,
    parse_logged_model_order_by,
)
from projections.lifecycle import ACTIVE
from projections.logged_models import (
    IDS_MAX,
    get_model_row,
    logged_model_metrics,
    logged_model_params,
    logged_model_tags,
    logged_models,
)
from projections.page_tokens import Position
from projections.search import Among, Dataset, MetricValues, Searchable, Values, search
from projections.state import Row


@dataclass(frozen=True, slots=True)
class ModelDocument:
    """All that MLflow's API tells of a logged model."""

    info: Row
    params: list[tuple[str, str]]
    tags: list[tuple[str, str]]
    metrics: list[Row]


MODEL_SEARCH = Searchable(
    table=logged_models,
    id=logged_models.c.model_id,
    attributes={
        "name": logged_models.c.name,
        "model_id": logged_models.c.model_id,
        "model_type": logged_models.c.model_type,
        "status": logged_models.c.status,
        # Nothing in MLflow's API sets it.
        "status_message": sa.cast(sa.null(), sa.Text),
        "source_run_id": logged_models.c.source_run_id,
        "experiment_id": logged_models.c.experiment_id,
        "artifact_location": logged_models.c.artifact_location,
        "lifecycle_stage": logged_models.c.lifecycle_stage,
        "creation_timestamp": logged_models.c.creation_timestamp,
        "last_updated_timestamp": logged_models.c.last_updated_timestamp,
    },
    tail_order=(
        OrderBy("attribute", "creation_timestamp", False),
        OrderBy("attribute", "model_id"),
    ),
    # MLflow sorts statuses by their number.
    sort_by={
        "status": sa.case(
            {"PENDING": 1, "READY": 2, "FAILED": 3}, value=logged_models.c.status, else_=0
        ),
        "experiment_id": sa.cast(logged_models.c.experiment_id, sa.BigInteger),
    },
    metrics=MetricValues(
        logged_model_metrics,
        owner=logged_model_metrics.c.model_id,
        key=logged_model_metrics.c.key,
        value=logged_model_metrics.c.value,
        is_nan=logged_model_metrics.c.is_nan,
        # The first three are MLflow's; the others make the winner the same everywhere.
        newest_first=(
            logged_model_metrics.c.timestamp.desc(),
            logged_model_metrics.c.step.desc(),
            logged_model_metrics.c.run_id.asc(),
            logged_model_metrics.c.dataset_name.asc(),
            logged_model_metrics.c.dataset_digest.asc(),
            logged_model_metrics.c.is_nan.desc(),
            logged_model_metrics.c.value.desc(),
        ),
        dataset_name=logged_model_metrics.c.dataset_name,
        dataset_digest=logged_model_metrics.c.dataset_digest,
    ),
    params=Values(
        logged_model_params,
        logged_model_params.c.model_id,
        logged_model_params.c.value,
        logged_model_params.c.key,
    ),
    tags=Values(
        logged_model_tags,
        logged_model_tags.c.model_id,
        logged_model_tags.c.value,
        logged_model_tags.c.key,
    ),
)


def get_model(
    connection: sa.Connection, model_id: str, *, allow_deleted: bool = False
) -> ModelDocument:
    """One whole model; a deleted one only where that is allowed. Raises ResourceDoesNotExist."""
    row = get_model_row(connection, model_id, allow_deleted=allow_deleted)
    return _documents(connection, [row])[0]


def search_models(
    connection: sa.Connection,
    *,
    experiment_ids: Sequence[str],
    filter_text: str | None,
    datasets: Sequence[Dataset],
    order_by: Sequence[Mapping[str, object]],
    limit: int,
    after: Position | None,
) -> tuple[list[ModelDocument], Position | None]:
    """A page of active models, and where the next one begins. Raises InvalidParameterValue."""
    page = search(
        connection,
        MODEL_SEARCH,
        clauses=parse_filter(LOGGED_MODELS, filter_text),
        order_by=parse_logged_model_order_by(order_by),
        scope=[
            Among(logged_models.c.experiment_id, tuple(experiment_ids)),
            Among(logged_models.c.lifecycle_stage, (ACTIVE,)),
        ],
        datasets=datasets,
        limit=limit,
        after=after,
    )
    return _documents(connection, page.rows), page.next_after


def _documents(connection: sa.Connection, rows: Sequence[Row]) -> list[ModelDocument]:
    """The whole models of these rows, in their order; each table is asked once for many."""
    found = {row["model_id"]: ModelDocument(row, [], [], []) for row in rows}
    ids = list(found)
    for start in range(0, len(ids), IDS_MAX):
        chunk = ids[start : start + IDS_MAX]
        for param in _of_models(connection, logged_model_params, chunk):
            found[param["model_id"]].params.append((param["key"], param["value"]))
        for tag in _of_models(connection, logged_model_tags, chunk):
            found[tag["model_id"]].tags.append((tag["key"], tag["value"]))
        for metric in _of_models(connection, logged_model_metrics, chunk):
            found[metric["model_id"]].metrics.append(metric)
    return [found[row["model_id"]] for row in rows]


def _of_models(connection: sa.Connection, table: sa.Table, model_ids: list[str]) -> Iterator[Row]:
    statement = sa.select(table).where(table.c.model_id.in_(model_ids))
    for row in connection.execute(statement.order_by(*table.primary_key.columns)):
        yield dict(row._mapping)
