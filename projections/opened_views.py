"""Opens the views that a URI names."""

from __future__ import annotations

import importlib
from pathlib import Path

from events.sql_servers import DEFAULT_POOL, DriverMissing, Pool, kind_of, shown
from projections.database import Views
from projections.sqlite_views import SqliteViews

SQLITE = "sqlite:///"
# Each imports a driver, which not everybody has, and much else; so they are imported where they
# are asked for.
_SERVERS = {"postgresql": "projections.postgres_views", "mysql": "projections.mysql_views"}


def open_views(uri: str, log_id: str, pool: Pool = DEFAULT_POOL) -> Views:
    """The views of this log at `sqlite:///PATH` or on a server.

    `pool`: how many connections to keep to a server. Raises
    DriverMissing, and ValueError where the URI names no place that views can be in.
    """
    if uri.startswith(SQLITE):
        return SqliteViews(Path(uri.removeprefix(SQLITE)), log_id)
    return _on_server(uri, log_id, pool)


def made_views(address: str, log_id: str) -> Views:
    """Views that another process is making; see `Views.address`."""
    uri, _, generation = address.partition("#")
    if kind_of(uri) is None:
        return SqliteViews(Path(address), log_id, being_made=True)
    return _on_server(uri, log_id, DEFAULT_POOL, generation)


def _on_server(uri: str, log_id: str, pool: Pool, generation: str | None = None) -> Views:
    kind = kind_of(uri)
    if kind is None:
        raise ValueError(f"the views can't be kept in {uri.partition('://')[0]}://…")
    try:
        server = importlib.import_module(_SERVERS[kind])
    except ModuleNotFoundError as error:
        raise DriverMissing(
            f"{error.name} is not installed, which speaks to the server of {shown(uri)}: "
            f"pip install 'runfold[{kind}]'"
        ) from error
    views: Views = server.open_views(uri, log_id, pool, generation)
    return views
