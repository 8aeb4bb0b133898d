"""gc: what is purged is gone from every file, what is not stays, and a rebuild agrees."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import workers.gc
import workers.maintenance
from events.errors import RunfoldError
from events.event import JOURNAL
from events.experiments import (
    EXPERIMENT_DELETED,
    EXPERIMENT_RESTORED,
    ExperimentDeleted,
    ExperimentRestored,
)
from events.local_blobs import LocalBlobs
from events.logged_models import LOGGED_MODEL_DELETED, LoggedModelDeleted
from events.runs import (
    RUN_BATCH_LOGGED,
    RUN_CREATED,
    RUN_DELETED,
    RUN_RESTORED,
    Param,
    RunBatchLogged,
    RunCreated,
    RunDeleted,
    RunRestored,
)
from events.sql_log import SqlLog
from projections.purges import Choice, Chosen, choose
from projections.sqlite_views import SqliteViews, make_empty
from tests.homes import Home, content, open_home
from workers.cli import main
from workers.gc import parse_age, run_gc
from workers.maintenance import MaintenanceError, maintenance_lock
from workers.projector import Projector


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """A home with experiment 1 and 2, run a (1), b (1) and c (2), model m-a (1) and m-b (2)."""
    opened = open_home(tmp_path / "home")
    opened.experiment("1", "mark1")
    opened.experiment("2", "mark2")
    for run_id, experiment_id in (("a" * 32, "1"), ("b" * 32, "1"), ("c" * 32, "2")):
        opened.run(run_id, experiment_id, f"mark{run_id[0]}")
    opened.model("m-a", "1", "markma")
    opened.model("m-b", "2", "markmb")
    opened.fold()
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else opens these files."""
    monkeypatch.setattr(workers.maintenance, "GRACE_S", 0.0)


A, B, C = "a" * 32, "b" * 32, "c" * 32


def delete_run(home: Home, run_id: str) -> None:
    """Deletes a run."""
    home.append(RUN_DELETED, run_id, RunDeleted())


def rebuilt(home: Home) -> dict[str, Any]:
    """The content of views that are folded from the log's start."""
    path = home.folder.parent / "rebuilt.db"
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    views = SqliteViews(path, home.log.identity.log_id)
    make_empty(path, views.fingerprint)
    Projector(home.log, views).catch_up()
    found = content(views, home.gc.lake)
    views.close()
    return found


def test_a_purged_run_is_gone_and_the_others_are_as_before(home: Home) -> None:
    """Rows, points, artifacts and the log's data of the purged run go; every other row stays, and
    views rebuilt from the scrubbed log are the same."""
    home.seal()
    before = home.content()
    delete_run(home, A)
    report = run_gc(home.gc, Choice())
    assert report.purged == [("run", A)]
    assert report.artifacts == 1
    assert home.holds(["marka"]) == []
    assert home.holds(["markb"])
    after = home.content()
    assert [row[0] for row in after["runs"]] == [B, C]
    assert after["purged"] == [(A,)]
    for name, rows in after.items():
        if isinstance(rows, list) and name != "purged":
            assert rows == [row for row in before[name] if not of_run(row)], name
    assert after[f"points of {B}"] == before[f"points of {B}"]
    assert rebuilt(home) == after


def of_run(row: tuple[Any, ...]) -> bool:
    """Whether a row is about run a."""
    return A in row or any(isinstance(cell, str) and "marka" in cell for cell in row)


def test_a_deleted_experiment_goes_with_all_that_is_in_it(home: Home) -> None:
    """Its runs and its logged models are purged before it, also models that were not deleted."""
    home.seal()
    home.append(EXPERIMENT_DELETED, "1", ExperimentDeleted())
    report = run_gc(home.gc, Choice())
    assert [subject for _, subject in report.purged] == [A, B, "m-a", "1"]
    assert home.holds(["marka", "markb", "markma", "mark1"]) == []
    assert not (home.folder / "artifacts" / "1").exists()
    assert (home.folder / "artifacts" / "2").exists()
    after = home.content()
    assert [row[0] for row in after["experiments"]] == ["2"]
    assert rebuilt(home) == after
    home.experiment("3", "mark1")
    home.fold()
    assert [row[0] for row in home.content()["experiments"]] == ["2", "3"]


def test_a_dry_run_tells_and_changes_nothing(home: Home) -> None:
    """--dry-run names what would go; log and views are as they were."""
    delete_run(home, A)
    home.fold()
    before = home.content()
    report = run_gc(home.gc, Choice(), dry_run=True)
    assert report.purged == [("run", A)]
    assert home.said == [f"Run with ID {A} would be permanently deleted."]
    assert home.content() == before
    assert home.log.head(JOURNAL) == before["position of journal"]


def test_nothing_is_purged_of_what_is_named_wrongly(home: Home) -> None:
    """An id that is unknown, active or too young is an error, and then nothing is purged."""
    delete_run(home, A)
    home.fold()
    home.log.append([RUN_DELETED.new(C, RunDeleted(), time=workers.gc._now_ms())])
    home.fold()
    for choice, message in (
        (Choice(run_ids=[A, "nope"]), "Run with id=nope not found"),
        (Choice(run_ids=[A, B]), f"Run {B} is not in the `deleted`"),
        (Choice(run_ids=[A, C], older_than="1h", older_than_ms=3_600_000), "not older than"),
        (Choice(experiment_ids=["1"]), "Experiment 1 is not in the `deleted`"),
        (Choice(experiment_ids=["9"]), "No Experiment with id=9 exists"),
        (Choice(logged_model_ids=["m-a"]), "Logged model m-a is not in the `deleted`"),
        (Choice(logged_model_ids=["m-z"]), "'m-z' not found"),
    ):
        with pytest.raises(RunfoldError, match=message.replace("(", r"\(")):
            run_gc(home.gc, choice)
    assert home.content()["purged"] == []


def test_named_ids_are_all_that_goes(home: Home) -> None:
    """With an id given nothing else is purged, however deleted."""
    for run_id in (A, B):
        delete_run(home, run_id)
    home.append(LOGGED_MODEL_DELETED, "m-a", LoggedModelDeleted())
    home.append(EXPERIMENT_DELETED, "2", ExperimentDeleted())
    run_gc(home.gc, Choice(run_ids=[A]))
    assert home.content()["purged"] == [(A,)]
    run_gc(home.gc, Choice(logged_model_ids=["m-a"]))
    assert home.content()["purged"] == [(A,), ("m-a",)]
    assert home.holds(["markma"]) == []
    run_gc(home.gc, Choice(experiment_ids=["2"]))
    assert home.content()["purged"] == [("2",), (A,), (C,), ("m-a",), ("m-b",)]
    assert rebuilt(home) == home.content()


def test_only_what_was_deleted_long_enough_ago_goes(home: Home) -> None:
    """--older-than spares what was deleted lately, and the experiment that holds it."""
    delete_run(home, A)
    home.append(EXPERIMENT_DELETED, "2", ExperimentDeleted())
    home.append(RUN_RESTORED, C, RunRestored())
    home.log.append([RUN_DELETED.new(C, RunDeleted(), time=workers.gc._now_ms())])
    run_gc(home.gc, Choice(older_than="1h", older_than_ms=3_600_000))
    assert home.content()["purged"] == [(A,)]
    assert home.said[0].startswith("Experiment 2 stays: run cccc")


def test_an_experiment_with_a_restored_run_stays(home: Home) -> None:
    """A run that was restored alone keeps its deleted experiment."""
    home.append(EXPERIMENT_DELETED, "2", ExperimentDeleted())
    home.append(RUN_RESTORED, C, RunRestored())
    report = run_gc(home.gc, Choice())
    assert report.purged == []
    assert "was restored" in home.said[0]
    with pytest.raises(RunfoldError, match="was restored"):
        run_gc(home.gc, Choice(experiment_ids=["2"]))


def test_who_restores_before_the_purge_is_folded_keeps_the_run(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The purge is an event with a verdict: what came before it in the log decides."""
    delete_run(home, A)
    home.append(EXPERIMENT_DELETED, "2", ExperimentDeleted())

    def choose_then_restore(*args: Any) -> Chosen:
        chosen = choose(*args)
        home.append(RUN_RESTORED, A, RunRestored())
        home.append(EXPERIMENT_RESTORED, "2", ExperimentRestored())
        return chosen

    before = home.folder / "artifacts" / "1" / A / "artifacts/model/marka.txt"
    monkeypatch.setattr(workers.gc, "choose", choose_then_restore)
    report = run_gc(home.gc, Choice())
    assert report.purged == []
    assert {subject for subject, _ in report.refused} == {A, C, "m-b", "2"}
    assert before.exists()
    assert home.holds(["marka-param"])
    assert rebuilt(home) == home.content()


STEPS = ("fold_to_head", "_delete_artifacts", "_clean_segments", "_clean_views", "publish", "scrub")


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_a_gc_that_was_killed_is_finished_by_the_next(
    home: Home, monkeypatch: pytest.MonkeyPatch, step: str, when: str
) -> None:
    """Whatever the step at which gc ended, the same command again leaves nothing of the run."""
    home.seal()
    delete_run(home, A)
    home.fold()
    target: Any = type(home.log) if step == "scrub" else workers.gc
    real = getattr(target, step)
    calls = []

    def killed(*args: Any, **kwargs: Any) -> Any:
        calls.append(step)
        if step == "fold_to_head" and len(calls) == 1:
            return real(*args, **kwargs)
        if when == "after":
            real(*args, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(target, step, killed)
    with pytest.raises(KeyboardInterrupt):
        run_gc(home.gc, Choice(run_ids=[A]))
    monkeypatch.setattr(target, step, real)
    home.append(RUN_BATCH_LOGGED, B, RunBatchLogged([Param("more", "after the crash")]))
    run_gc(home.gc, Choice(run_ids=[A]))
    assert home.holds(["marka"]) == []
    assert rebuilt(home) == home.content()
    assert [row[0] for row in home.content()["runs"]] == [B, C]


def test_what_came_after_the_purge_goes_with_the_next_gc(home: Home) -> None:
    """A write that was on its way when its run was purged is scrubbed by the next gc."""
    delete_run(home, A)
    run_gc(home.gc, Choice())
    home.append(RUN_BATCH_LOGGED, A, RunBatchLogged([Param("late", "marka-late")]))
    assert home.holds(["marka"])
    report = run_gc(home.gc, Choice())
    assert (report.purged, report.finished, report.scrubbed) == ([], 1, 1)
    assert home.holds(["marka"]) == []


def test_many_runs_leave_nothing_in_pages_that_were_split(tmp_path: Path) -> None:
    """Hundreds of runs, purged in three lots, so that rows have moved between pages before they
    went: no file has a byte of any of them, and the rest is whole."""
    home = open_home(tmp_path / "home")
    home.experiment("1", "kept1")
    lots = [[f"{lot}{n:02x}".rjust(32, "0") for n in range(60)] for lot in "abcd"]
    for place in range(60):
        for lot in lots:
            home.run(lot[place], "1", f"mark{lot[place].lstrip('0')}.")
        home.fold()
        if place == 30:
            home.seal()
    for lot in lots[:3]:
        for run_id in lot:
            delete_run(home, run_id)
        report = run_gc(home.gc, Choice())
        assert len(report.purged) == 60
        markers = [f"mark{run_id.lstrip('0')}." for run_id in lot]
        assert home.holds(markers) == []
        home.run(f"{lot[0]}again"[-32:], "1", "kept")
    home.fold()
    assert home.holds([f"mark{run_id.lstrip('0')}." for lot in lots[:3] for run_id in lot]) == []
    assert rebuilt(home) == home.content()
    home.close()


def test_artifacts_elsewhere_are_told_and_left(home: Home) -> None:
    """A location that this server does not reach keeps no purge from being finished."""
    created = RunCreated("1", "n", "u", 1, "s3://bucket/1/dddd/artifacts")
    home.append(RUN_CREATED, "dddd", created)
    delete_run(home, "dddd")
    run_gc(home.gc, Choice())
    assert any("s3://bucket/1/dddd" in line for line in home.said)
    assert home.log.unscrubbed(["dddd"]) == set()


def test_artifacts_that_can_not_be_deleted_leave_the_purge_unfinished(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where they are is told by the log alone, so the run is scrubbed once they are gone."""
    delete_run(home, A)

    def refused(_self: LocalBlobs, _folder: str) -> int:
        raise PermissionError("not yours")

    with monkeypatch.context() as patched:
        patched.setattr(LocalBlobs, "delete_tree", refused)
        report = run_gc(home.gc, Choice())
    assert (report.unfinished, report.scrubbed) == ([A], 0)
    assert any("not yours" in line for line in home.said)
    report = run_gc(home.gc, Choice())
    assert (report.unfinished, report.artifacts) == ([], 1)
    assert home.holds(["marka"]) == []


def test_the_default_experiment_stays(home: Home) -> None:
    """Its id is what clients fall back to and could never be made again; its runs go."""
    home.experiment("0", "Default")
    home.run("e" * 32, "0", "marke")
    home.append(EXPERIMENT_DELETED, "0", ExperimentDeleted())
    report = run_gc(home.gc, Choice())
    assert report.purged == [("run", "e" * 32)]
    assert "Experiment 0 stays: it is the default experiment" in home.said[0]
    with pytest.raises(RunfoldError, match="default experiment"):
        run_gc(home.gc, Choice(experiment_ids=["0"]))


def test_the_command_line(home: Home) -> None:
    """Flags as those of `mlflow gc`; errors are messages, not tracebacks."""
    delete_run(home, A)
    home.fold()

    def gc(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(main, ["gc", "--home", str(home.folder), *arguments])
        return result.exit_code, result.output

    assert gc("--run-ids", f"{A},{B}") == (
        1,
        f"Error: Run {B} is not in the `deleted` lifecycle stage: delete it first.\n",
    )
    assert gc("--older-than", "soon")[0] == 1
    assert gc("--dry-run") == (0, f"Run with ID {A} would be permanently deleted.\n")
    code, output = gc("--older-than", "1d2h3m4s", "--run-ids", A)
    assert (code, output.splitlines()) == (
        0,
        [
            f"Run with ID {A} has been permanently deleted.",
            "1 purged, 1 artifact files deleted, 8 events scrubbed.",
        ],
    )


def test_one_maintenance_command_works_at_a_time(home: Home) -> None:
    """A second gc is refused with the reason."""
    with (
        maintenance_lock(home.views),
        pytest.raises(MaintenanceError, match="another gc or rebuild"),
    ):
        run_gc(home.gc, Choice())


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("1d", 86_400_000),
        ("1d2h3m4s", 93_784_000),
        ("0.5h", 1_800_000),
        ("2m4s", 124_000),
        ("10s", 10_000),
    ],
)
def test_ages(text: str, milliseconds: int) -> None:
    """Days, hours, minutes, seconds, each with a fraction."""
    assert parse_age(text) == milliseconds


@pytest.mark.parametrize("text", ["", "5", "1x", "h", "1h1d", "-1d", "1..5h"])
def test_no_ages(text: str) -> None:
    """Anything else is refused with examples."""
    with pytest.raises(RunfoldError, match="is no age"):
        parse_age(text)


@pytest.mark.parametrize("server", ["postgresql", "mariadb"])
def test_a_log_on_a_server_is_scrubbed_in_place(
    tmp_path: Path, server: str, request: pytest.FixtureRequest
) -> None:
    """No query of the database gives a purged run's data, what is not purged is whole, and views
    rebuilt from the scrubbed log are the same."""
    uri = request.getfixturevalue(f"{server}_uri")
    home = open_home(tmp_path / "home", SqlLog(uri))
    home.experiment("1", "mark1")
    for run_id in (A, B):
        home.run(run_id, "1", f"mark{run_id[0]}")
    home.fold()
    home.seal()
    delete_run(home, A)
    report = run_gc(home.gc, Choice())
    assert report.purged == [("run", A)]
    assert report.scrubbed == len([*home.log.about("journal", A), *home.log.about("points", A)]) - 1
    assert rebuilt(home) == home.content()
    journal = b"".join(event.data for event in home.log.read(JOURNAL, 0, 999))
    assert (b"marka" in journal, b"markb" in journal) == (False, True)
    assert {event.data for event in home.log.about("points", A)} == {b""}
    assert home.log.unscrubbed([A, B]) == {B}
    home.close()
