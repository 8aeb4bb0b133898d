"""verify: tells every difference between the live views and what the log gives."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

import workers.maintenance
from events.codec import Series, encode_block, make_block
from events.metrics import POINTS_LOGGED
from events.runs import RUN_BATCH_LOGGED, Param, RunBatchLogged
from projections.datasets import datasets
from projections.metrics import blocks, latest_metrics
from projections.runs import params, runs
from projections.segments import segment_runs
from tests.homes import Home, open_home
from workers.cli import main
from workers.maintenance import MaintenanceError
from workers.projector import Projector
from workers.sealer import Sealer, SealerSettings
from workers.verify import run_verify

A, B = "a" * 32, "b" * 32


@pytest.fixture(autouse=True)
def no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else opens these files."""
    monkeypatch.setattr(workers.maintenance, "GRACE_S", 0.0)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """Two runs, one sealed and one not, and a model."""
    opened = open_home(tmp_path / "home")
    opened.experiment("1", "one")
    opened.run(A, "1", "a")
    opened.model("m-a", "1", "ma")
    opened.fold()
    opened.seal()
    opened.run(B, "1", "b")
    opened.fold()
    yield opened
    opened.close()


def verify(home: Home) -> bool:
    """Whether live and rebuilt are equal."""
    home.said.clear()
    return run_verify(home.log, home.views, home.gc.lake, echo=home.said.append)


def test_views_that_were_folded_from_the_log_are_equal(home: Home) -> None:
    """Also where the points are sealed on one side and not on the other; nothing is left over."""
    files = set(home.folder.rglob("*.parquet"))
    assert verify(home)
    assert "runs: 2 equal" in home.said
    assert "metric points: 604 equal" in home.said
    assert home.said[-1].startswith("The live views are what the log gives at journal 1")
    assert set(home.folder.rglob("*.parquet")) == files
    assert not list(home.folder.glob("*making*"))
    home.seal()
    assert verify(home)


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        (sa.update(params).where(params.c.key == "p1").values(value="x"), "params: 2 DIFFER"),
        (sa.delete(runs).where(runs.c.run_id == B), "runs: 1 DIFFER (1 live, 2 rebuilt)"),
        (sa.update(runs).values(status="FAILED"), "runs: 2 DIFFER"),
        (sa.insert(params).values(run_id="0", key="k", value="v"), "params: 1 DIFFER (11 live"),
        (sa.delete(latest_metrics), "latest_metrics: 6 DIFFER"),
        (sa.delete(datasets), "datasets: 2 DIFFER"),
        (sa.delete(segment_runs), "metric points: 302 DIFFER (302 live, 604 rebuilt)"),
        (sa.delete(blocks), "metric points: 302 DIFFER (302 live, 604 rebuilt)"),
        (
            sa.insert(blocks).values(
                run_id=B, points=1, data=encode_block(make_block([(Series("m"), 1, 2, 3.5)]))
            ),
            "metric points: 1 DIFFER (605 live, 604 rebuilt)",
        ),
    ],
)
def test_a_difference_is_told(home: Home, statement: sa.Executable, told: str) -> None:
    """A row or point too many, too few, or changed, in any table, is found and shown."""
    with home.views.write() as connection:
        connection.execute(statement)
    assert not verify(home)
    assert any(line.startswith(told) for line in home.said), home.said
    assert any("only" in line or "rebuilt" in line for line in home.said)
    assert "DIFFER" in home.said[-1]


def test_the_same_point_twice_is_no_difference(home: Home) -> None:
    """Points are a set: a retried batch that was folded twice is equal to one."""
    with home.views.write() as connection:
        row = connection.execute(sa.select(blocks).limit(1)).one()
        again = {"run_id": row.run_id, "points": row.points, "data": row.data}
        connection.execute(sa.insert(blocks).values(**again))
    assert verify(home)


def test_points_are_compared_across_blocks_and_segments(home: Home) -> None:
    """NaN, the infinities and zeros are equal wherever they are; a point that is in a block and in
    two segments is one, and is not told when another point of its run differs."""
    values = [math.nan, math.inf, -math.inf, 0.0, 0.5]
    odd = [(Series("odd", None, "d"), step, 1, value) for step, value in enumerate(values)]
    home.append(POINTS_LOGGED, A, make_block(odd))
    for _ in range(2):
        home.append(POINTS_LOGGED, A, make_block(odd[1:]))
        home.fold()
        home.seal()
        assert verify(home), home.said
    home.append(POINTS_LOGGED, A, make_block(odd[:3]))
    home.fold()
    assert verify(home), home.said
    with home.views.write() as connection:
        changed = make_block([(odd[4][0], 4, 1, 0.25)])
        data = encode_block(changed)
        connection.execute(sa.insert(blocks).values(run_id=A, points=1, data=data))
    assert not verify(home)
    assert "metric points: 1 DIFFER (610 live, 609 rebuilt)" in home.said
    assert any("'value': 0.25" in line and "only live" in line for line in home.said)


def test_views_are_verified_while_they_grow(home: Home) -> None:
    """A writer, a projector and a sealer at work change nothing of the outcome."""
    stop = threading.Event()

    def work() -> None:
        projector = Projector(home.log, home.views)
        settings = SealerSettings(seal_points=200, merge_segments=2, retired_s=0.0)
        sealer = Sealer(home.views, home.gc.lake, settings)
        number = 0
        while not stop.is_set():
            number += 1
            home.run(f"{number:032x}", "1", f"r{number}")
            batch = RunBatchLogged([Param(f"new{number}", "v")])
            home.append(RUN_BATCH_LOGGED, B, batch)
            projector.catch_up()
            sealer.round()
        sealer.close()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(3):
            assert verify(home), home.said
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("command", ["gc", "rebuild", "verify", "events"])
def test_a_folder_without_a_log_is_refused(tmp_path: Path, command: str) -> None:
    """A mistyped --home is told, and no empty log is made there."""
    result = CliRunner().invoke(main, [command, "--home", str(tmp_path / "typo")])
    assert result.exit_code == 1
    assert "there is no log at" in result.output
    assert not (tmp_path / "typo").exists()


def test_what_is_not_there_can_not_be_verified(tmp_path: Path) -> None:
    """Without views there is a message."""
    home = open_home(tmp_path / "home")
    with pytest.raises(MaintenanceError, match="no views to verify"):
        verify(home)
    home.close()
