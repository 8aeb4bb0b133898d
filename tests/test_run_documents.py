"""Whole runs as the database puts them together: every value exact, every list in order."""

import json
import math
import sys
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from api.answers import json_answer
from api.runs import run_json
from events.errors import ResourceDoesNotExist
from projections.logged_models import model_outputs
from projections.run_documents import documents, documents_query, get_document
from projections.runs import runs
from tests.search_data import empty_database
from tests.search_rows import Run, put_run

ODD_TEXTS = [
    "",
    " ",
    'a "quoted" key',
    "back\\slash",
    "".join(map(chr, range(1, 32))),
    "\x7f\x80\u2028\u2029",
    "e\u0301 \u00e9 日本 \U0001f600",
    '[{"key": 1}]',
    "null",
    "12",
    "</script>",
    "a\x00b",
]
ODD_NUMBERS = [
    0.1,
    0.1 + 0.2,
    1 / 3,
    1.0,
    -1.0,
    1e15,
    1e16,
    1e22,
    1e23,
    float(2**53 + 2),
    5e-324,
    sys.float_info.min,
    sys.float_info.max,
    -sys.float_info.max,
    9007199254740993.0,
    123456789.12345679,
]


def answered(run: Run) -> dict[str, Any]:
    """The run as a client reads it after it was stored."""
    engine = empty_database()
    with engine.connect() as connection:
        put_run(connection, run)
        content = json_answer(run_json(get_document(connection, run.run_id))).body
    engine.dispose()
    found: dict[str, Any] = json.loads(bytes(content))
    return found


@settings(max_examples=300, deadline=None)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=30))
def test_every_double_is_answered_exactly(values: list[float]) -> None:
    """The number in the answer is the number that was stored, to the last bit."""
    run = Run("r", metrics={f"{place:03}": value for place, value in enumerate(values)})
    found = [metric["value"] for metric in answered(run)["data"]["metrics"]]
    assert found == values
    assert all(isinstance(value, float) for value in found)


def test_odd_doubles_are_answered_exactly() -> None:
    """Whole numbers, subnormals, the ends of the range and those that need 17 digits."""
    run = Run("r", metrics={f"{place:03}": value for place, value in enumerate(ODD_NUMBERS)})
    assert [m["value"] for m in answered(run)["data"]["metrics"]] == ODD_NUMBERS


def test_what_json_has_no_number_for_is_answered_as_mlflow_does() -> None:
    """NaN is a text, the infinities are the greatest doubles."""
    run = Run("r", metrics={"a": math.nan, "b": math.inf, "c": -math.inf})
    values = [metric["value"] for metric in answered(run)["data"]["metrics"]]
    assert values == ["NaN", sys.float_info.max, -sys.float_info.max]


texts = st.one_of(
    st.sampled_from(ODD_TEXTS), st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
)


@settings(max_examples=200, deadline=None)
@given(
    pairs=st.dictionaries(texts, texts, min_size=1, max_size=8),
    metrics=st.sets(texts, min_size=1, max_size=8),
)
def test_every_text_is_answered_as_it_was_stored(pairs: dict[str, str], metrics: set[str]) -> None:
    """Quotes, control characters, what looks like JSON, any script: all come back, by code point
    of their keys, each once."""
    data = answered(Run("r", metrics=dict.fromkeys(metrics, 1.5), params=pairs, tags=pairs))["data"]
    ordered = [{"key": key, "value": pairs[key]} for key in sorted(pairs)]
    assert data["params"] == data["tags"] == ordered
    assert [metric["key"] for metric in data["metrics"]] == sorted(metrics)


def test_empty_lists_are_left_out() -> None:
    """A run without metrics, params and tags has an empty `data`, as protobuf's JSON has it."""
    found = answered(Run("r"))
    assert found["data"] == found["inputs"] == found["outputs"] == {}


def test_a_metric_has_its_timestamp_and_step_as_integers() -> None:
    """The four fields of a metric, and no other."""
    metrics = answered(Run("r", metrics={"m": 2.0}))["data"]["metrics"]
    assert metrics == [{"key": "m", "value": 2.0, "timestamp": 0, "step": 0}]


def test_documents_come_in_the_order_of_the_ids() -> None:
    """More runs than one statement takes, in an order that is not theirs, and one that is gone;
    only the runs that have outputs get them."""
    engine = empty_database()
    with engine.connect() as connection:
        ids = [f"r{number:04}" for number in range(700)]
        for run_id in ids:
            put_run(connection, Run(run_id, params={"p": run_id}))
        output = {"run_id": "r0003", "model_id": "m-1", "step": 2}
        connection.execute(sa.insert(model_outputs), output)
        asked = [*reversed(ids), "gone"]
        found = documents(connection, asked)
        assert [document.info["run_id"] for document in found] == asked[:-1]
        assert all(document.info["run_id"] in document.params for document in found)
        assert [d.info["run_id"] for d in found if d.outputs == [("m-1", 2)]] == ["r0003"]
    engine.dispose()


def test_the_lists_are_read_by_their_primary_keys() -> None:
    """What puts them in order: an index of another order must not be read in its place."""
    engine = empty_database()
    with engine.connect() as connection:
        statement = (
            documents_query("sqlite")
            .where(runs.c.run_id == "r")
            .compile(dialect=connection.dialect)
        )
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", ("r",)).all()
        told = [str(row[-1]) for row in plan]
        for table in ("latest_metrics", "params", "tags"):
            assert f"SEARCH {table} USING PRIMARY KEY (run_id=?)" in told
    engine.dispose()


def test_a_missing_run_is_an_error() -> None:
    """Getting a run that is not there raises, as before anything was read of it."""
    engine = empty_database()
    with engine.connect() as connection, pytest.raises(ResourceDoesNotExist, match="r1"):
        get_document(connection, "r1")
    engine.dispose()
