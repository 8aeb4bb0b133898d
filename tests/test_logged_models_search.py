"""Searching logged models: the rows and their order are those of mlflow's own SQL store."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from events.logged_models import (
    LOGGED_MODEL_CREATED,
    LOGGED_MODEL_DELETED,
    LoggedModelCreated,
    LoggedModelDeleted,
    ModelParam,
    ModelTag,
)
from events.metrics import POINTS_LOGGED, Point, block_of
from projections.model_documents import search_models
from projections.search import Dataset
from tests.folds import Folds

with warnings.catch_warnings():
    # mlflow's own use of SQLAlchemy is deprecated; that is no fault of ours to fail for.
    warnings.simplefilter("ignore")
    from mlflow.entities import LoggedModelParameter, LoggedModelTag, Metric, RunTag
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

# Name, type, params, tags, and points: (key, value, timestamp, step, dataset).
Measured = tuple[str, float, int, int, str | None]
MODELS: tuple[tuple[str, str, dict[str, str], dict[str, str], list[Measured]], ...] = (
    ("ash", "tree", {"depth": "3"}, {"stage": "test"}, [("acc", 0.9, 10, 1, None)]),
    ("Ash", "tree", {"depth": "10"}, {}, [("acc", 0.5, 10, 1, "iris"), ("acc", 0.95, 9, 5, None)]),
    ("birch", "", {}, {"stage": "prod"}, []),
    ("cedar", "net", {"a.b": "x"}, {"odd key": "z"}, [("acc", 0.7, 10, 1, "wine")]),
    ("deleted", "net", {"depth": "3"}, {"stage": "prod"}, [("acc", 0.8, 10, 1, "iris")]),
    ("elm", "net", {"depth": "3"}, {"stage": "prod"}, [("f/1", 2.0, 1, 1, None)]),
    (
        "fir_1",
        "tree%",
        {"depth": "é"},
        {"stage": ""},
        [("acc", -1.0, 10, 1, "iris"), ("acc", 3.0, 11, 0, "wine"), ("acc", 2.0, 11, 1, None)],
    ),
)

Search = Callable[..., list[str]]


@pytest.fixture(scope="module")
def ours() -> Search:
    """The names that Runfold finds, in its order."""
    folds = Folds()
    folds.experiment()
    folds.run()
    for number, (name, kind, params, tags, points) in enumerate(MODELS):
        created = LoggedModelCreated(
            "1",
            name,
            "uri",
            number,
            "run",
            kind,
            [ModelParam(key, value) for key, value in params.items()],
            [ModelTag(key, value) for key, value in tags.items()],
        )
        folds.given(LOGGED_MODEL_CREATED, f"m-{number}", created)
        given = [
            Point(key, value, timestamp, step, f"m-{number}", dataset, dataset and "d1")
            for key, value, timestamp, step, dataset in points
        ]
        folds.given(POINTS_LOGGED, "run", block_of(given))
    folds.given(LOGGED_MODEL_DELETED, "m-4", LoggedModelDeleted())

    def search(
        text: str, datasets: Sequence[tuple[str, str | None]], order: Sequence[Mapping[str, object]]
    ) -> list[str]:
        with folds.engine.connect() as connection:
            models, _ = search_models(
                connection,
                experiment_ids=["1"],
                filter_text=text,
                datasets=[Dataset(*dataset) for dataset in datasets],
                order_by=order,
                limit=100,
                after=None,
            )
        return [model.info["name"] for model in models]

    return search


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Search:
    """The names that mlflow's store finds, in its order."""
    folder: Path = tmp_path_factory.mktemp("store")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        store = SqlAlchemyStore(f"sqlite:///{folder / 'mlflow.db'}", str(folder / "artifacts"))
        experiment_id = store.create_experiment("search")
        run_id = store.create_run(experiment_id, "me", 1, [RunTag("t", "v")], "run").info.run_id
    ids = {}
    for name, kind, params, tags, points in MODELS:
        model = store.create_logged_model(
            experiment_id,
            name,
            run_id,
            [LoggedModelTag(key, value) for key, value in tags.items()],
            [LoggedModelParameter(key, value) for key, value in params.items()],
            kind,
        )
        ids[name] = model.model_id
        for key, value, timestamp, step, dataset in points:
            metric = Metric(
                key, value, timestamp, step, model.model_id, dataset, dataset and "d1", run_id
            )
            store.log_batch(run_id, [metric], [], [])
    store.delete_logged_model(ids["deleted"])
    with store.ManagedSessionMaker(read_only=False) as session:
        # Creation times that no clock makes equal.
        for number, name in enumerate(ids):
            session.connection().exec_driver_sql(
                "UPDATE logged_models SET creation_timestamp_ms = ? WHERE name = ?", (number, name)
            )

    def search(
        text: str, datasets: Sequence[tuple[str, str | None]], order: Sequence[Mapping[str, object]]
    ) -> list[str]:
        asked: Any = [
            {"dataset_name": name, **({} if digest is None else {"dataset_digest": digest})}
            for name, digest in datasets
        ]
        found = store.search_logged_models(
            [experiment_id], text, asked or None, 100, [dict(item) for item in order] or None
        )
        return [model.name for model in found]

    return search


FILTERS = (
    "",
    "name = 'ash'",
    "name != 'ash'",
    "name LIKE 'a%'",
    "name ILIKE 'a%'",
    "name IN ('ash', 'elm', 'deleted')",
    "name NOT IN ('ash', 'elm')",
    "model_type = 'tree'",
    "model_type = ''",
    "model_type LIKE 'tree%'",
    "creation_timestamp >= 3",
    "creation_time < 2 AND model_type = 'tree'",
    "params.depth = '3'",
    "params.depth != '3'",
    "params.`a.b` = 'x'",
    "tags.stage = 'prod'",
    "tags.stage = ''",
    "tags.`odd key` LIKE 'z'",
    "metrics.acc > 0.6",
    "metrics.acc < 0",
    "metrics.`f/1` = 2",
    "metrics.acc > 0.6 AND metrics.acc < 1 AND tags.stage = 'test'",
    "lifecycle_stage = 'active'",
    "params.none = 'x'",
)
DATASETS: tuple[list[tuple[str, str | None]], ...] = (
    [],
    [("iris", None)],
    [("iris", "d1"), ("wine", "d1")],
    [("iris", "d2")],
    [("none", None)],
)
ORDERS: tuple[list[dict[str, object]], ...] = (
    [],
    [{"field_name": "name"}],
    [{"field_name": "name", "ascending": False}],
    [{"field_name": "model_type"}, {"field_name": "creation_timestamp"}],
    [{"field_name": "creation_time", "ascending": True}],
    [{"field_name": "metrics.acc"}],
    [{"field_name": "metrics.acc", "ascending": False}],
    [{"field_name": "metrics.acc", "dataset_name": "iris"}],
    [{"field_name": "metrics.acc", "ascending": False, "dataset_name": "wine"}],
    [{"field_name": "metrics.acc", "dataset_name": "iris", "dataset_digest": "d2"}],
    [{"field_name": "metrics.none"}, {"field_name": "lifecycle_stage"}],
)


@pytest.mark.parametrize("text", FILTERS)
def test_the_same_models_are_found(ours: Search, theirs: Search, text: str) -> None:
    """Each filter, alone and on each choice of datasets."""
    for datasets in DATASETS:
        assert ours(text, datasets, []) == theirs(text, datasets, [])


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_models_come_in_the_same_order(
    ours: Search, theirs: Search, order: list[dict[str, object]]
) -> None:
    """Each order; models without a value come last, the newest models first among equals."""
    assert ours("", [], order) == theirs("", [], order)
    assert ours("name != 'elm'", [], order) == theirs("name != 'elm'", [], order)
