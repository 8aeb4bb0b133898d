"""`runfold sql`: over a folder and over a server, in each format, and as a prompt."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from projections.query_process import FOLDERS
from tests import homes, servers
from workers.sql_command import sql_command
from workers.sql_output import shown, text_width, visible

TWO = "SELECT * FROM (VALUES (1, 'a|b', NULL), (22, 'c', 0.5)) t(n, name, x)"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a server that does not run, with a run that is not folded yet."""
    folder = tmp_path_factory.mktemp("sql") / "home"
    filled = homes.open_home(folder)
    filled.experiment("1", "one")
    filled.run("r1", "1", "first")
    filled.fold()
    filled.run("r2", "1", "second")
    filled.close()
    return folder


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[servers.Server]:
    started = servers.runfold(home, "--sql-rows", "1000").start()
    yield started
    started.stop()


def run(*arguments: str, given: str | None = None) -> Result:
    """The command with these arguments; `given` is its standard input."""
    return CliRunner().invoke(sql_command, arguments, input=given)


def test_a_folder_is_read_without_a_server(home: Path) -> None:
    """Events that no server has folded are in the answer, and nothing is left in the folder."""
    result = run("--home", str(home), "SELECT run_id FROM runs ORDER BY 1")
    assert (result.exit_code, result.output) == (0, "run_id\n──────\nr1\nr2\n2 rows\n")
    assert list((home / "lake" / FOLDERS).iterdir()) == []


def test_a_server_is_asked_by_its_url(server: servers.Server) -> None:
    """The same answer by --tracking-uri, in every format that is text."""
    uri = ("--tracking-uri", server.url)
    assert run(*uri, TWO, "--format", "csv").output == "n,name,x\n1,a|b,\n22,c,0.5\n"
    assert run(*uri, TWO, "--format", "markdown").output == (
        "| n | name | x |\n| --: | --- | --: |\n| 1 | a\\|b |  |\n| 22 | c | 0.5 |\n"
    )
    lines = run(*uri, TWO, "--format", "ndjson").output.splitlines()
    assert json.loads(lines[1]) == {"n": 22, "name": "c", "x": 0.5}
    table = run(*uri, TWO).output
    assert table == " n  name    x\n──  ────  ───\n 1  a|b\n22  c     0.5\n2 rows\n"


def test_a_folder_that_is_typed_comes_before_the_environments_server(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLFLOW_TRACKING_URI, which other work on the machine needs, does not hide --home."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    result = run("--home", str(home), "--format", "csv", "SELECT count(*) AS n FROM experiments")
    assert (result.exit_code, result.output.splitlines()[0]) == (0, "n")
    assert run("SELECT 1").exit_code == 1


@pytest.mark.parametrize("where", ["folder", "server"])
def test_what_is_wrong_is_said(home: Path, server: servers.Server, where: str) -> None:
    """A mistake in the statement ends the command with 1 and DuckDB's message."""
    place = ("--home", str(home)) if where == "folder" else ("--tracking-uri", server.url)
    result = run(*place, "SELECT *\nFROM nowhere")
    assert result.exit_code == 1
    assert "LINE 2: FROM nowhere" in result.output
    result = run(*place, "DROP VIEW runs")
    assert (result.exit_code, "Only queries" in result.output) == (1, True)


def test_statements_from_files_and_standard_input(home: Path, tmp_path: Path) -> None:
    """A statement comes from --file, and from standard input where none is given."""
    file = tmp_path / "query.sql"
    file.write_text("SELECT $a + 1 AS x, $b AS y")
    more = ("--home", str(home), "--format", "csv", "--param", "a=1", "--param", "b=text")
    assert run(*more, "--file", str(file)).output == "x,y\n2,text\n"
    assert run(*more, given="SELECT $b AS y, $a AS x").output == "y,x\ntext,1\n"
    assert run(*more, "--file", "-", given="SELECT $b AS y, $a AS x").output == "y,x\ntext,1\n"
    assert run("--home", str(home), "--param", "a", "SELECT 1").exit_code == 2
    assert run("--home", str(home), "--file", str(file), "SELECT 1").exit_code == 2


def test_a_file_appears_when_it_is_whole(server: servers.Server, tmp_path: Path) -> None:
    """--output writes what was asked; an answer that is cut short leaves no file."""
    uri = ("--tracking-uri", server.url, "--format", "csv", "--output")
    whole = tmp_path / "whole.csv"
    assert run(*uri, str(whole), TWO).exit_code == 0
    assert whole.read_text() == "n,name,x\n1,a|b,\n22,c,0.5\n"
    long = "SELECT repeat('x', 1000) AS a FROM range(2000)"
    result = run(*uri, str(tmp_path / "cut.csv"), long)
    assert result.exit_code == 1
    assert [path.name for path in tmp_path.iterdir()] == ["whole.csv"]


def test_a_table_says_that_rows_were_left_out(home: Path) -> None:
    """--max-rows bounds every format, and a table says so."""
    result = run("--home", str(home), "--max-rows", "2", "FROM range(5)")
    assert result.output.splitlines()[-1] == "2 rows, more were left out (--max-rows)"
    result = run("--home", str(home), "FROM range(1001)")
    assert result.output.splitlines()[-1] == "1000 rows, more were left out (--max-rows)"


def test_only_the_experiments_that_were_named(home: Path) -> None:
    """--experiment-id leaves everything of other experiments out."""
    statement = "SELECT count(*) AS n FROM runs"
    more = ("--home", str(home), "--format", "csv")
    assert run(*more, "--experiment-id", "1", statement).output == "n\n2\n"
    assert run(*more, "--experiment-id", "7", statement).output == "n\n0\n"


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    """A folder without a log is not made into one."""
    result = run("--home", str(tmp_path / "none"), "SELECT 1")
    assert (result.exit_code, "there is no log" in result.output) == (1, True)
    assert not (tmp_path / "none").exists()


def table_of(value: str, width: int | None) -> list[str]:
    answer = {
        "columns": [{"name": "a", "type": "VARCHAR"}, {"name": "b", "type": "VARCHAR"}],
        "rows": [[value, "b" * 10]],
        "row_count": 1,
        "truncated": False,
    }
    return shown("table", [json.dumps(answer).encode()], width).splitlines()


def test_a_table_fits_the_terminal() -> None:
    """The widest column gives way; letters that take two places count as two."""
    assert all(text_width(line) <= 40 for line in table_of("x" * 200, 40))
    assert table_of("x" * 200, 40)[2] == "x" * 27 + "…  " + "b" * 10
    assert all(text_width(line) <= 40 for line in table_of("漢" * 200, 40))


def test_a_value_can_not_act_on_the_terminal() -> None:
    """What would move the cursor, colour or rename the window is shown as what it is."""
    assert visible("a\x1b]0;owned\x07\r\nb\u202e") == "a\\x1b]0;owned\\x07\\r\\nb\\u202e"
    assert "\x1b" not in "".join(table_of("\x1b[2J", None))


def test_a_plan_is_shown_as_it_is_drawn(home: Path) -> None:
    """EXPLAIN prints the lines of the plan."""
    result = run("--home", str(home), "EXPLAIN FROM runs")
    assert "Read Parquet" in result.output.upper().replace("READ PARQUET", "Read Parquet")
    assert "\\n" not in result.output


def read_until(terminal: int, text: str) -> str:
    """What the program printed until this text came."""
    printed = ""
    deadline = time.monotonic() + 20
    while text not in printed:
        assert select.select([terminal], [], [], deadline - time.monotonic())[0], printed
        printed += os.read(terminal, 65_536).decode(errors="replace")
    return printed


def test_the_prompt(home: Path, tmp_path: Path) -> None:
    """On a terminal statements are asked for, over lines, with errors and help, and remembered."""
    history = tmp_path / "state" / "history"
    ours, theirs = pty.openpty()
    command = [str(servers.BIN / "runfold"), "sql", "--home", str(home), "--history", str(history)]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    try:
        read_until(ours, "runfold> ")
        os.write(ours, b"SELECT count(*) AS n\n")
        read_until(ours, "...> ")
        os.write(ours, b"FROM runs;\n")
        assert "1 row" in read_until(ours, "runfold> ")
        os.write(ours, b"SELECT nothing;\n")
        assert "LINE 1" in read_until(ours, "runfold> ")
        os.write(ours, b".tables\n")
        assert "latest_metrics" in read_until(ours, "runfold> ")
        os.write(ours, b".quit\n")
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    assert "SELECT nothing;" in history.read_text()
