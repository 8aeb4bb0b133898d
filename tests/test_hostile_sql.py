"""Hostile statements, through the server and through the command: each is refused or contained.

What they are and what must become of each stands in tests/hostile_statements.sql.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner

from projections.query_forks import Forks
from projections.query_process import FOLDERS
from tests import homes, servers
from tests.hostile import OTHERS, SECRET, Hostile, complaint, hostile_statements, written_by
from workers.sql_command import sql_command

MINE = "1"
LIMITS = ("--sql-seconds", "1.5", "--sql-memory", "200", "--sql-rows", "100000")


class KeptForks(Forks):
    """One for many commands."""

    def close(self) -> None:
        """Leaves it for the next command."""

    def end(self) -> None:
        super().close()


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    path = tmp_path / "canary.csv"
    path.write_text(f"a,b\n{SECRET},2\n")
    return path


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The folder of a server with an experiment that the caller may see, and one of others."""
    folder = tmp_path / "home"
    filled = homes.open_home(folder)
    for experiment_id, name in ((MINE, "mine"), ("2", OTHERS)):
        filled.experiment(experiment_id, name)
        filled.run(f"run{experiment_id}", experiment_id, name)
        filled.model(f"model{experiment_id}", experiment_id, name)
    filled.fold()
    filled.seal()
    filled.run("run3", "2", OTHERS)
    filled.run("run4", MINE, "mine")
    filled.fold()
    filled.close()
    return folder


@pytest.fixture
def server(home: Path) -> Iterator[servers.Server]:
    started = servers.runfold(home, *LIMITS, environment={"RUNFOLD_CANARY": SECRET}).start()
    yield started
    started.stop()


def post(server: servers.Server, path: str, body: object) -> servers.Answer:
    data = json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    return servers.send(server.url, "POST", f"/api/2.0/{path}", data, headers)


def check_tables_hold_mine_alone(answer: servers.Answer) -> None:
    assert answer.status == 200
    assert b"mine" in answer.body
    assert OTHERS.encode() not in answer.body


@pytest.mark.timeout(600)
def test_no_statement_does_harm_through_the_server(
    server: servers.Server, home: Path, canary: Path
) -> None:
    """Every hostile statement is refused or ends at a limit, tells nothing of other experiments or
    files and writes nothing; the server answers as before."""

    def ask(hostile: Hostile) -> str | None:
        body = {"statement": hostile.statement, "experiment_ids": [MINE]}
        try:
            answer = post(server, "runfold/sql", body)
        except (OSError, http.client.HTTPException):
            # Cut short: a limit was met after the answer had begun.
            return complaint(hostile, answered=False, limit=True, text="")
        text = answer.body.decode()
        limit = b"BAD_REQUEST" in answer.body
        assert answer.status in (200, 400), f"{hostile.about}: {answer.status} {text[:300]}"
        return complaint(hostile, answered=answer.status == 200, limit=limit, text=text)

    statements = list(hostile_statements(home, canary))
    assert len(statements) >= 150
    with ThreadPoolExecutor(2) as pool:
        found = [one for one in pool.map(ask, statements) if one]
    assert not found, "\n" + "\n".join(found)
    assert canary.read_text() == f"a,b\n{SECRET},2\n"
    assert written_by(canary.parent) == []
    created = post(server, "mlflow/runs/create", {"experiment_id": MINE})
    assert created.status == 200
    everything = post(server, "runfold/sql", {"statement": "FROM events", "experiment_ids": [MINE]})
    check_tables_hold_mine_alone(everything)


@pytest.mark.timeout(600)
def test_no_statement_does_harm_through_the_command(
    home: Path, canary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same statements do no more through `runfold sql` on the folder."""
    monkeypatch.setenv("RUNFOLD_CANARY", SECRET)
    # Each command would load DuckDB anew, which takes longer than the statements.
    forks = KeptForks()
    monkeypatch.setattr("workers.sql_command.Forks", lambda: forks)
    found = []
    for hostile in hostile_statements(home, canary):
        result = CliRunner().invoke(
            sql_command,
            ["--home", str(home), "--experiment-id", MINE, "--format", "json", *LIMITS, "-f", "-"],
            input=hostile.statement.encode(errors="replace"),
        )
        assert result.exception is None or isinstance(result.exception, SystemExit), hostile
        found.append(
            complaint(hostile, answered=result.exit_code == 0, limit=None, text=result.output)
        )
    forks.end()
    wrong = [one for one in found if one]
    assert not wrong, "\n" + "\n".join(wrong)
    assert written_by(canary.parent) == []
    assert list((home / "lake" / FOLDERS).iterdir()) == []
