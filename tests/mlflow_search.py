"""What mlflow's own server makes of a filter or an order, in Runfold's words.

Its answer is taken from its parser together with the code of its SQL store that checks what was
parsed, because only both together decide what its server accepts.
"""

import dataclasses
import warnings
from typing import Any

from sqlalchemy.orm import Session

from projections.filter_language import Clause, OrderBy

with warnings.catch_warnings():
    # mlflow's own use of SQLAlchemy is deprecated; that is no fault of ours to fail for.
    warnings.simplefilter("ignore")
    from mlflow.exceptions import MlflowException
    from mlflow.store.tracking import sqlalchemy_store
    from mlflow.store.tracking.dbmodels.models import SqlLoggedModel
    from mlflow.utils.search_logged_model_utils import parse_filter_string
    from mlflow.utils.search_utils import (
        SearchExperimentsUtils,
        SearchLoggedModelsUtils,
        SearchUtils,
    )

__all__ = ["MlflowException"]


def mlflow_runs(text: str) -> list[Clause]:
    """What mlflow's store makes of a filter of runs."""
    parsed = SearchUtils.parse_search_filter(text)
    sqlalchemy_store._get_sqlalchemy_filter_clauses(parsed, Session(), "sqlite")
    return [_as_clause(item) for item in parsed]


def mlflow_experiments(text: str) -> list[Clause]:
    """What mlflow's store makes of a filter of experiments."""
    parsed = SearchExperimentsUtils.parse_search_filter(text)
    sqlalchemy_store._get_search_experiments_filter_clauses(parsed, "sqlite")
    return [_with_ids(_as_clause(item)) for item in parsed]


def mlflow_models(text: str) -> list[Clause]:
    """What mlflow's store makes of a filter of logged models."""
    clauses = []
    for item in parse_filter_string(text):
        kind = {"attributes": "attribute", "metrics": "metric", "params": "param", "tags": "tag"}[
            item.entity.type.value
        ]
        if kind == "attribute":
            getattr(SqlLoggedModel, item.entity.key)
        key = item.entity.key.removesuffix("_ms") if kind == "attribute" else item.entity.key
        clauses.append(Clause(kind, key, item.op, item.value))  # type: ignore[arg-type]
    return clauses


def _as_clause(item: dict[str, Any]) -> Clause:
    kind = {"parameter": "param"}.get(item["type"], item["type"])
    key = SearchUtils.translate_key_alias(item["key"]) if kind == "attribute" else item["key"]
    value = float(item["value"]) if kind == "metric" else item["value"]
    return Clause(kind, key, item["comparator"].upper(), value)


def _with_ids(clause: Clause) -> Clause:
    """The store turns ids into integers; Runfold's are the text of the same integers."""
    if clause.key != "experiment_id" or clause.kind != "attribute":
        return clause
    if isinstance(clause.value, tuple):
        return dataclasses.replace(clause, value=tuple(str(int(item)) for item in clause.value))
    return dataclasses.replace(clause, value=str(int(str(clause.value))))


def mlflow_run_order(text: str) -> list[OrderBy]:
    """What mlflow's store makes of one order of runs."""
    sqlalchemy_store._get_orderby_clauses([text], Session())
    kind, key, ascending = SearchUtils.parse_order_by_for_search_runs(text)
    kind = {"parameter": "param"}.get(kind, kind)
    key = SearchUtils.translate_key_alias(key) if kind == "attribute" else key
    return [OrderBy(kind, key, ascending)]


def mlflow_experiment_order(text: str) -> list[OrderBy]:
    """What mlflow's store makes of one order of experiments."""
    sqlalchemy_store._get_search_experiments_order_by_clauses([text])
    return [OrderBy(*SearchExperimentsUtils.parse_order_by_for_search_experiments(text))]


def mlflow_model_order(item: dict[str, object]) -> list[OrderBy]:
    """What mlflow makes of one order of logged models."""
    read = SearchLoggedModelsUtils.parse_order_by_for_logged_models(item)
    if read.field_name.startswith("metrics."):
        key = read.field_name.removeprefix("metrics.")
        return [OrderBy("metric", key, read.ascending, read.dataset_name, read.dataset_digest)]
    return [OrderBy("attribute", read.field_name, read.ascending)]
