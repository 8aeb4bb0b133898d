"""SQL over every run: one statement, run in a process of its own over a snapshot that is fresh."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any, Final, ParamSpec, TypeVar

import msgspec
import sqlalchemy as sa
import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from api.errors import error_response
from api.limits import check_experiment_id
from api.query_slots import QuerySlots
from api.requests import Int64, RequiredText, decode
from api.services import Services, services_of
from events.errors import InvalidParameterValue, NotImplementedHere, TemporarilyUnavailable
from projections.query_formats import FORMATS, MEDIA_TYPES, Format
from projections.query_process import Child, Job, QueryFailed, RunningQuery
from projections.query_statement import names_in
from projections.sql_snapshot import SegmentGone, Snapshot, fetch_ahead, take_snapshot
from projections.sql_tables import BY_NAME

logger = structlog.get_logger(__name__)

QUERY_NAMES: Final = frozenset({*BY_NAME, "run_table", "curves"})
STATEMENT_LENGTH_MAX: Final = 100_000
PARAMETERS_MAX: Final = 1_000
SNAPSHOTS_MAX: Final = 5
"""How often a snapshot is taken again because compaction took a file away."""
WHOLE_BYTES_MAX: Final = 256 * 1024
"""A larger answer is sent while it is made."""
SEND_MAX_S: Final = 60.0
"""A client that takes nothing for so long is taken for gone."""

P = ParamSpec("P")
T = TypeVar("T")


class RunSql(msgspec.Struct):
    """POST runfold/sql."""

    statement: RequiredText
    parameters: Any = None
    experiment_ids: list[str] | None = None
    format: str | None = None
    max_rows: Int64 | None = None


async def run_sql(request: Request) -> Response:
    """Runs one query and answers with its rows."""
    asked = await decode(request, RunSql)
    job = _job(asked)
    services = services_of(request)
    if services.settings.sql_concurrent < 1:
        raise NotImplementedHere("This server takes no SQL: its setting --sql-concurrent is 0.")
    slots: QuerySlots = request.app.state.query_slots
    await slots.acquire()
    turn = _Turn(slots)
    try:
        async with _watched(request.receive, turn):
            return await _answer(services, turn, job, asked.experiment_ids)
    except QueryFailed as error:
        await turn.end()
        if turn.abandoned:
            raise ClientDisconnect from None
        return _failure(error)
    except BaseException:
        await turn.end()
        raise


def _job(asked: RunSql) -> Job:
    format = asked.format or "json"
    if format not in FORMATS:
        raise InvalidParameterValue(
            f"Invalid value {format[:100]!r} for parameter 'format': send one of "
            f"{', '.join(FORMATS)}."
        )
    if len(asked.statement) > STATEMENT_LENGTH_MAX:
        raise InvalidParameterValue(
            f"Invalid value for parameter 'statement': it has {len(asked.statement)} characters, "
            f"at most {STATEMENT_LENGTH_MAX} are allowed."
        )
    if asked.max_rows is not None and asked.max_rows < 0:
        raise InvalidParameterValue(
            f"Invalid value {asked.max_rows} for parameter 'max_rows': it can't be negative."
        )
    _check_parameters(asked.parameters)
    for number, experiment_id in enumerate(asked.experiment_ids or ()):
        check_experiment_id(experiment_id, f"experiment_ids[{number}]")
    return Job(
        asked.statement,
        parameters=asked.parameters,
        format=_as_format(format),
        max_rows=asked.max_rows,
    )


def _as_format(text: str) -> Format:
    return next(format for format in FORMATS if format == text)


def _check_parameters(sent: Any) -> None:
    if sent is None:
        return
    if not isinstance(sent, (list, dict)):
        raise InvalidParameterValue(
            "Invalid value for parameter 'parameters': send a list, for ? and $1, or an object, "
            "for $name."
        )
    if len(sent) > PARAMETERS_MAX:
        raise InvalidParameterValue(
            f"Invalid value for parameter 'parameters': {len(sent)} were sent, at most "
            f"{PARAMETERS_MAX} are allowed."
        )
    for name, value in sent.items() if isinstance(sent, dict) else enumerate(sent):
        if isinstance(value, dict):
            raise InvalidParameterValue(
                f"Invalid value for parameter 'parameters[{name}]': a text, a number, true, false, "
                "null, or a list of them can be given."
            )


async def _answer(
    services: Services, turn: _Turn, job: Job, experiment_ids: list[str] | None
) -> Response:
    await services.views.read(_nothing)
    await turn.call(turn.take)
    assert turn.child is not None
    snapshot = await _snapshot(services, turn, turn.child, job, experiment_ids)
    job = replace(job, threads_max=turn.slots.threads_max())
    query = RunningQuery(turn.child, job, snapshot.statements, turn.slots.gives_way)
    await turn.call(query.begin)
    pieces: list[bytes] = []
    while sum(map(len, pieces)) <= WHOLE_BYTES_MAX:
        data = await turn.call(query.read)
        if not data:
            await turn.end()
            return Response(b"".join(pieces), headers=_headers(job.format))
        pieces.append(data)
    return _Streamed(turn, query, b"".join(pieces), job.format)


async def _snapshot(
    services: Services, turn: _Turn, child: Child, job: Job, experiment_ids: list[str] | None
) -> Snapshot:
    tables = names_in(job.statement, QUERY_NAMES)
    views, lake = services.views_file, services.lake
    for _ in range(SNAPSHOTS_MAX):
        with contextlib.suppress(SegmentGone):
            if lake.is_remote:
                await turn.call(fetch_ahead, views, lake, experiment_ids, tables)
            async with turn.slots.snapshot_turn:
                return await turn.call(
                    take_snapshot, views, services.log, lake, experiment_ids, child.folder, tables
                )
    raise TemporarilyUnavailable(
        "A file of the lake is missing. Try again shortly; if that does not help, `runfold "
        "rebuild` makes the views and the lake anew from the log."
    )


def _nothing(_connection: sa.Connection) -> None:
    """A read of nothing: what counts is the wait before it."""


def _headers(format: Format) -> dict[str, str]:
    return {"content-type": MEDIA_TYPES[format], "x-content-type-options": "nosniff"}


def _failure(error: QueryFailed) -> Response:
    """The answer to a query that failed: what was wrong with it, or which limit it met."""
    details = {"line": error.line, "column": error.column}
    return error_response(
        "BAD_REQUEST" if error.is_limit else "INVALID_PARAMETER_VALUE",
        error.message,
        details={name: value for name, value in details.items() if value is not None},
    )


class _Turn:
    """One query's turn, from when it has one until its child is gone."""

    def __init__(self, slots: QuerySlots) -> None:
        self.slots = slots
        self._pending: asyncio.Future[Any] | None = None
        self._ended = False
        self.child: Child | None = None
        self.abandoned = False

    def take(self) -> None:
        """Takes a child. Blocks."""
        self.child = self.slots.take()

    async def call(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs a blocking call; `end` waits for it where nobody else does any more."""
        if self.abandoned:
            raise ClientDisconnect
        future = asyncio.ensure_future(self.slots.in_thread(call, *args, **kwargs))
        self._pending = future
        return await asyncio.shield(future)

    def abandon(self) -> None:
        """Ends the query because nobody waits for its answer."""
        self.abandoned = True
        if self.child is not None:
            self.child.kill()

    async def end(self) -> None:
        """Ends the child and gives the turn to the next."""
        if not self._ended:
            self._ended = True
            await asyncio.shield(asyncio.ensure_future(self._end()))

    async def _end(self) -> None:
        if self.child is not None:
            self.child.kill()
        if self._pending is not None:
            # A thread that reads from the child must be through before its pipes are closed.
            with contextlib.suppress(BaseException):
                await self._pending
        if self.child is not None:
            await self.slots.in_thread(self.child.close)
        self.slots.release()
        self.slots.refill()


@contextlib.asynccontextmanager
async def _watched(receive: Receive, turn: _Turn) -> AsyncIterator[None]:
    """Abandons the turn when the client goes away meanwhile."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        turn.abandon()

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()


class _Streamed(Response):
    """An answer that is sent while the query makes it.

    One that is cut short ends without its last chunk, so that no client takes it for whole.
    """

    def __init__(self, turn: _Turn, query: RunningQuery, first: bytes, format: Format) -> None:
        super().__init__(headers=_headers(format))
        del self.headers["content-length"]
        self._turn = turn
        self._query = query
        self._first = first

    async def __call__(
        self,
        scope: Scope,  # noqa: ARG002
        receive: Receive,
        send: Send,
    ) -> None:
        try:
            async with _watched(receive, self._turn):
                await send(
                    {
                        "type": "http.response.start",
                        "status": self.status_code,
                        "headers": self.raw_headers,
                    }
                )
                await self._send(send)
        except (QueryFailed, TimeoutError, ClientDisconnect) as error:
            if not self._turn.abandoned:
                reason = str(error) or "the client takes nothing"
                logger.warning("a SQL answer was cut short", reason=reason)
        finally:
            await self._turn.end()

    async def _send(self, send: Send) -> None:
        data = self._first
        while data:
            message = {"type": "http.response.body", "body": data, "more_body": True}
            await asyncio.wait_for(send(message), SEND_MAX_S)
            data = await self._turn.call(self._query.read)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


ROUTES = [Route("/api/2.0/runfold/sql", run_sql, methods=["POST"])]
