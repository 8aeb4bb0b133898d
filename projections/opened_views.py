"""Opens the views that a URI names."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from events.sql_servers import DriverMissing, kind_of, shown
from projections.database import Views
from projections.server_views import ServerViews
from projections.sqlite_views import SqliteViews

SQLITE = "sqlite:///"
# Each imports a driver, which not everybody has; so they are imported where they are asked for.
_SERVERS = {
    "postgresql": ("projections.postgres_views", "Postgres"),
    "mysql": ("projections.mysql_views", "MySql"),
}


def open_views(uri: str, log_id: str, pool: Mapping[str, Any] | None = None) -> Views:
    """The views of this log at `sqlite:///PATH` or on a server.

    `pool`: how many connections to keep to a server, in the words of `sa.create_engine`. Raises
    DriverMissing, and ValueError where the URI names no place that views can be in.
    """
    if uri.startswith(SQLITE):
        return SqliteViews(Path(uri.removeprefix(SQLITE)), log_id)
    kind = kind_of(uri)
    if kind is None:
        raise ValueError(f"the views can't be kept in {shown(uri)!r}")
    module, name = _SERVERS[kind]
    try:
        server = getattr(importlib.import_module(module), name)(uri)
    except ModuleNotFoundError as error:
        raise DriverMissing(
            f"{error.name} is not installed, which speaks to the server of {shown(uri)}: "
            f"pip install 'runfold[{kind}]'"
        ) from error
    return ServerViews(server, log_id, pool)
