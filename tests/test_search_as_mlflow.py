"""Searches find what mlflow's own SQL store finds in the same rows, in the same order."""

import random
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from projections.experiments import SEARCH as EXPERIMENT_SEARCH
from projections.experiments import experiments as experiment_table
from projections.filter_language import (
    EXPERIMENTS,
    LOGGED_MODELS,
    parse_filter,
    parse_logged_model_order_by,
    parse_order_by,
)
from projections.lifecycle import ACTIVE
from projections.logged_models import logged_models
from projections.model_documents import MODEL_SEARCH
from projections.opened_views import open_views
from projections.page_tokens import Position
from projections.search import Among, Dataset, Page, in_view, search
from tests.backends import fresh_database
from tests.mlflow_rows import MlflowStore
from tests.search_data import (
    DIRECTION,
    IN,
    LIMITS,
    METRIC,
    METRIC_VALUES,
    NULLITY,
    NUMERIC,
    PARAM,
    PLANS,
    QUOTED,
    TAG,
    TEXTUAL,
    TIME_VALUES,
    VIEWS,
    all_pages,
    empty_database,
    filters,
    find_runs,
    joined,
    lists_of,
    made_up_experiments,
    made_up_model,
    made_up_run,
    planned,
    run_clauses,
    run_orders,
)
from tests.search_rows import put_experiment, put_model, put_run

pytestmark = pytest.mark.services

Found = tuple[sa.Connection, MlflowStore]


@pytest.fixture(scope="module", params=("sqlite", "postgresql", "mariadb"))
def engine(request: pytest.FixtureRequest) -> Iterator[sa.Engine]:
    """Each kind of database, with empty tables."""
    if request.param == "sqlite":
        made = empty_database()
        yield made
        made.dispose()
        return
    for uri in fresh_database(request.getfixturevalue(request.param)):
        views = open_views(uri, "searches")
        views.create()
        with views.read() as connection:
            yield connection.engine
        views.close()


@pytest.fixture(scope="module")
def both(engine: sa.Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Found]:
    """The same experiments, runs and models in our tables and in mlflow's."""
    rng = random.Random(20)
    experiments = made_up_experiments(rng)
    runs = [made_up_run(rng, f"{rng.getrandbits(64):016x}") for _ in range(90)]
    run_ids = [run.run_id for run in runs]
    models = [made_up_model(rng, f"m-{number:x}", run_ids) for number in range(60)]
    store = MlflowStore(tmp_path_factory.mktemp("mlflow"))
    store.put(experiments, runs, models)
    with engine.connect() as connection:
        for experiment in [store.default_experiment(), *experiments]:
            put_experiment(connection, experiment)
        for run in runs:
            put_run(connection, run)
        for model in models:
            put_model(connection, model)
        yield connection, store
    store.close()


@settings(max_examples=250, deadline=None)
@given(
    text=filters(run_clauses),
    order=run_orders,
    view=st.sampled_from(VIEWS),
    experiment_ids=st.sampled_from([["1"], ["10", "2"], ["1", "2", "10"], ["7"], []]),
    limit=LIMITS,
    plan=PLANS,
)
def test_runs_are_those_of_mlflow_in_its_order(
    both: Found,
    text: str,
    order: tuple[str, ...],
    view: str,
    experiment_ids: list[str],
    limit: int,
    plan: tuple[int, int],
) -> None:
    """Whatever is asked, mlflow's SQL store answers with the same runs in the same order."""
    connection, store = both
    with planned(plan):
        found = find_runs(connection, experiment_ids, text, view, order, limit)
    assert found == store.runs(experiment_ids, text, view, order)


experiment_clauses = st.one_of(
    joined(
        "name", TEXTUAL, st.sampled_from(["'a%'", "'%-1%'", "'A_-__'", "'[a]%'", "'É%'", "'x'"])
    ),
    joined("experiment_id", st.sampled_from(["=", "!="]), st.sampled_from(["'1'", "'010'"])),
    joined("experiment_id", IN, lists_of(["1", "2", "10", "99"])),
    joined(
        st.sampled_from(["creation_time", "last_update_time"]),
        NUMERIC,
        st.sampled_from(["-1", "0", "2", "4503599627370497"]),
    ),
    joined(TAG, TEXTUAL, QUOTED),
    joined(TAG, NULLITY),
)
experiment_orders = st.lists(
    st.sampled_from(["name", "experiment_id", "creation_time", "last_update_time"]),
    max_size=3,
    unique=True,
).flatmap(lambda keys: st.tuples(*(DIRECTION.map(key.__add__) for key in keys)))


@settings(max_examples=150, deadline=None)
@given(
    text=filters(experiment_clauses),
    order=experiment_orders,
    view=st.sampled_from(VIEWS),
    limit=LIMITS,
)
def test_experiments_are_those_of_mlflow_in_its_order(
    both: Found, text: str, order: tuple[str, ...], view: str, limit: int
) -> None:
    """Whatever is asked, mlflow's SQL store answers with the same experiments in the same order."""
    connection, store = both
    clauses, keys = parse_filter(EXPERIMENTS, text), parse_order_by(EXPERIMENTS, order)
    scope = [in_view(experiment_table.c.lifecycle_stage, view)]

    def page_after(after: Position | None) -> Page:
        return search(
            connection,
            EXPERIMENT_SEARCH,
            clauses=clauses,
            order_by=keys,
            scope=scope,
            limit=limit,
            after=after,
        )

    assert all_pages(page_after, limit) == store.experiments(text, view, order)


model_clauses = st.one_of(
    joined(METRIC, NUMERIC, METRIC_VALUES),
    joined(PARAM | TAG, TEXTUAL, QUOTED.filter(lambda text: text[0] == "'")),
    joined(PARAM | TAG, IN, lists_of(["a", "A", "0.1"])),
    joined("name", TEXTUAL, st.sampled_from(["'a'", "'a%'", "'A%'"])),
    joined("model_id", IN, lists_of(["m-1", "m-2", "m-30"])),
    joined("model_type", TEXTUAL, st.sampled_from(["'agent'", "'A%'"])),
    joined("source_run_id", TEXTUAL, st.sampled_from(["'%a%'", "'x'"])),
    joined("artifact_location", TEXTUAL, st.sampled_from(["'s3://a'", "'S3%'"])),
    joined("experiment_id", st.just("="), st.sampled_from(["'1'", "'2'"])),
    joined(
        st.sampled_from(["creation_timestamp", "creation_time", "last_updated_timestamp"]),
        NUMERIC,
        TIME_VALUES,
    ),
)
_DATASETS = st.sampled_from(
    [
        {"dataset_name": "d"},
        {"dataset_name": "d", "dataset_digest": "2"},
        {"dataset_name": "e", "dataset_digest": "1"},
        {"dataset_name": "none"},
    ]
)
_MODEL_FIELDS = [
    "name",
    "model_id",
    "model_type",
    "status",
    "source_run_id",
    "experiment_id",
    "artifact_location",
    "creation_time",
]
_MODEL_ORDER = st.builds(
    lambda name, ascending, on: {"field_name": name, "ascending": ascending, **on},
    st.sampled_from([*_MODEL_FIELDS, "last_updated_timestamp", "metrics.m", "metrics.n o"]),
    st.booleans(),
    st.just({}) | _DATASETS,
)
model_orders = st.lists(_MODEL_ORDER, max_size=2, unique_by=lambda item: item["field_name"])


@settings(max_examples=200, deadline=None)
@given(
    text=filters(model_clauses),
    order=model_orders,
    datasets=st.lists(_DATASETS, max_size=2),
    experiment_ids=st.sampled_from([["1"], ["10", "2"], ["1", "2", "10"], ["7"]]),
    limit=LIMITS,
)
def test_logged_models_are_those_of_mlflow_in_its_order(
    both: Found,
    text: str,
    order: list[dict[str, Any]],
    datasets: list[dict[str, str]],
    experiment_ids: list[str],
    limit: int,
) -> None:
    """Whatever is asked, mlflow's SQL store answers with the same models in the same order."""
    connection, store = both
    clauses, keys = parse_filter(LOGGED_MODELS, text), parse_logged_model_order_by(order)
    given_datasets = [Dataset(d["dataset_name"], d.get("dataset_digest")) for d in datasets]
    scope = [
        Among(logged_models.c.experiment_id, tuple(experiment_ids)),
        Among(logged_models.c.lifecycle_stage, (ACTIVE,)),
    ]

    def page_after(after: Position | None) -> Page:
        return search(
            connection,
            MODEL_SEARCH,
            clauses=clauses,
            order_by=keys,
            scope=scope,
            datasets=given_datasets,
            limit=limit,
            after=after,
        )

    found = all_pages(page_after, limit)
    assert found == store.models(experiment_ids, text, order, datasets)
