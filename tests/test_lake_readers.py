"""Other engines read the lake's folder while the server writes, seals, merges and exports."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest

from events.codec import Series, make_block
from events.experiments import EXPERIMENT_CREATED, ExperimentCreated
from events.metrics import POINTS_LOGGED
from events.runs import RUN_BATCH_LOGGED, RUN_CREATED, Param, RunBatchLogged, RunCreated
from projections.lake import Lake
from projections.lake_exports import Step
from tests.sql_cases import SqlCase
from workers.exporter import Exporter

ROUNDS = 40
BATCH = 50


def a_case(folder: Path, lake: Lake | None = None, views_uri: str | None = None) -> SqlCase:
    """An experiment with a run."""
    case = SqlCase(folder, lake=lake, views_uri=views_uri)
    case.given(EXPERIMENT_CREATED, "1", ExperimentCreated("one", "uri", 1))
    create_run(case, 0)
    return case


def create_run(case: SqlCase, number: int) -> None:
    """A run with a param that has its number."""
    case.given(RUN_CREATED, f"run{number}", RunCreated("1", "name", "me", 1, "a"))
    case.given(RUN_BATCH_LOGGED, f"run{number}", RunBatchLogged([Param("number", str(number))]))


def by_duckdb(lake: Path) -> tuple[list[int], list[str]]:
    """Every step and every run's param, from the folder alone."""
    with duckdb.connect() as connection:
        steps = connection.execute(
            f"SELECT step FROM '{lake}/experiment_id=*/metrics/*.parquet' ORDER BY step"
        ).fetchall()
        params = connection.execute(
            f"SELECT run_id, value FROM '{lake}/experiment_id=*/params/*.parquet'"
        ).fetchall()
    return [row[0] for row in steps], check_params(params)


def by_open_sql(lake: Path) -> tuple[list[int], list[str]]:
    """The same through the statements in the folder."""
    with duckdb.connect() as connection:
        connection.execute((lake / "open.sql").read_text())
        steps = connection.execute("SELECT step FROM metrics ORDER BY step").fetchall()
        params = connection.execute("SELECT run_id, value FROM params").fetchall()
    return [row[0] for row in steps], check_params(params)


def by_polars(lake: Path) -> tuple[list[int], list[str]]:
    """The same by Polars."""
    metrics = pl.scan_parquet(f"{lake}/experiment_id=*/metrics/*.parquet", hive_partitioning=True)
    steps = metrics.select("step").collect()["step"].to_list()
    params = pl.scan_parquet(f"{lake}/experiment_id=*/params/*.parquet").collect()
    return sorted(steps), check_params(params.select("run_id", "value").rows())


def check_params(rows: list[Any]) -> list[str]:
    """Each run once, with its own value; gives the runs."""
    assert len({run_id for run_id, _ in rows}) == len(rows)
    assert all(run_id == f"run{value}" for run_id, value in rows)
    return [run_id for run_id, _ in rows]


READERS: dict[str, Callable[[Path], tuple[list[int], list[str]]]] = {
    "duckdb": by_duckdb,
    "open.sql": by_open_sql,
    "polars": by_polars,
}
GONE = (duckdb.IOException, FileNotFoundError, pl.exceptions.ComputeError, OSError)
"""What a reader gets where a file was replaced between its list and its look: it reads again."""


@pytest.mark.parametrize("name", READERS)
def test_no_reader_sees_a_file_twice_or_half_a_file(name: str, tmp_path: Path) -> None:
    """Each answer, in the midst of seals, merges and exports, has every point up to some step
    once, never fewer than the answer before it."""
    case = a_case(tmp_path)
    case.projector.catch_up()
    stop = threading.Event()
    answers: list[tuple[int, int]] = []
    again = 0
    failed: list[BaseException] = []

    def read() -> None:
        nonlocal again
        while not stop.is_set():
            try:
                steps, runs = READERS[name](case.lake.folder)
            except GONE:
                again += 1
                continue
            except BaseException as error:
                failed.append(error)
                return
            if steps != list(range(len(steps))):
                failed.append(AssertionError(f"points twice or missing: {steps[:20]}…"))
                return
            answers.append((len(steps), len(runs)))

    write(case, 0)
    reader = threading.Thread(target=read)
    reader.start()
    for number in range(1, ROUNDS):
        write(case, number)
    while not stop.wait(0.01) and not failed and (not answers or answers[-1][0] < ROUNDS * BATCH):
        continue
    stop.set()
    reader.join()
    case.close()
    assert failed == []
    assert answers[-1] == (ROUNDS * BATCH, ROUNDS)
    assert answers == sorted(answers)
    assert len({points for points, _ in answers}) > 3
    assert again < len(answers)


def write(case: SqlCase, number: int) -> None:
    """One more run, more points, and everything that the workers do with them."""
    if number:
        create_run(case, number)
    steps = range(number * BATCH, (number + 1) * BATCH)
    points = [(Series("loss"), step, step, 0.5) for step in steps]
    case.given(POINTS_LOGGED, f"run{number}", make_block(points))
    case.projector.catch_up()
    case.sealer.seal_all()
    case.exporter.round()


def test_a_lake_that_was_moved_opens_where_it_is(tmp_path: Path) -> None:
    """`runfold_lake` says where the folder is now, links and all."""
    case = a_case(tmp_path / "home")
    write(case, 0)
    case.close()
    moved = case.lake.folder.rename(tmp_path / "moved")
    with duckdb.connect() as connection:
        connection.execute(f"SET VARIABLE runfold_lake = '{moved}'")
        connection.execute((moved / "open.sql").read_text())
        assert connection.execute("SELECT count(*) FROM metrics").fetchall() == [(BATCH,)]
        assert connection.execute("SELECT count(*) FROM logged_models").fetchall() == [(0,)]
        assert connection.execute("SELECT experiment_id FROM runs").fetchall() == [("1",)]


def test_folders_of_an_earlier_layout_give_way(tmp_path: Path) -> None:
    """Segments that an earlier version left where links are now are seen by nobody."""
    case = a_case(tmp_path)
    old = case.lake.folder / "experiment_id=1" / "metrics"
    old.mkdir(parents=True)
    (old / "old.parquet").write_bytes(b"not of this version")
    write(case, 0)
    assert by_duckdb(case.lake.folder)[0] == list(range(BATCH))
    case.close()


def test_a_round_of_exports_ends_while_more_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is logged meanwhile is for the next round, for the sealer waits for this one's end."""
    case = a_case(tmp_path)
    case.projector.catch_up()
    made = 0
    commit = Exporter._commit

    def busy(self: Exporter, generation: str, step: Step) -> None:
        nonlocal made
        made += 1
        assert made < 20, "the round does not end"
        create_run(case, made)
        case.projector.catch_up()
        commit(self, generation, step)

    monkeypatch.setattr(Exporter, "_commit", busy)
    case.exporter.round()
    assert 0 < made < 20
    monkeypatch.undo()
    case.exporter.round()
    with duckdb.connect() as connection:
        pattern = f"{tmp_path}/lake/experiment_id=*/params/*.parquet"
        rows = connection.execute(f"SELECT run_id FROM '{pattern}'").fetchall()
    assert len(rows) == made + 1
    case.close()
