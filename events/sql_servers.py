"""PostgreSQL and MySQL as everything here opens them: the one home of their drivers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import sqlalchemy as sa
import structlog

from events.places import DATABASE_SCHEMES

logger = structlog.get_logger(__name__)

Kind = Literal["postgresql", "mysql"]

CONNECT_S_MAX = 10
ECHO_CHARACTERS_MAX = 2_000
_DRIVERS: dict[Kind, str] = {"postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql"}
_PACKAGES: dict[Kind, str] = {"postgresql": "psycopg[binary]", "mysql": "pymysql[rsa]"}
_SESSION: dict[Kind, tuple[str, ...]] = {
    "postgresql": ("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED",),
    # Strict: what does not fit is an error, where it would be cut without a word.
    "mysql": (
        "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION'",
        "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
    ),
}


class DriverMissing(Exception):
    """The driver of this kind of server is not installed; the message says how to install it."""


@dataclass(frozen=True)
class Pool:
    """How many connections a process keeps to a server, as SQLAlchemy counts them."""

    size: int = 5
    max_overflow: int = 10
    recycle_s: int = -1
    """Seconds after which a connection is replaced; -1: never."""
    kind: str = "QueuePool"
    """A name of `events.settings.POOL_CLASSES`."""
    echo: bool = False
    """Whether each statement is logged."""

    def arguments(self) -> dict[str, Any]:
        """The same, in the words of `sa.create_engine`."""
        if self.kind == "NullPool":
            return {"poolclass": sa.NullPool}
        return {
            "pool_size": self.size,
            "max_overflow": self.max_overflow,
            "pool_recycle": self.recycle_s,
            "pool_use_lifo": True,
        }


DEFAULT_POOL = Pool()


def kind_of(uri: str) -> Kind | None:
    """What kind of server a URI names, whatever driver it asks for; None where it names none that
    is known here."""
    scheme = uri.partition("://")[0]
    if scheme not in DATABASE_SCHEMES:
        return None
    return "postgresql" if scheme.startswith("postgresql") else "mysql"


def shown(uri: str) -> str:
    """The URI without its password, for messages."""
    return sa.make_url(uri).render_as_string(hide_password=True)


def open_server(uri: str, pool: Pool = DEFAULT_POOL, *, client_flag: int = 0) -> sa.Engine:
    """An engine whose statements commit by themselves, unless a transaction is begun.

    `client_flag` is given to MySQL's driver. Raises DriverMissing, and ValueError for a URI that
    names no such server.
    """
    kind = kind_of(uri)
    if kind is None:
        raise ValueError(f"not the URI of a database server: {shown(uri)}")
    url = sa.make_url(uri).set(drivername=_DRIVERS[kind])
    try:
        engine = sa.create_engine(
            url,
            isolation_level="AUTOCOMMIT",
            **pool.arguments(),
            # MySQL would be asked over the network to roll back what has committed by itself.
            skip_autocommit_rollback=True,
            connect_args=_connect_args(kind, url, client_flag),
        )
    except ModuleNotFoundError as error:
        raise DriverMissing(
            f"{error.name} is not installed, which speaks to the server of "
            f"{url.render_as_string(hide_password=True)}: pip install '{_PACKAGES[kind]}'"
        ) from error
    if pool.echo:
        echo(engine)
    sa.event.listen(engine, "connect", _configuring(_SESSION[kind]))
    return engine


def echo(engine: sa.Engine) -> None:
    """Logs each statement on the engine's connections, also those that SQLAlchemy does not see
    since they go to the driver directly."""

    def configure(connection: Any, _record: Any) -> None:
        name = "cursorclass" if engine.dialect.driver == "pymysql" else "cursor_factory"
        setattr(connection, name, _echoing(getattr(connection, name)))

    sa.event.listen(engine, "connect", configure)


@cache
def _echoing(cursor_class: type[Any]) -> type[Any]:
    class Echoing(cursor_class):  # type: ignore[misc]
        """A cursor that tells what it does."""

        def execute(self, query: Any, *arguments: Any, **options: Any) -> Any:
            logger.info("statement", sql=str(query)[:ECHO_CHARACTERS_MAX])
            return super().execute(query, *arguments, **options)

    return Echoing


def _connect_args(kind: Kind, url: sa.URL, client_flag: int) -> dict[str, Any]:
    if kind == "postgresql":
        # A peer that has gone without a word is noticed within two minutes.
        wanted: dict[str, Any] = {
            "connect_timeout": CONNECT_S_MAX,
            "application_name": "runfold",
            "keepalives_idle": 60,
            "keepalives_interval": 10,
            "keepalives_count": 6,
        }
    else:
        wanted = {"connect_timeout": CONNECT_S_MAX, "charset": "utf8mb4"}
        if client_flag:
            wanted["client_flag"] = client_flag
    return {name: value for name, value in wanted.items() if name not in url.query}


def _configuring(statements: tuple[str, ...]) -> Callable[[Any, Any], None]:
    """What is done to each new connection."""

    def configure(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        for statement in statements:
            cursor.execute(statement)
        cursor.close()

    return configure
