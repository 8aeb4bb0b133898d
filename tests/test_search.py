"""Searches: the rows that a filter finds, their order, and pages that fit together."""

import contextlib
import math
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pysqlite3.dbapi2
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from events.errors import InvalidParameterValue
from projections import search_plan
from projections.filter_language import (
    EXPERIMENTS,
    LOGGED_MODELS,
    RUNS,
    OrderBy,
    parse_filter,
    parse_logged_model_order_by,
    parse_order_by,
)
from projections.page_tokens import Position
from projections.search import Dataset, Page, in_view, search
from tests import search_tables as tables
from tests.mlflow_rows import MlflowStore
from tests.search_tables import (
    EXPERIMENT_SEARCH,
    MODEL_SEARCH,
    RUN_SEARCH,
    Experiment,
    Input,
    Model,
    ModelMetric,
    Run,
)

INF, NAN = math.inf, math.nan
TEXTS = ["", "a", "A", "ab", "aB", "b%", "a_c", "*", "[a]", "?", "é", "É", "日本", "0.1", "a\\b"]
NUMBERS = [-INF, -1.5, 0.0, 0.5, 1.0, 2.0, 1e300, INF, NAN]
TIMES = [-1, 0, 1, 2, 2**52 + 1]
VIEWS = ["ACTIVE_ONLY", "DELETED_ONLY", "ALL"]
EXPERIMENT_IDS = ["1", "2", "10"]


def made_up_experiments(rng: random.Random) -> list[Experiment]:
    """Experiments whose times often tie, and whose ids sort otherwise as texts."""
    return [
        Experiment(
            experiment_id=str(number),
            name=f"{rng.choice(TEXTS)}-{number}",
            lifecycle_stage=rng.choice(["active", "active", "deleted"]),
            creation_time=rng.choice(TIMES),
            last_update_time=rng.choice(TIMES),
            tags=some(rng, ["t", "u v"], TEXTS),
        )
        for number in range(1, 25)
    ]


def some(rng: random.Random, keys: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
    """Some of these keys, each with one of these values."""
    return {key: rng.choice(values) for key in keys if rng.random() < 0.6}


def made_up_run(rng: random.Random, run_id: str) -> Run:
    """A run whose values are often those of another, or absent."""
    names = some(rng, ["mlflow.runName"], TEXTS)
    read = [(name, digest) for name in ("d", "D", "e%") for digest in ("1", "2")]
    return Run(
        run_id=run_id,
        experiment_id=rng.choice(EXPERIMENT_IDS),
        name=names.get("mlflow.runName", rng.choice(TEXTS)),
        user_id=rng.choice(["", "ada", "eve"]),
        status=rng.choice(["RUNNING", "FINISHED", "FAILED"]),
        start_time=rng.choice(TIMES),
        end_time=rng.choice([None, *TIMES]),
        lifecycle_stage=rng.choice(["active", "active", "deleted"]),
        artifact_uri=rng.choice(["s3://a", "S3://a"]),
        metrics=some(rng, ["m", "n o"], NUMBERS),
        params=some(rng, ["p", "q"], TEXTS),
        tags=names | some(rng, ["t", "u v"], TEXTS),
        inputs=[
            Input(name, digest, rng.choice([None, "train", "Train", "eval"]))
            for name, digest in rng.sample(read, rng.choice([0, 0, 1, 2]))
        ],
    )


def made_up_model(rng: random.Random, model_id: str, run_ids: Sequence[str]) -> Model:
    """A logged model that was measured several times, on datasets and without."""
    measured = {
        (key, rng.choice(TIMES), rng.choice([0, 1]), rng.choice(run_ids))
        for key in ("m", "n o")
        for _ in range(rng.choice([0, 1, 2, 3]))
    }
    on = [(None, None), ("d", "1"), ("d", "2"), ("e", "1")]
    return Model(
        model_id=model_id,
        experiment_id=rng.choice(EXPERIMENT_IDS),
        name=rng.choice(TEXTS),
        artifact_location=rng.choice(["s3://a", "S3://a"]),
        creation_timestamp=rng.choice(TIMES),
        last_updated_timestamp=rng.choice(TIMES),
        model_type=rng.choice([None, "agent", "Agent"]),
        source_run_id=rng.choice([None, *run_ids[:3]]),
        metrics=[
            ModelMetric(*point, rng.choice(NUMBERS[:-1]), *rng.choice(on))
            for point in sorted(measured)
        ],
        params=some(rng, ["p", "q"], TEXTS),
        tags=some(rng, ["t", "u v"], TEXTS),
    )


def empty_database() -> sa.Engine:
    """The tables, empty, in memory."""
    engine = sa.create_engine("sqlite://", module=pysqlite3.dbapi2)
    tables.metadata.create_all(engine)
    return engine


Found = tuple[sa.Connection, MlflowStore]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Found]:
    """The same experiments, runs and models in our tables and in mlflow's."""
    rng = random.Random(20)
    experiments = made_up_experiments(rng)
    runs = [made_up_run(rng, f"{rng.getrandbits(64):016x}") for _ in range(90)]
    run_ids = [run.run_id for run in runs]
    models = [made_up_model(rng, f"m-{number:x}", run_ids) for number in range(60)]
    engine = empty_database()
    store = MlflowStore(tmp_path_factory.mktemp("mlflow"))
    store.put(experiments, runs, models)
    with engine.connect() as connection:
        for experiment in [store.default_experiment(), *experiments]:
            tables.put_experiment(connection, experiment)
        for run in runs:
            tables.put_run(connection, run)
        for model in models:
            tables.put_model(connection, model)
        yield connection, store
    store.close()
    engine.dispose()


def all_pages(page_after: Callable[[Position | None], Page], limit: int) -> list[str]:
    """The ids of page after page, to the end."""
    ids: list[str] = []
    after: Position | None = None
    while True:
        page = page_after(after)
        ids += page.ids
        after = page.next_after
        if after is None:
            return ids
        assert len(page.ids) == limit


def find_runs(
    connection: sa.Connection,
    experiment_ids: Sequence[str],
    text: str,
    view: str,
    order: Sequence[str],
    limit: int,
) -> list[str]:
    """The ids of runs, fetched in pages of this size."""
    scope = [
        tables.runs.c.experiment_id.in_(list(experiment_ids)),
        in_view(tables.runs.c.lifecycle_stage, view),
    ]
    clauses, keys = parse_filter(RUNS, text), parse_order_by(RUNS, order)

    def page_after(after: Position | None) -> Page:
        return search(
            connection,
            RUN_SEARCH,
            clauses=clauses,
            order_by=keys,
            scope=scope,
            limit=limit,
            after=after,
        )

    return all_pages(page_after, limit)


_QUOTED = st.sampled_from(
    [
        "'a'",
        '"ab"',
        "''",
        "'A%'",
        "'%b%'",
        "'a_c'",
        "'*'",
        "'[a]'",
        "'?'",
        "'É'",
        "'_'",
        "'%'",
        "'日%'",
        "'0.1'",
        "'a\\b'",
        "'%\\%'",
        "'b%'",
    ]
)
_TEXTUAL = st.sampled_from(["=", "!=", "LIKE", "ILIKE"])
_NUMERIC = st.sampled_from(["=", "!=", "<", "<=", ">", ">="])
_METRIC_VALUES = st.sampled_from(
    [
        "0",
        "0.5",
        "1",
        "-1.5",
        "2",
        "1e300",
        "1.7976931348623157e308",
        "-1.7976931348623157e308",
        "1e999",
        "-1e999",
    ]
)


def _joined(*parts: Any) -> st.SearchStrategy[str]:
    strategies = [st.just(part) if isinstance(part, str) else part for part in parts]
    return st.tuples(*strategies).map(" ".join)


def _lists(values: Sequence[str]) -> st.SearchStrategy[str]:
    several = st.lists(st.sampled_from(values), min_size=1, max_size=3)
    return several.map(lambda items: "(" + ", ".join(f"'{item}'" for item in items) + ")")


_METRIC = st.sampled_from(["metrics.m", "metrics.`n o`", "metrics.none"])
_PARAM = st.sampled_from(["params.p", "params.q", "params.none"])
_TAG = st.sampled_from(["tags.t", "tags.`u v`", "tags.none"])
_TIME_VALUES = st.sampled_from(["-1", "0", "1", "2", "4503599627370497", "0.5", "1e3"])
_NULLITY = st.sampled_from(["IS NULL", "IS NOT NULL"])
_IN = st.sampled_from(["IN", "NOT IN"])

run_clauses = st.one_of(
    _joined(_METRIC, _NUMERIC, _METRIC_VALUES),
    _joined(_PARAM | _TAG, _TEXTUAL, _QUOTED),
    _joined(_PARAM | _TAG, _NULLITY),
    _joined(st.sampled_from(["start_time", "end_time", "created"]), _NUMERIC, _TIME_VALUES),
    _joined("status", _TEXTUAL, st.sampled_from(["'RUNNING'", "'F%'", "'failed'", "'r%'"])),
    _joined("user_id", _TEXTUAL, st.sampled_from(["'ada'", "'%A'", "'e%'"])),
    _joined("artifact_uri", _TEXTUAL, st.sampled_from(["'s3://a'", "'S3%'"])),
    _joined("run_name", _TEXTUAL, _QUOTED),
    _joined("run_id", _TEXTUAL, st.sampled_from(["'%a%'", "'1%'", "'x'"])),
    _joined("run_id", _IN, _lists(["x", "y"])),
    _joined("dataset.name", _TEXTUAL, st.sampled_from(["'d'", "'D'", "'e%'", "'%'"])),
    _joined("dataset.digest", _TEXTUAL, st.sampled_from(["'1'", "'2'"])),
    _joined("dataset.context", _TEXTUAL, st.sampled_from(["'train'", "'T%'", "'eval'"])),
    _joined("dataset.name", _IN, _lists(["d", "D", "x"])),
    _joined("dataset.context", _IN, _lists(["train", "eval"])),
)
_DIRECTION = st.sampled_from(["", " ASC", " DESC"])
run_orders = st.lists(
    st.sampled_from(
        [
            "start_time",
            "end_time",
            "status",
            "run_name",
            "user_id",
            "run_id",
            "artifact_uri",
            "metrics.m",
            "metrics.`n o`",
            "metrics.none",
            "params.p",
            "params.q",
            "tags.t",
            "tags.`u v`",
            "params.none",
        ]
    ),
    max_size=3,
    unique=True,
).flatmap(lambda keys: st.tuples(*(_DIRECTION.map(key.__add__) for key in keys)))


def _filters(clauses: st.SearchStrategy[str], most: int = 2) -> st.SearchStrategy[str]:
    return st.lists(clauses, max_size=most).map(" AND ".join)


LIMITS = st.sampled_from([1, 2, 3, 7, 1000])

PLANS = st.sampled_from([(2000, 500), (3, 2), (3, 1), (30, 1000), (0, 1)])
"""How many rows are counted and walked over: few here, so that few runs can reach every plan."""


@contextlib.contextmanager
def planned(plan: tuple[int, int]) -> Iterator[None]:
    """Searches in here are planned after so many counted and walked rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search_plan, "COUNTED_MAX", plan[0])
        patch.setattr(search_plan, "WALKED_MAX", plan[1])
        yield


@settings(max_examples=250, deadline=None)
@given(
    text=_filters(run_clauses),
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
    _joined(
        "name", _TEXTUAL, st.sampled_from(["'a%'", "'%-1%'", "'A_-__'", "'[a]%'", "'É%'", "'x'"])
    ),
    _joined("experiment_id", st.sampled_from(["=", "!="]), st.sampled_from(["'1'", "'010'"])),
    _joined("experiment_id", _IN, _lists(["1", "2", "10", "99"])),
    _joined(
        st.sampled_from(["creation_time", "last_update_time"]),
        _NUMERIC,
        st.sampled_from(["-1", "0", "2", "4503599627370497"]),
    ),
    _joined(_TAG, _TEXTUAL, _QUOTED),
    _joined(_TAG, _NULLITY),
)
experiment_orders = st.lists(
    st.sampled_from(["name", "experiment_id", "creation_time", "last_update_time"]),
    max_size=3,
    unique=True,
).flatmap(lambda keys: st.tuples(*(_DIRECTION.map(key.__add__) for key in keys)))


@settings(max_examples=150, deadline=None)
@given(
    text=_filters(experiment_clauses),
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
    scope = [in_view(tables.experiments.c.lifecycle_stage, view)]

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
    _joined(_METRIC, _NUMERIC, _METRIC_VALUES),
    _joined(_PARAM | _TAG, _TEXTUAL, _QUOTED.filter(lambda text: text[0] == "'")),
    _joined(_PARAM | _TAG, _IN, _lists(["a", "A", "0.1"])),
    _joined("name", _TEXTUAL, st.sampled_from(["'a'", "'a%'", "'A%'"])),
    _joined("model_id", _IN, _lists(["m-1", "m-2", "m-30"])),
    _joined("model_type", _TEXTUAL, st.sampled_from(["'agent'", "'A%'"])),
    _joined("source_run_id", _TEXTUAL, st.sampled_from(["'%a%'", "'x'"])),
    _joined("artifact_location", _TEXTUAL, st.sampled_from(["'s3://a'", "'S3%'"])),
    _joined("experiment_id", st.just("="), st.sampled_from(["'1'", "'2'"])),
    _joined(
        st.sampled_from(["creation_timestamp", "creation_time", "last_updated_timestamp"]),
        _NUMERIC,
        _TIME_VALUES,
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
_MODEL_FIELDS = ["name", "model_id", "model_type", "source_run_id", "creation_time"]
_MODEL_ORDER = st.builds(
    lambda name, ascending, on: {"field_name": name, "ascending": ascending, **on},
    st.sampled_from([*_MODEL_FIELDS, "last_updated_timestamp", "metrics.m", "metrics.n o"]),
    st.booleans(),
    st.just({}) | _DATASETS,
)
model_orders = st.lists(_MODEL_ORDER, max_size=2, unique_by=lambda item: item["field_name"])


@settings(max_examples=200, deadline=None)
@given(
    text=_filters(model_clauses),
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
    scope = [tables.models.c.experiment_id.in_(experiment_ids)]

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


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    order=run_orders,
    text=_filters(run_clauses, 1),
    limit=st.integers(1, 6),
    plan=PLANS,
)
def test_pages_stay_whole_while_runs_come_and_go(
    seed: int, order: tuple[str, ...], text: str, limit: int, plan: tuple[int, int]
) -> None:
    """A run that is there all the time is on one page exactly, whatever is added and removed."""
    rng = random.Random(seed)
    clauses, keys = parse_filter(RUNS, text), parse_order_by(RUNS, order)
    engine = empty_database()
    with planned(plan), engine.connect() as connection:
        there = [f"r{number:02}" for number in range(20)]
        for run_id in there:
            tables.put_run(connection, made_up_run(rng, run_id))

        def page_after(after: Position | None, limit: int = limit) -> Page:
            return search(
                connection, RUN_SEARCH, clauses=clauses, order_by=keys, limit=limit, after=after
            )

        before = page_after(None, 1000).ids
        removed: set[str] = set()
        found: list[str] = []
        page = page_after(None)
        for step in range(1000):
            found += page.ids
            if page.next_after is None:
                break
            victim = rng.choice(there)
            removed.add(victim)
            tables.remove_run(connection, victim)
            if step < 30:
                tables.put_run(connection, made_up_run(rng, f"s{rng.getrandbits(32):08x}"))
            page = page_after(page.next_after)
        stayed = [run_id for run_id in before if run_id not in removed]
        assert [run_id for run_id in found if run_id in stayed] == stayed
        assert len(found) == len(set(found))
    engine.dispose()


def test_missing_metrics_come_last_and_nan_before_them() -> None:
    """Numbers first, infinities at their ends, then NaN, then nothing, in both directions."""
    engine = empty_database()
    with engine.connect() as connection:
        values = {"a": 1.0, "b": NAN, "d": INF, "e": -INF, "f": 0.0}
        for run_id, value in values.items():
            tables.put_run(connection, Run(run_id, metrics={"m": value}))
        tables.put_run(connection, Run("c"))
        assert find_runs(connection, ["1"], "", "ALL", ["metrics.m"], 2) == list("efadbc")
        assert find_runs(connection, ["1"], "", "ALL", ["metrics.m DESC"], 2) == list("dafebc")
    engine.dispose()


def test_a_page_holds_the_rows_of_the_main_table() -> None:
    """A page has every column of its rows, so that they need not be read again."""
    engine = empty_database()
    with engine.connect() as connection:
        tables.put_run(connection, Run("a", name="first", start_time=5, metrics={"m": 1.0}))
        page = search(
            connection,
            RUN_SEARCH,
            clauses=parse_filter(RUNS, "metrics.m = 1"),
            order_by=parse_order_by(RUNS, ["params.p"]),
            limit=10,
        )
        assert page.ids == ["a"]
        assert page.next_after is None
        assert page.rows[0]["name"] == "first"
        assert set(page.rows[0]) == set(tables.runs.columns.keys())
    engine.dispose()


def test_a_full_search_of_every_clause_is_answered() -> None:
    """Fifty clauses, twenty keys and a thousand listed ids are one statement that SQLite takes."""
    engine = empty_database()
    with engine.connect() as connection:
        tables.put_run(connection, Run("x7", params={"p": "a"}))
        ids = ", ".join(f"'x{number}'" for number in range(1000))
        text = " AND ".join(["params.p = 'a'"] * 49 + [f"run_id IN ({ids})"])
        order = [f"metrics.m{number} DESC" for number in range(20)]
        assert find_runs(connection, ["1"], text, "ALL", order, 1) == ["x7"]
    engine.dispose()


def test_an_unknown_view_type_is_refused() -> None:
    """L-92: a view type that is none is a bad value; an absent one is ACTIVE_ONLY."""
    column = tables.runs.c.lifecycle_stage
    with pytest.raises(InvalidParameterValue, match="ACTIVE_ONLY, DELETED_ONLY, ALL"):
        in_view(column, "BOGUS")
    assert in_view(column, "").compare(in_view(column, "ACTIVE_ONLY"))


def test_a_position_of_another_order_is_refused() -> None:
    """A position with another number of keys than the order has is a bad value."""
    engine = empty_database()
    with (
        engine.connect() as connection,
        pytest.raises(InvalidParameterValue, match="another order"),
    ):
        search(
            connection,
            RUN_SEARCH,
            clauses=(),
            order_by=[OrderBy("metric", "m")],
            limit=1,
            after=(0, "x"),
        )
    engine.dispose()


@pytest.fixture(scope="module")
def many() -> Iterator[sa.Connection]:
    """Three thousand runs of one experiment, and ten of another with a metric of the same name."""
    engine = empty_database()
    with engine.connect() as connection:
        ids = [f"r{number:04}" for number in range(3000)]
        few = set(ids[:10])
        connection.execute(
            sa.insert(tables.runs),
            [
                tables.columns_of(tables.runs, Run(run_id, "2" if run_id in few else "1"))
                for run_id in ids
            ],
        )
        connection.execute(
            sa.insert(tables.latest_metrics),
            [
                {"run_id": run_id, "key": "m", "value": number, "is_nan": False}
                for number, run_id in enumerate(ids)
            ],
        )
        connection.execute(
            sa.insert(tables.params),
            [{"run_id": run_id, "key": "p", "value": run_id[1:2]} for run_id in ids],
        )
        yield connection
    engine.dispose()


@pytest.mark.parametrize(
    ("experiment_id", "text", "order", "starts_at"),
    [
        ("1", "metrics.m > 2990", [], "metric"),
        ("1", "metrics.m > 10", [], "run"),
        ("1", "metrics.m > 10 AND params.p = '3'", [], "param"),
        ("1", "metrics.m != 10", [], "run"),
        ("1", "params.p LIKE '3'", [], "run"),
        ("1", "", ["metrics.m DESC"], "walk"),
        ("1", "metrics.m < 2990", ["metrics.m DESC"], "walk"),
        ("1", "metrics.m < 20", ["metrics.m DESC"], "metric"),
        ("1", "params.p != '9'", ["metrics.m"], "walk"),
        ("1", "", ["params.p"], "run"),
        ("2", "", ["metrics.m DESC"], "run"),
        ("2", "metrics.m < 2990", ["metrics.m DESC"], "run"),
    ],
)
def test_a_search_starts_where_few_rows_are(
    many: sa.Connection, experiment_id: str, text: str, order: list[str], starts_at: str
) -> None:
    """A clause that few rows fulfil, the metric to sort by, or the runs: whatever is least."""
    plan = search_plan.plan_search(
        many,
        RUN_SEARCH,
        parse_filter(RUNS, text),
        parse_order_by(RUNS, order),
        [tables.runs.c.experiment_id == experiment_id],
        100,
    )
    starts = plan.driver.clause.kind if plan.driver else "walk" if plan.walk else "run"
    assert starts == starts_at


def test_a_walk_goes_on_with_the_rows_that_have_no_number(many: sa.Connection) -> None:
    """Page after page along a metric's index gives every run once, also those without a value."""
    for run_id in ("x1", "x2"):
        tables.put_run(many, Run(run_id, metrics={"m": NAN} if run_id == "x2" else {}))
    found = find_runs(many, ["1"], "", "ALL", ["metrics.m"], 400)
    assert found == [f"r{number:04}" for number in range(10, 3000)] + ["x2", "x1"]
