"""Made-up experiments, runs and models, searches for them, and ways to run a search in pages."""

import contextlib
import math
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pysqlite3.dbapi2
import pytest
import sqlalchemy as sa
from hypothesis import strategies as st

from projections import catalog, search_plan
from projections.filter_language import RUNS, parse_filter, parse_order_by
from projections.page_tokens import Position
from projections.run_documents import RUN_SEARCH
from projections.runs import runs
from projections.schema import metadata
from projections.search import Among, Page, in_view, search
from tests.search_rows import Experiment, Input, Model, ModelMetric, Run

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
        status=rng.choice(["PENDING", "READY", "FAILED"]),
        lifecycle_stage=rng.choice(["active", "active", "active", "deleted"]),
        # What a request does not name is empty text for both servers.
        model_type=rng.choice(["", "agent", "Agent"]),
        source_run_id=rng.choice(["", *run_ids[:3]]),
        metrics=[
            ModelMetric(*point, rng.choice(NUMBERS[:-1]), *rng.choice(on))
            for point in sorted(measured)
        ],
        params=some(rng, ["p", "q"], TEXTS),
        tags=some(rng, ["t", "u v"], TEXTS),
    )


def empty_database() -> sa.Engine:
    """The tables of every view, empty, in memory."""
    engine = sa.create_engine("sqlite://", module=pysqlite3.dbapi2)
    for view in catalog.VIEWS:
        metadata.create_all(engine, tables=view.tables)
    return engine


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
        Among(runs.c.experiment_id, tuple(experiment_ids)),
        in_view(runs.c.lifecycle_stage, view),
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


QUOTED = st.sampled_from(
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
TEXTUAL = st.sampled_from(["=", "!=", "LIKE", "ILIKE"])
NUMERIC = st.sampled_from(["=", "!=", "<", "<=", ">", ">="])
METRIC_VALUES = st.sampled_from(
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


def joined(*parts: Any) -> st.SearchStrategy[str]:
    strategies = [st.just(part) if isinstance(part, str) else part for part in parts]
    return st.tuples(*strategies).map(" ".join)


def lists_of(values: Sequence[str]) -> st.SearchStrategy[str]:
    several = st.lists(st.sampled_from(values), min_size=1, max_size=3)
    return several.map(lambda items: "(" + ", ".join(f"'{item}'" for item in items) + ")")


METRIC = st.sampled_from(["metrics.m", "metrics.`n o`", "metrics.none"])
PARAM = st.sampled_from(["params.p", "params.q", "params.none"])
TAG = st.sampled_from(["tags.t", "tags.`u v`", "tags.none"])
TIME_VALUES = st.sampled_from(["-1", "0", "1", "2", "4503599627370497", "0.5", "1e3"])
NULLITY = st.sampled_from(["IS NULL", "IS NOT NULL"])
IN = st.sampled_from(["IN", "NOT IN"])

run_clauses = st.one_of(
    joined(METRIC, NUMERIC, METRIC_VALUES),
    joined(PARAM | TAG, TEXTUAL, QUOTED),
    joined(PARAM | TAG, NULLITY),
    joined(st.sampled_from(["start_time", "end_time", "created"]), NUMERIC, TIME_VALUES),
    joined("status", TEXTUAL, st.sampled_from(["'RUNNING'", "'F%'", "'failed'", "'r%'"])),
    joined("user_id", TEXTUAL, st.sampled_from(["'ada'", "'%A'", "'e%'"])),
    joined("artifact_uri", TEXTUAL, st.sampled_from(["'s3://a'", "'S3%'"])),
    joined("run_name", TEXTUAL, QUOTED),
    joined("run_id", TEXTUAL, st.sampled_from(["'%a%'", "'1%'", "'x'"])),
    joined("run_id", IN, lists_of(["x", "y"])),
    joined("dataset.name", TEXTUAL, st.sampled_from(["'d'", "'D'", "'e%'", "'%'"])),
    joined("dataset.digest", TEXTUAL, st.sampled_from(["'1'", "'2'"])),
    joined("dataset.context", TEXTUAL, st.sampled_from(["'train'", "'T%'", "'eval'"])),
    joined("dataset.name", IN, lists_of(["d", "D", "x"])),
    joined("dataset.context", IN, lists_of(["train", "eval"])),
)
DIRECTION = st.sampled_from(["", " ASC", " DESC"])
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
).flatmap(lambda keys: st.tuples(*(DIRECTION.map(key.__add__) for key in keys)))


def filters(clauses: st.SearchStrategy[str], most: int = 2) -> st.SearchStrategy[str]:
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
