"""The recipes of docs/sql.md answer the questions that they stand under."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from events.codec import Series, make_block
from events.datasets import RUN_INPUTS_LOGGED, DatasetInput, RunInputsLogged
from events.experiments import EXPERIMENT_CREATED, ExperimentCreated
from events.metrics import POINTS_LOGGED
from events.runs import (
    RUN_BATCH_LOGGED,
    RUN_CREATED,
    RUN_UPDATED,
    Param,
    RunBatchLogged,
    RunCreated,
    RunTag,
    RunUpdated,
)
from tests.sql_cases import SqlCase

PAGE = (Path(__file__).parent.parent / "docs" / "sql.md").read_text("utf-8")
FOUND = re.findall(r"([^\n]+)\n\n```sql\n(.*?)```", PAGE.partition("## Recipes")[2], re.DOTALL)
NOW_MS = 4_000_000_000_000
"""In the year 2096: one recipe asks for the runs since this quarter began."""


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    """Eight runs whose loss falls the faster the greater their learning rate; one diverges."""
    case = SqlCase(tmp_path_factory.mktemp("recipes"))
    case.given(EXPERIMENT_CREATED, "1", ExperimentCreated("one", "uri", 1))
    for number in range(1, 9):
        run, rate = f"run{number}", number / 10
        case.given(RUN_CREATED, run, RunCreated("1", f"name{number}", "me", NOW_MS, "a"))
        tags = [RunTag("team", f"team{number % 2}")]
        case.given(RUN_BATCH_LOGGED, run, RunBatchLogged([Param("lr", str(rate))], tags))
        curve = [
            (Series(key), step, NOW_MS + 100 * step, 1 / (1 + rate * step))
            for key in ("loss", "val_loss")
            for step in range(0, 1_001, 5)
        ]
        case.given(POINTS_LOGGED, run, make_block(curve))
        case.given(RUN_INPUTS_LOGGED, run, RunInputsLogged([DatasetInput("mnist", "1", "x", "y")]))
        case.given(RUN_UPDATED, run, RunUpdated("FINISHED", NOW_MS + 600_000))
    case.given(POINTS_LOGGED, "run8", make_block([(Series("grad"), 7, NOW_MS, float("nan"))]))
    case.given(RUN_BATCH_LOGGED, "run8", RunBatchLogged([Param("lr", "another")]))
    case.projector.catch_up()
    with case.connected() as connection:
        yield connection
    case.close()


@pytest.mark.parametrize(("question", "statement"), FOUND, ids=[one[0][:40] for one in FOUND])
def test_a_recipe_has_an_answer(
    asked: duckdb.DuckDBPyConnection, question: str, statement: str
) -> None:
    """Each runs as it stands in the docs, and finds something."""
    assert asked.execute(statement).fetchall(), question


def answer(asked: duckdb.DuckDBPyConnection, words: str) -> list[Any]:
    """What the recipe under these words finds."""
    (statement,) = [one for question, one in FOUND if words in question]
    return asked.execute(statement).fetchall()


def test_the_recipes_answers_are_right(asked: duckdb.DuckDBPyConnection) -> None:
    """The greatest rate is the best run, the NaN is found, the refused param is told."""
    assert len(FOUND) >= 8
    assert [row[1] for row in answer(asked, "best run of each experiment")] == ["run8"]
    assert [row[1] for row in answer(asked, "at one step")] == ["run8"]
    assert answer(asked, "runs diverged") == [("run8", "grad", 7)]
    assert [row[3] for row in answer(asked, "What was refused")] == ["INVALID_PARAMETER_VALUE"]
    assert answer(asked, "param matter")[0][:1] == ("lr",)
    assert answer(asked, "param matter")[0][1] < -0.5
    table = answer(asked, "One row a run")
    assert [row[2] for row in table][:2] == ["0.8", "0.7"]
    curves = answer(asked, "five best runs")
    assert len(curves) == 250
    assert len(answer(asked, "spread of a curve")) == 101
    assert answer(asked, "each day")[0][1:] == (8, 0, pytest.approx(8 / 6))
    assert answer(asked, "Two runs beside")[0] == (0, 1.0, 1.0)


def test_run_table_tells_apart_what_differs_in_case_only(tmp_path: Path) -> None:
    """Two params that DuckDB's column names would make one are two columns; quotes stay quotes."""
    case = SqlCase(tmp_path)
    case.given(EXPERIMENT_CREATED, "1", ExperimentCreated("one", "uri", 1))
    case.given(RUN_CREATED, "run", RunCreated("1", "name", "me", 1, "a"))
    odd = [Param("lr", "1"), Param("LR", "2"), Param('it\'s "odd"; --', "3")]
    case.given(RUN_BATCH_LOGGED, "run", RunBatchLogged(odd))
    case.projector.catch_up()
    with case.connected() as first:
        # The child asks through a cursor of its own, which has no variables of another's.
        connection = first.cursor()
        found = connection.execute("FROM run_table(1)")
        row = dict(zip([one[0] for one in found.description], found.fetchall()[0], strict=True))
        assert connection.execute("FROM run_table('none')").fetchall() == []
    assert (row["params.LR"], row["params.lr (2)"]) == ("2", "1")
    assert row['params.it\'s "odd"; --'] == "3"
    case.close()
