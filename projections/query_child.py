"""The program that runs one statement of a stranger, and ends.

Its process is forked (projections/query_forker.py) into its private folder with nothing in its
environment. It takes everything away from itself that a query does not need
(projections/sandbox.py), opens DuckDB, and waits for its one job on standard input. The answer's
bytes go to standard output; what the parent has to know (begun, failed, done) goes to a pipe of
its own, a line of JSON each.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import nanoarrow
import nanoarrow.ipc

from projections.query_formats import (
    ResultColumn,
    closing,
    may_hold_bare_numbers,
    mended,
    opening,
    quoted,
    separator,
    statement_for,
)
from projections.query_points import declare_metrics
from projections.query_statement import (
    StatementError,
    begins_as_query,
    explained,
    located,
)
from projections.sandbox import (
    Limits,
    confine,
    die_with_parent,
    limit_use,
    size_reader,
)

FLUSH_BYTES = 256 * 1024
"""An answer up to this size is kept back until it is whole, so that its error is one."""
BATCH_ROWS = 2_048
ARROW_ROWS = 122_880
MESSAGE_MAX = 8_000
EXPRESSION_DEPTH_MAX = 250
OUTPUT = "/proc/self/fd/1"
UNSEALED_TOO_LARGE = (
    "The points that are not sealed yet need more memory than a query may use on this server."
)

DuckDB = duckdb.DuckDBPyConnection


class LimitReached(Exception):
    """The statement needs more than it may have."""


class Output:
    """The answer's bytes on their way to standard output."""

    def __init__(self, control_fd: int) -> None:
        self._control_fd = control_fd
        self._held = bytearray()
        self._begun = False

    def tell(self, **message: Any) -> None:
        """Tells the parent something."""
        line = json.dumps(message).encode() + b"\n"
        os.write(self._control_fd, line)

    def begin(self) -> None:
        """Says that the answer has begun: from now on an error can only cut it short."""
        if not self._begun:
            self._begun = True
            self.tell(begun=True)

    def write(self, data: bytes | memoryview) -> int:
        """Takes bytes; they leave when enough are there."""
        self._held += data
        if len(self._held) >= FLUSH_BYTES:
            self.flush()
        return len(data)

    def flush(self) -> None:
        """Sends what is held."""
        self.begin()
        view = memoryview(bytes(self._held))
        self._held.clear()
        while view:
            view = view[os.write(1, view) :]


def open_locked_down(limits: Limits) -> DuckDB:
    """DuckDB in memory with everything off that a query does not need."""
    connection = duckdb.connect(
        ":memory:",
        config={
            "memory_limit": f"{limits.memory_mb}MB",
            "threads": limits.threads,
            "temp_directory": "",
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "allow_community_extensions": False,
            "allow_unsigned_extensions": False,
            "allow_persistent_secrets": False,
            "python_enable_replacements": False,
        },
    )
    # Part of the wheel: nothing is read or downloaded.
    connection.execute("LOAD parquet; LOAD json; LOAD icu")
    connection.execute(f"SET TimeZone = 'UTC'; SET max_expression_depth = {EXPRESSION_DEPTH_MAX}")
    return connection


def lock(connection: DuckDB, folder: Path, *, to_output: bool) -> None:
    """Bounds DuckDB to reading the folder (and, for Parquet, writing to the output), for good."""
    connection.execute(f"SET allowed_directories = [{quoted(str(folder))}]")
    if to_output:
        connection.execute(f"SET allowed_paths = [{quoted(OUTPUT)}]")
    connection.execute("SET enable_external_access = false; SET lock_configuration = true")


def trimmed(text: str) -> str:
    """The statement without semicolons and comments behind it."""
    data = text.encode()
    kept = data
    for offset, kind in reversed(duckdb.tokenize(text)):
        if kind == duckdb.token_type.comment or data[offset : offset + 1] == b";":
            kept = data[:offset]
        else:
            break
    return kept.decode(errors="replace").rstrip()


def checked(connection: DuckDB, text: str) -> str:
    """The statement, where it is one query; raises StatementError."""
    if "\0" in text:
        raise StatementError("A statement can't hold the character NUL.")
    statement = trimmed(text)
    kinds = [one.type for one in connection.extract_statements(statement)]
    if not kinds:
        raise StatementError("There is no statement.")
    if len(kinds) > 1:
        raise StatementError(f"Send one statement: these are {len(kinds)}.")
    about = explained(statement)
    if kinds[0] == duckdb.StatementType.EXPLAIN and about is not None:
        checked(connection, about.inner)
        return statement
    # A PIVOT over values that are to be found is several statements to DuckDB.
    queries = (duckdb.StatementType.SELECT, duckdb.StatementType.MULTI)
    if kinds[0] not in queries or not begins_as_query(statement):
        raise StatementError(
            "Only queries can be run: SELECT, WITH, FROM, VALUES, PIVOT, DESCRIBE, SUMMARIZE, SHOW "
            f"and EXPLAIN of one, not {kinds[0].name}."
        )
    return statement


class _Placed(Exception):
    """DuckDB's error for the statement from its second line on."""


class Query:
    """One checked statement with its parameters, as it is run."""

    def __init__(self, connection: DuckDB, statement: str, parameters: Any) -> None:
        self._connection = connection
        self.parameters = parameters or None
        self.statement = statement
        if explained(statement) is not None:
            # It can't stand within another, so its few rows are taken out and put into one.
            rows = connection.cursor().execute(statement, self.parameters).fetchall()
            self.parameters = [text for row in rows for text in row]
            values = ", ".join(["(?::VARCHAR, ?::VARCHAR)"] * len(rows))
            self.statement = f"SELECT * FROM (VALUES {values}) AS t(explain_key, explain_value)"
        kind = connection.extract_statements(self.statement)[0].type
        if kind == duckdb.StatementType.MULTI:
            self.statement = f"FROM (\n{self.statement}\n)"
        relation = self._bound()
        self.columns = [
            ResultColumn(name, str(kind))
            for name, kind in zip(relation.columns, relation.types, strict=True)
        ]

    def _bound(self) -> Any:
        try:
            return self._connection.cursor().sql(self.statement, params=self.parameters)
        except duckdb.Error as error:
            if "\nLINE " in str(error):
                raise
            # Asked this way DuckDB says where; nothing is run.
            asked = f"EXPLAIN FROM (\n{self.statement}\n)"
            try:
                self._connection.cursor().execute(asked, self.parameters)
            except duckdb.Error as placed:
                raise _Placed(str(placed)) from placed
            raise

    def arrow_relation(self, rows_max: int | None) -> Any:
        """The rows as a relation, at most so many of them."""
        cells = [
            # The encoder knows no dictionaries, which is what an ENUM becomes.
            f"c{number}{'::VARCHAR' if column.type.startswith('ENUM') else ''} AS {_name(column)}"
            for number, column in enumerate(self.columns)
        ]
        given = ", ".join(f"c{number}" for number in range(len(self.columns)))
        statement = f"SELECT {', '.join(cells)} FROM (\n{self.statement}\n) AS t({given})"
        if rows_max is not None:
            statement += f" LIMIT {rows_max}"
        return self._connection.cursor().sql(statement, params=self.parameters)

    def texts(self, format: Any) -> Iterator[list[str]]:
        """The rows as texts, some at a time."""
        cursor = self._connection.cursor()
        cursor.execute(statement_for(format, self.statement, self.columns), self.parameters)
        mend = format != "csv" and may_hold_bare_numbers(self.columns)
        while rows := cursor.fetchmany(BATCH_ROWS):
            texts = [row for (row,) in rows]
            yield [mended(row) for row in texts] if mend else texts

    def copy(self, rows_max: int) -> int:
        """Writes the rows to the output as Parquet, at most so many; how many they were."""
        statement = (
            f"COPY (SELECT * FROM (\n{self.statement}\n) LIMIT {rows_max})"
            f" TO {quoted(OUTPUT)} (FORMAT parquet, COMPRESSION zstd, USE_TMP_FILE false)"
        )
        found = self._connection.cursor().execute(statement, self.parameters).fetchall()
        # For a PIVOT DuckDB does not say how many they were.
        return int(found[0][0]) if found else 0


def _name(column: ResultColumn) -> str:
    return '"' + column.name.replace('"', '""') + '"'


def answer(query: Query, job: dict[str, Any], output: Output) -> tuple[int, bool]:
    """Writes the answer; how many rows it has, and whether the caller's own bound cut it.

    Raises LimitReached where the server's bound is passed.
    """
    format, wanted, rows_max = job["format"], job["max_rows"], job["rows_max"]
    bound = rows_max if wanted is None else min(wanted, rows_max)
    truncates = wanted is not None and wanted <= rows_max
    if format == "arrow":
        return _answer_arrow(query, output, bound, truncates=truncates, rows_max=rows_max), False
    if format == "parquet":
        output.begin()
        rows = query.copy(bound if truncates else rows_max + 1)
        _require(rows, rows_max)
        return rows, False
    output.write(opening(format, query.columns).encode())
    between = separator(format)
    rows = 0
    truncated = False
    for texts in query.texts(format):
        if rows + len(texts) > bound:
            if not truncates:
                _require(rows + len(texts), rows_max)
            texts = texts[: bound - rows]
            truncated = True
        if texts:
            piece = (between if rows else "") + between.join(texts)
            output.write(piece.encode(errors="replace"))
            rows += len(texts)
        if truncated:
            break
    output.write(closing(format, rows=rows, truncated=truncated).encode())
    return rows, truncated


class _Capsule:
    """Hands a stream of Arrow's C interface on."""

    def __init__(self, capsule: Any) -> None:
        self._capsule = capsule

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self._capsule


def _answer_arrow(
    query: Query, output: Output, bound: int, *, truncates: bool, rows_max: int
) -> int:
    relation = query.arrow_relation(bound if truncates else None)
    stream = nanoarrow.c_array_stream(_Capsule(relation.__arrow_c_stream__()))
    rows = 0
    with nanoarrow.ipc.StreamWriter.from_writable(output) as writer:
        for array in stream:
            rows += len(array)
            _require(rows, rows_max)
            writer.write_array(array)
        if not rows:
            writer.write_stream(nanoarrow.c_array_stream([], stream.get_schema()))
    return rows


def _require(rows: int, rows_max: int) -> None:
    if rows > rows_max:
        raise LimitReached(
            f"The answer has more than {rows_max:,} rows, the most that this server sends. "
            "Aggregate, or send LIMIT or max_rows."
        )


def run(connection: DuckDB, job: dict[str, Any], output: Output) -> None:
    """Runs the job and tells how it went."""
    folder = Path.cwd()

    def hidden(message: str) -> str:
        return message.replace(f"{folder}/", "").replace(f"{job['folder']}/", "")

    try:
        connection.execute(f"SET threads = {int(job['threads'])}")
        declare_metrics(connection, Path())
        lock(connection, folder, to_output=job["format"] == "parquet")
        for declaration in job["declarations"]:
            # With names relative to the folder no plan and no error says where it lies.
            connection.execute(hidden(declaration))
    except (MemoryError, duckdb.OutOfMemoryException):
        output.tell(failed="limit", message=UNSEALED_TOO_LARGE)
        return
    except duckdb.Error as error:
        output.tell(failed="fault", message=f"the tables can't be made: {error}")
        return
    try:
        _run(connection, str(job["statement"]), job, output)
    except StatementError as error:
        message = hidden(error.message)
        output.tell(failed="statement", message=message, line=error.line, column=error.column)
    except (LimitReached, MemoryError, duckdb.OutOfMemoryException) as error:
        message = str(error).split("\n\n")[0] or "Out of Memory Error"
        output.tell(failed="limit", message=message)


def _run(connection: DuckDB, text: str, job: dict[str, Any], output: Output) -> None:
    lines_before = 0
    try:
        statement = checked(connection, text)
        query = Query(connection, statement, job["parameters"])
        lines_before = 1
        rows, truncated = answer(query, job, output)
    except duckdb.OutOfMemoryException:
        raise
    except _Placed as error:
        raise located(str(error)[:MESSAGE_MAX], text, 1) from error
    except (duckdb.Error, ValueError, TypeError, RuntimeError, OverflowError) as error:
        message = str(error).split("\n\nStack Trace")[0]
        raise located(message[:MESSAGE_MAX], text, lines_before) from error
    output.flush()
    output.tell(done=True, rows=rows, truncated=truncated)


def main(control_fd: int, settings: dict[str, Any], parent_id: int) -> None:
    """Runs the program in a process that is made for it: the pipe for messages, settings, and the
    process with which it ends."""
    die_with_parent(parent_id)
    limits = Limits(settings["memory_mb"], settings["threads"], settings["cpu_s"])
    output = Output(control_fd)
    with contextlib.closing(size_reader()) as reader:
        confined = confine(Path.cwd())
        connection = open_locked_down(limits)
        limit_use(limits, reader)
    output.tell(ready=True, landlock=confined.landlock, system_calls=confined.system_calls)
    readable, _, _ = select.select([0], [], [], settings["idle_s"])
    if not readable:
        os._exit(0)
    with os.fdopen(0, "rb") as given:
        data = given.read()
    if data:
        output.tell(taken=True)
        try:
            run(connection, json.loads(data), output)
        except Exception as error:
            output.tell(failed="fault", message=f"{type(error).__name__}: {error}"[:MESSAGE_MAX])
    # DuckDB would tidy up what ends anyway.
    os._exit(0)
