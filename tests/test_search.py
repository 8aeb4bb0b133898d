"""Searches: pages that fit together, the order of missing values, and where a search starts."""

import random
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from events.errors import InvalidParameterValue
from projections.experiments import SEARCH as EXPERIMENT_SEARCH
from projections.experiments import experiments
from projections.filter_language import RUNS, OrderBy, parse_filter, parse_order_by
from projections.metrics import latest_metrics
from projections.page_tokens import Position
from projections.run_documents import RUN_SEARCH
from projections.runs import params, runs
from projections.search import Among, Page, in_view, plan_of, search
from tests.search_data import (
    INF,
    NAN,
    PLANS,
    empty_database,
    filters,
    find_runs,
    made_up_run,
    planned,
    run_clauses,
    run_orders,
)
from tests.search_rows import (
    Experiment,
    Run,
    columns_of,
    metric_row,
    put_experiment,
    put_run,
    remove_run,
)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    order=run_orders,
    text=filters(run_clauses, 1),
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
            put_run(connection, made_up_run(rng, run_id))

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
            remove_run(connection, victim)
            if step < 30:
                put_run(connection, made_up_run(rng, f"s{rng.getrandbits(32):08x}"))
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
            put_run(connection, Run(run_id, metrics={"m": value}))
        put_run(connection, Run("c"))
        assert find_runs(connection, ["1"], "", "ALL", ["metrics.m"], 2) == list("efadbc")
        assert find_runs(connection, ["1"], "", "ALL", ["metrics.m DESC"], 2) == list("dafebc")
    engine.dispose()


def test_searches_of_one_form_keep_their_values_apart() -> None:
    """Statements are kept without the values: each search finds by its own, of whatever type and
    number, also where the greatest double is one of them."""
    engine = empty_database()
    with engine.connect() as connection:
        for place, value in enumerate([1.0, 2.0, INF]):
            run = Run(f"r{place}", str(place), metrics={"m": value}, params={"p": f"a*{place}"})
            put_run(connection, Run(**{**vars(run), "start_time": place}))

        def found(text: str, *experiment_ids: str) -> str:
            ids = experiment_ids or ("0", "1", "2")
            runs_found = find_runs(connection, ids, text, "ALL", ["run_id"], 2)
            return "".join(run_id[1:] for run_id in runs_found)

        assert [found(f"metrics.m > {text}") for text in ("1", "1.5", "2", "0")] == [
            "12",
            "12",
            "2",
            "012",
        ]
        assert found("metrics.m = 1.7976931348623157e308") == "2"
        assert [found(f"start_time >= {text}") for text in ("1", "0.5", "1.5", "2")] == [
            "12",
            "12",
            "2",
            "2",
        ]
        assert [found(f"params.p LIKE '{text}'") for text in ("a*1", "a_2", "%*%", "b")] == [
            "1",
            "2",
            "012",
            "",
        ]
        lists = ["'r0'", "'r1', 'r2'", "'r2', 'r1', 'r0'", "'x', 'x', 'x', 'x', 'r1'"]
        assert [found(f"run_id IN ({each})") for each in lists] == ["0", "12", "012", "1"]
        assert [found(f"run_id NOT IN ({each})") for each in lists] == ["12", "0", "", "02"]
        assert [found("", *ids) for ids in ("0", "12", "012", "9")] == ["0", "12", "012", ""]
    engine.dispose()


def test_a_page_holds_the_rows_of_the_main_table() -> None:
    """A page has every column of its rows, so that they need not be read again, unless the whole
    things are read in another way."""
    engine = empty_database()
    with engine.connect() as connection:
        put_experiment(connection, Experiment("7", "first", creation_time=5))
        page = search(connection, EXPERIMENT_SEARCH, clauses=(), limit=10)
        assert page.ids == ["7"]
        assert page.next_after is None
        assert page.rows[0]["name"] == "first"
        assert set(page.rows[0]) == set(experiments.columns.keys())
        put_run(connection, Run("a"))
        assert search(connection, RUN_SEARCH, clauses=(), limit=10) == Page(["a"], [], None)
    engine.dispose()


def test_a_full_search_of_every_clause_is_answered() -> None:
    """Fifty clauses, twenty keys and a thousand listed ids are one statement that SQLite takes."""
    engine = empty_database()
    with engine.connect() as connection:
        put_run(connection, Run("x7", params={"p": "a"}))
        ids = ", ".join(f"'x{number}'" for number in range(1000))
        text = " AND ".join(["params.p = 'a'"] * 49 + [f"run_id IN ({ids})"])
        order = [f"metrics.m{number} DESC" for number in range(20)]
        assert find_runs(connection, ["1"], text, "ALL", order, 1) == ["x7"]
    engine.dispose()


def test_any_number_of_experiments_can_be_named() -> None:
    """More ids than a statement takes parameters are one parameter, and find the same."""
    engine = empty_database()
    with engine.connect() as connection:
        for experiment_id in ("1", "7", "299999", "300001"):
            put_run(connection, Run(f"r{experiment_id}", experiment_id))
        for count in (8, 1001, 300_000):
            ids = [str(number) for number in range(count)]
            page = search(
                connection,
                RUN_SEARCH,
                clauses=(),
                scope=[Among(runs.c.experiment_id, (*ids, "7"))],
                limit=10,
            )
            assert set(page.ids) == {"r1", "r7"} | ({"r299999"} if count == 300_000 else set())
    engine.dispose()


def test_an_unknown_view_type_is_refused() -> None:
    """L-92: a view type that is none is a bad value; an absent one is ACTIVE_ONLY."""
    column = runs.c.lifecycle_stage
    with pytest.raises(InvalidParameterValue, match="ACTIVE_ONLY, DELETED_ONLY, ALL"):
        in_view(column, "BOGUS")
    assert in_view(column, "") == in_view(column, "ACTIVE_ONLY")


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
            sa.insert(runs),
            [columns_of(runs, Run(run_id, "2" if run_id in few else "1")) for run_id in ids],
        )
        connection.execute(
            sa.insert(latest_metrics),
            [metric_row(run_id, "m", number) for number, run_id in enumerate(ids)],
        )
        connection.execute(
            sa.insert(params),
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
        ("1", "", ["params.p"], "walk"),
        ("1", "metrics.m != 10", ["params.p DESC"], "walk"),
        ("1", "", ["end_time"], "run"),
        ("1", "", ["tags.none"], "run"),
        ("2", "", ["metrics.m DESC"], "run"),
        ("2", "metrics.m < 2990", ["metrics.m DESC"], "run"),
    ],
)
def test_a_search_starts_where_few_rows_are(
    many: sa.Connection, experiment_id: str, text: str, order: list[str], starts_at: str
) -> None:
    """A clause that few rows fulfil, the metric to sort by, or the runs: whatever is least."""
    plan = plan_of(
        many,
        RUN_SEARCH,
        clauses=parse_filter(RUNS, text),
        order_by=parse_order_by(RUNS, order),
        scope=[Among(runs.c.experiment_id, (experiment_id,))],
        limit=100,
    )
    starts = plan.driver.clause.kind if plan.driver else "walk" if plan.walk else "run"
    assert starts == starts_at


def test_a_walk_goes_on_with_the_rows_that_have_no_number(many: sa.Connection) -> None:
    """Page after page along a metric's index gives every run once, also those without a value."""
    for run_id in ("x1", "x2"):
        put_run(many, Run(run_id, metrics={"m": NAN} if run_id == "x2" else {}))
    found = find_runs(many, ["1"], "", "ALL", ["metrics.m"], 400)
    assert found == [f"r{number:04}" for number in range(10, 3000)] + ["x2", "x1"]


@pytest.mark.parametrize("plan", [(2000, 500), (0, 1), (5000, 3000)])
def test_what_lies_beside_a_run_is_looked_up_by_the_run(
    many: sa.Connection, plan: tuple[int, int]
) -> None:
    """Where a search stands at a run, or at a row that may lead to one, it goes to the other tables
    by the run's id: by a value it would read all runs that have it, once for each."""
    statements: list[str] = []
    driver: Any = many.connection.driver_connection
    driver.set_trace_callback(statements.append)
    with planned(plan):
        for order in ([], ["metrics.m DESC"], ["params.p"]):
            text = "metrics.m > 10 AND params.p = '1' AND metrics.m < 2900 AND params.p LIKE '_'"
            assert find_runs(many, ["1"], text, "ACTIVE_ONLY", order, 30)
    driver.set_trace_callback(None)
    told = [
        str(row[-1])
        for statement in set(statements)
        for row in many.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}")
    ]
    beside = [
        step for step in told if step.startswith(("SEARCH params ", "SEARCH latest_metrics "))
    ]
    assert beside
    assert [step for step in beside if "USING PRIMARY KEY" not in step] == []
    assert [step for step in told if step.startswith("SCAN") and " runs" in step] == []
