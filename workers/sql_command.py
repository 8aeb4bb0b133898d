"""`runfold sql`: runs a statement and prints its rows, or prompts for statements."""

from __future__ import annotations

import contextlib
import json
import readline
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import click

from events.errors import RunfoldError
from events.log import LogError
from events.places import SettingError
from events.settings import Settings
from projections.query_forks import Forks, QueryFault
from projections.query_process import (
    FOLDERS,
    Child,
    Job,
    QueryFailed,
    QueryLimits,
    RunningQuery,
    sweep,
    threads_for,
)
from projections.query_statement import names_in
from projections.sql_snapshot import SegmentGone, fetch_ahead, take_snapshot
from projections.sql_tables import BY_NAME
from workers.logs import configure_logs
from workers.maintenance import LOG_LEVEL, MaintenanceError, existing_stores, fold_to_head
from workers.options import query_options, settings_from, storage_options
from workers.sql_output import BINARY, SHOWN, shown, whole_file, wire_format
from workers.stores import Stores

QUERY_NAMES = frozenset({*BY_NAME, "run_table", "curves"})
FORMS = (*SHOWN, "csv", "json", "ndjson", "arrow", "parquet")
TABLE_ROWS = 1_000
"""A table shows so many rows unless --max-rows says otherwise."""
HISTORY_LINES = 1_000
PIECE_BYTES = 256 * 1024
SNAPSHOTS_MAX = 5
HTTP_WAIT_S = 600.0
PROMPT, MORE = "runfold> ", "    ...> "
PROMPT_HELP = """A statement ends with a semicolon. What else can be typed:
  .tables    the tables that there are
  .help      this
  .quit      ends it, and so does Ctrl-D; Ctrl-C ends a query
"""


class Source(Protocol):
    """Where statements are run."""

    def ask(self, job: Job, experiment_ids: Sequence[str] | None) -> Iterator[bytes]:
        """The answer in pieces. Raises QueryFailed."""


@dataclass(frozen=True)
class ServerSource:
    """A running server, by its URL."""

    url: str

    def ask(self, job: Job, experiment_ids: Sequence[str] | None) -> Iterator[bytes]:
        """The answer in pieces. Raises QueryFailed."""
        body = {
            "statement": job.statement,
            "parameters": job.parameters,
            "experiment_ids": None if experiment_ids is None else list(experiment_ids),
            "format": job.format,
            "max_rows": job.max_rows,
        }
        sent = {name: value for name, value in body.items() if value is not None}
        request = urllib.request.Request(
            f"{self.url.rstrip('/')}/api/2.0/runfold/sql",
            data=json.dumps(sent).encode(),
            headers={"Content-Type": "application/json"},
            method="POST",
        )
        try:
            with urllib.request.urlopen(request, timeout=HTTP_WAIT_S) as response:
                while data := response.read1(PIECE_BYTES):
                    yield data
        except urllib.error.HTTPError as error:
            raise QueryFailed(_message(error)) from None
        except urllib.error.URLError as error:
            raise QueryFailed(f"{self.url} can't be reached: {error.reason}") from None
        except OSError as error:
            raise _cut_short(error) from None
        except Exception as error:
            # http.client tells in many ways that the last chunk never came.
            raise _cut_short(error) from error


def _cut_short(error: Exception) -> QueryFailed:
    return QueryFailed(
        "The answer was cut short: the query met a limit of the server, or failed on its way; the "
        f"server's log says which ({type(error).__name__})."
    )


def _message(error: urllib.error.HTTPError) -> str:
    data = error.read(100_000)
    try:
        return str(json.loads(data)["message"])
    except (ValueError, KeyError, TypeError):
        return f"The server answered {error.code} {error.reason}: is it a Runfold server?"


@dataclass(frozen=True)
class FolderSource:
    """The stores of a server that need not run."""

    stores: Stores
    forks: Forks

    def ask(self, job: Job, experiment_ids: Sequence[str] | None) -> Iterator[bytes]:
        """The answer in pieces. Raises QueryFailed."""
        stores = self.stores
        fold_to_head(stores.log, stores.views)
        folders = stores.lake.folder / FOLDERS
        sweep(folders)
        with contextlib.closing(Child(self.forks, folders, limits_of(stores.settings))) as child:
            declarations = self._declarations(job.statement, experiment_ids, child.folder)
            query = RunningQuery(child, job, declarations)
            query.begin()
            while data := query.read():
                yield data

    def _declarations(
        self, statement: str, experiment_ids: Sequence[str] | None, folder: Path
    ) -> Sequence[str]:
        stores = self.stores
        tables = names_in(statement, QUERY_NAMES)
        for _ in range(SNAPSHOTS_MAX):
            with contextlib.suppress(SegmentGone):
                fetch_ahead(stores.views, stores.lake, experiment_ids, tables)
                return take_snapshot(
                    stores.views, stores.log, stores.lake, experiment_ids, folder, tables
                ).statements
        raise QueryFailed("A file of the lake is missing: `runfold rebuild` makes it anew.")


def limits_of(settings: Settings) -> QueryLimits:
    """What a query may use by these settings."""
    return QueryLimits(
        memory_mb=settings.sql_memory_mb,
        threads=threads_for(settings.sql_threads),
        seconds=settings.sql_seconds,
        rows=settings.sql_rows,
    )


@dataclass(frozen=True)
class Asking:
    """How statements are asked and shown."""

    source: Source
    form: str
    experiment_ids: Sequence[str] | None
    parameters: dict[str, Any] | None
    max_rows: int | None
    output: Path | None

    def run(self, statement: str) -> None:
        """Asks one statement and shows its answer. Raises QueryFailed."""
        max_rows = self.max_rows
        if max_rows is None and self.form == "table":
            max_rows = TABLE_ROWS
        job = Job(statement, self.parameters, wire_format(self.form), max_rows=max_rows)
        with contextlib.closing(_generator(self.source, job, self.experiment_ids)) as pieces:
            if self.output is not None:
                with whole_file(self.output) as file:
                    self._write(pieces, file, None)
                return
            binary = sys.stdout.buffer
            width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
            self._write(pieces, binary, width)
            binary.flush()

    def _write(self, pieces: Iterator[bytes], file: BinaryIO, width: int | None) -> None:
        if self.form in SHOWN:
            text = shown(self.form, pieces, width)
            file.write(text.encode(errors="replace"))
            return
        for data in pieces:
            file.write(data)


def _generator(source: Source, job: Job, experiment_ids: Sequence[str] | None) -> Any:
    return source.ask(job, experiment_ids)


def prompt(asking: Asking, history: Path) -> None:
    """Reads statements from a terminal and answers each, until the end."""
    with contextlib.suppress(OSError):
        history.parent.mkdir(parents=True, exist_ok=True)
        readline.read_history_file(history)
    readline.set_history_length(HISTORY_LINES)
    click.echo("SQL over every run. A statement ends with ';', .help tells more.")
    try:
        while (statement := _statement()) is not None:
            _answer(asking, statement)
    finally:
        with contextlib.suppress(OSError):
            readline.write_history_file(history)


def _statement() -> str | None:
    """The next statement, None at the end of the input."""
    lines: list[str] = []
    while True:
        try:
            line = input(MORE if lines else PROMPT)
        except EOFError:
            click.echo()
            return None
        except KeyboardInterrupt:
            click.echo()
            lines.clear()
            continue
        if not lines and line.strip().startswith("."):
            return None if line.strip() in (".quit", ".exit") else line.strip()
        lines.append(line)
        text = "\n".join(lines)
        if text.rstrip().endswith(";"):
            return text
        if not text.strip():
            lines.clear()


def _answer(asking: Asking, statement: str) -> None:
    if statement.startswith("."):
        if statement != ".tables":
            click.echo(PROMPT_HELP, nl=False)
            return
        statement = "SHOW TABLES"
    try:
        asking.run(statement)
    except QueryFailed as error:
        click.echo(error.message, err=True)
    except KeyboardInterrupt:
        click.echo("The query was ended.", err=True)


def _parameters(given: Sequence[str]) -> dict[str, Any] | None:
    """NAME=VALUE as parameters: a value that is JSON is what it says, another is a text."""
    found: dict[str, Any] = {}
    for one in given:
        name, sign, value = one.partition("=")
        if not sign or not name:
            raise click.UsageError(f"--param takes NAME=VALUE, not {one!r}")
        try:
            found[name.removeprefix("$")] = json.loads(value)
        except ValueError:
            found[name.removeprefix("$")] = value
    return found or None


def _given_statement(statement: str | None, file: Path | None) -> str | None:
    """The statement, from where it was given; None: there is a person to ask."""
    if statement is not None and file is not None:
        raise click.UsageError("give a statement or --file, not both")
    if file is not None and str(file) != "-":
        return file.read_text()
    if statement not in (None, "-"):
        return statement
    if statement is None and file is None and sys.stdin.isatty():
        return None
    return sys.stdin.read()


@contextlib.contextmanager
def _source(tracking_uri: str | None, settings: Settings) -> Iterator[Source]:
    if tracking_uri is not None and tracking_uri.startswith(("http://", "https://")):
        yield ServerSource(tracking_uri)
        return
    with existing_stores(settings) as stores, contextlib.closing(Forks()) as forks:
        # It gets ready while what is not folded yet is folded.
        forks.warm()
        yield FolderSource(stores, forks)


def _home_was_named_instead() -> bool:
    """Whether --home was typed and the server's URL comes from the environment alone."""
    source = click.get_current_context().get_parameter_source
    typed = click.core.ParameterSource.COMMANDLINE
    return source("home") is typed and source("tracking_uri") is not typed


_OPTIONS: tuple[Callable[[Callable[..., Any]], Callable[..., Any]], ...] = (
    click.argument("statement", required=False),
    click.option(
        "--tracking-uri",
        envvar="MLFLOW_TRACKING_URI",
        show_envvar=True,
        metavar="URL",
        help="A running server, http://…; else the folder of --home is read, whether a "
        "server runs on it or not. Of a --home that is typed and a URL of the environment the "
        "first counts.",
    ),
    click.option(
        "--file",
        "-f",
        type=click.Path(path_type=Path, dir_okay=False, exists=True, allow_dash=True),
        help="Read the statement from this file; - is standard input.",
    ),
    click.option(
        "--format",
        "form",
        type=click.Choice(FORMS),
        default="table",
        show_default=True,
        help="How the rows are written.",
    ),
    click.option(
        "--output",
        "-o",
        type=click.Path(path_type=Path, dir_okay=False),
        help="Write to this file, which appears when it is whole.",
    ),
    click.option(
        "--param",
        multiple=True,
        metavar="NAME=VALUE",
        help='The value of $NAME: JSON (0.1, true, null, "text", [1, 2]) or else a text. '
        "Can be given again.",
    ),
    click.option(
        "--experiment-id",
        multiple=True,
        metavar="ID",
        help="Only what is of this experiment. Can be given again.  [default: all]",
    ),
    click.option(
        "--max-rows",
        type=click.IntRange(0),
        metavar="ROWS",
        help=f"At most so many rows.  [default: {TABLE_ROWS:,} in a table, else all]",
    ),
    click.option(
        "--history",
        type=click.Path(path_type=Path, dir_okay=False),
        envvar="RUNFOLD_SQL_HISTORY",
        default="~/.local/state/runfold/sql_history",
        show_default=True,
        show_envvar=True,
        help="Where the prompt keeps what was typed.",
    ),
)
"""What the command takes beside the stores and the limits."""


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds _OPTIONS."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.command("sql")
@_options
@query_options
@storage_options
def sql_command(
    statement: str | None,
    tracking_uri: str | None,
    file: Path | None,
    form: str,
    output: Path | None,
    param: Sequence[str],
    experiment_id: Sequence[str],
    max_rows: int | None,
    history: Path,
    **options: Any,
) -> None:
    """Run a SQL query over every run and print its rows.

    The tables are in docs/sql.md; `runfold sql "SHOW TABLES"` lists them. Without a STATEMENT it
    is read from --file or standard input, and on a terminal a prompt asks for it.

    The --sql-… limits hold where a folder is read; a server has its own.
    """
    configure_logs(LOG_LEVEL, "sql")
    if _home_was_named_instead():
        tracking_uri = None
    if form in BINARY and output is None and sys.stdout.isatty():
        raise click.UsageError(f"{form} is not for a terminal: give --output FILE")
    asked = _given_statement(statement, file)
    try:
        with _source(tracking_uri, settings_from(options)) as source:
            asking = Asking(
                source, form, experiment_id or None, _parameters(param), max_rows, output
            )
            if asked is None:
                prompt(asking, history.expanduser())
            else:
                asking.run(asked)
    except (QueryFailed, QueryFault) as error:
        raise click.ClickException(str(error)) from error
    except (RunfoldError, MaintenanceError, LogError, SettingError) as error:
        raise click.ClickException(str(error)) from error
