"""The log on database servers: what its database refuses, and what it refuses of a database."""

from __future__ import annotations

import dataclasses
import threading
from typing import Any, cast

import click
import pytest
import sqlalchemy as sa
import structlog
from click.testing import CliRunner

from events.event import JOURNAL, POINTS, NewEvent
from events.log import LogError
from events.mysql_log import MysqlDialect
from events.places import DATABASE_SCHEMES, SettingError
from events.postgresql_log import PostgresqlDialect
from events.settings import Settings
from events.sql_log import SqlLog
from events.sql_servers import Pool, kind_of, open_server
from events.sql_writer import Dialect
from infra.backends.service import Service
from projections.server_views import ServerViews
from tests.sql_logs import event, subjects
from workers.options import arguments_of, environment_of, server_options, settings_from
from workers.stores import opened_stores, pool_of


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM log_journal",
        "UPDATE log_journal SET data = 'x'",
        "UPDATE log_journal SET position = 9",
        "UPDATE log_journal SET scrubbed = true",
        "UPDATE log_journal SET type = 'run.purged'",
        "DELETE FROM log_points",
        "UPDATE log_points SET data = ''",
    ],
)
def test_the_server_itself_refuses_to_change_events(server_uri: str, statement: str) -> None:
    """UPDATE and DELETE are refused by triggers, whoever is connected."""
    log = SqlLog(server_uri)
    log.append([event("a"), event("a", "points")])
    engine = open_server(server_uri)
    with (
        pytest.raises(sa.exc.DBAPIError, match="append-only"),
        engine.connect() as connection,
    ):
        connection.exec_driver_sql(statement)
    engine.dispose()
    assert [one.data for one in log.read(JOURNAL, 0, 9)] == [b"{}"]
    log.close()


def test_what_is_scrubbed_only_loses(server_uri: str) -> None:
    """Of a purged subject the server lets data go, and no longer data nor another purge come."""
    log = SqlLog(server_uri)
    purge = NewEvent("journal", "run.purged", 1, "a", 1, b"{}")
    log.append([event("a"), event("a", "points"), purge])
    engine = open_server(server_uri)
    set_to = "UPDATE log_{} SET scrubbed = true, data = {} WHERE position = {}"
    for refused in (
        set_to.format("journal", f"'{'x' * 97}'", 1),
        set_to.format("points", f"'{'x' * 97}'", 1),
        set_to.format("journal", "'{}'", 2),
    ):
        with (
            pytest.raises(sa.exc.DBAPIError, match="append-only"),
            engine.connect() as connection,
        ):
            connection.exec_driver_sql(refused)
    with engine.connect() as connection:
        connection.exec_driver_sql(set_to.format("journal", f"'{'x' * 96}'", 1))
    engine.dispose()
    log.close()


def test_postgresql_refuses_to_empty_the_log(postgresql_uri: str) -> None:
    """TRUNCATE is refused too."""
    SqlLog(postgresql_uri).close()
    engine = open_server(postgresql_uri)
    with (
        pytest.raises(sa.exc.DBAPIError, match="append-only"),
        engine.connect() as connection,
    ):
        connection.exec_driver_sql("TRUNCATE log_points")
    engine.dispose()


def test_another_opener_sees_the_same(server_uri: str) -> None:
    """A second opening has the identity and the events of the first, and appends go on."""
    first, second = SqlLog(server_uri), SqlLog(server_uri, make=False)
    first.append([event("a")])
    assert second.identity == first.identity
    assert second.append([event("b")]) == [2]
    assert subjects(first) == ["a", "b"]
    first.close()
    second.close()


def test_two_that_begin_at_once_make_one_log(server_uri: str) -> None:
    """Six processes that open an empty database have one log."""
    found: list[str] = []

    def begin() -> None:
        log = SqlLog(server_uri)
        found.append(log.identity.log_id)
        log.append([event("x")])
        log.close()

    threads = [threading.Thread(target=begin) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log = SqlLog(server_uri)
    assert (len(found), len(set(found)), log.head(JOURNAL)) == (6, 1, 6)
    log.close()


def test_a_log_of_a_later_version_is_refused(server_uri: str) -> None:
    """A schema that this code does not know is refused with the reason; so is a missing log where
    none is to be made."""
    with pytest.raises(LogError, match="there is no log in"):
        SqlLog(server_uri, make=False)
    SqlLog(server_uri).close()
    engine = open_server(server_uri)
    with engine.connect() as connection:
        connection.exec_driver_sql("UPDATE log_meta SET value = '99' WHERE name = 'schema_version'")
    engine.dispose()
    with pytest.raises(LogError, match="schema version 99"):
        SqlLog(server_uri)


def test_a_server_that_does_not_keep_its_word_is_refused(
    own_postgresql: Service, own_mariadb: Service
) -> None:
    """Settings with which a commit can be lost are refused at the start, each by its name; and
    before an append, where the connection is made anew."""
    log = SqlLog(own_postgresql.uri, Pool(recycle_s=0))
    log.append([event("before")])
    engine = open_server(own_postgresql.uri)
    with engine.connect() as connection:
        connection.exec_driver_sql("ALTER ROLE postgres SET synchronous_commit = off")
    engine.dispose()
    with pytest.raises(LogError, match="synchronous_commit=off"):
        SqlLog(own_postgresql.uri)
    with pytest.raises(LogError, match="synchronous_commit=off"):
        log.append([event("since")])
    assert log.head(JOURNAL) == 1
    log.close()
    engine = open_server(own_mariadb.uri)
    with engine.connect() as connection:
        connection.exec_driver_sql("SET GLOBAL innodb_flush_log_at_trx_commit = 2")
    engine.dispose()
    with pytest.raises(LogError, match="innodb_flush_log_at_trx_commit=2"):
        SqlLog(own_mariadb.uri)


class Says:
    """A cursor of a server that says this of its settings."""

    def __init__(self, *settings: Any) -> None:
        self._settings = settings

    def execute(self, _statement: str) -> None:
        """Takes a question."""

    def fetchone(self) -> tuple[Any, ...]:
        """Answers it."""
        return self._settings


@pytest.mark.parametrize(
    ("dialect", "settings", "why"),
    [
        (PostgresqlDialect, ("on", "off", "UTF8", False), "fsync=off"),
        (PostgresqlDialect, ("off", "on", "UTF8", False), "synchronous_commit=off"),
        (PostgresqlDialect, ("on", "on", "LATIN1", False), "encoding LATIN1"),
        (PostgresqlDialect, ("on", "on", "UTF8", True), "standby"),
        (MysqlDialect, (2, 0, 1, 1 << 24), "innodb_flush_log_at_trx_commit=2"),
        (MysqlDialect, (1, 1, 0, 1 << 24), "sync_binlog=0"),
        (MysqlDialect, (1, 0, 1, 1 << 19), "max_allowed_packet=524288"),
    ],
)
def test_each_setting_that_loses_events_is_refused(
    dialect: type[Dialect], settings: tuple[Any, ...], why: str
) -> None:
    """Also those that a test's own server can't be given in passing; without it all is well."""
    with pytest.raises(LogError, match=why):
        dialect().check(Says(*settings))
    PostgresqlDialect().check(Says("on", "on", "UTF8", False))
    MysqlDialect().check(Says(1, 0, 0, 1 << 24))


def test_a_server_that_is_not_there_says_so() -> None:
    """The message names the server, and no password."""
    with pytest.raises(LogError, match="can't be reached") as refused:
        SqlLog("postgresql://me:hidden@127.0.0.1:1/nothing")
    assert "hidden" not in str(refused.value)


def test_every_scheme_that_the_settings_take_has_a_kind() -> None:
    """What --log-uri lets through can be opened."""
    assert {kind_of(f"{scheme}://host/db") for scheme in DATABASE_SCHEMES} == {
        "postgresql",
        "mysql",
    }
    assert kind_of("oracle://host/db") is None


def test_what_is_read_on_mariadb_is_on_the_disk(mariadb_uri: str) -> None:
    """InnoDB shows commits before they are on the disk: a reader commits once itself behind what
    is new to it, and not for what it knows, nor for what it wrote itself."""
    engine = open_server(mariadb_uri)

    def flushes() -> int:
        query = "SELECT value FROM log_meta WHERE name = 'flushes'"
        with engine.connect() as connection:
            return int(connection.exec_driver_sql(query).scalar() or 0)

    writer, reader = SqlLog(mariadb_uri), SqlLog(mariadb_uri)
    writer.append([event("a"), event("b"), event("c", "points")])
    counts = []
    for read in (reader, reader, writer):
        assert len(read.read(JOURNAL, 0, 9)) == 2
        assert len(read.read(POINTS, 0, 9)) == 1
        counts.append(flushes())
    writer.append([event("d")])
    assert len(reader.read(JOURNAL, 2, 9)) == 1
    assert [*counts, flushes()] == [1, 1, 1, 2]
    for one in (writer, reader):
        one.close()
    engine.dispose()


def test_a_refusal_shows_nothing_of_what_was_sent(server_uri: str) -> None:
    """What others sent in the same commit is not told to who gets the error."""
    log = SqlLog(server_uri)
    bad = NewEvent("points", "points.logged", 1, None, 1, b"")  # type: ignore[arg-type]
    with pytest.raises(LogError, match="refused an append") as refused:
        log.append([NewEvent("points", "points.logged", 1, "a secret", 1, b"hidden"), bad])
    assert "secret" not in str(refused.value)
    assert "\n" not in str(refused.value)
    log.close()


def test_a_large_append_goes_in_several_messages(mariadb: Service, mariadb_uri: str) -> None:
    """MariaDB takes no message beyond a bound; an append of more than that is one transaction all
    the same, and text of any kind comes back as it was."""
    log = SqlLog(mariadb_uri)
    large = [
        NewEvent("points", "points.logged", 1, str(number), 1, bytes(range(256)) * 20_000)
        for number in range(8)
    ]
    told = NewEvent("journal", "run.updated", 1, "é", 1, '{"%s": "日本 \'\\" ; 😀"}'.encode())
    assert log.append([*large, told]) == [*range(1, 9), 1]
    assert [one.data for one in log.read(POINTS, 0, 9)] == [one.data for one in large]
    assert log.read(JOURNAL, 0, 9)[0].data == told.data
    assert mariadb.process is not None
    log.close()


def test_a_password_is_on_no_command_line() -> None:
    """The processes of a server get the log's URI by their environment, not as an argument that
    every user of the machine can read."""
    settings = Settings(log_uri="postgresql://me:hidden@host/db", port=5001)
    assert "hidden" not in " ".join(arguments_of(settings))
    assert "5001" in arguments_of(settings)
    assert environment_of(settings)["RUNFOLD_LOG_URI"] == "postgresql://me:hidden@host/db"


def test_the_pool_is_as_mlflows_variables_say(
    postgresql_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All five, each as MLflow hands it to SQLAlchemy; a class with which threads would share a
    connection is refused by its name."""
    variables = {"POOL_SIZE": "2", "MAX_OVERFLOW": "3", "POOL_RECYCLE": "60", "ECHO": "true"}
    for name, value in variables.items():
        monkeypatch.setenv(f"MLFLOW_SQLALCHEMYSTORE_{name}", value)
    pool = pool_of(settings_of_environment())
    assert pool == Pool(2, 3, 60, "QueuePool", echo=True)
    engine = open_server(postgresql_uri, pool)
    assert isinstance(engine.pool, sa.QueuePool)
    assert (engine.pool.size(), engine.pool._max_overflow, engine.pool._recycle) == (2, 3, 60)
    engine.dispose()
    given = dataclasses.replace(
        settings_of_environment(), log_uri=postgresql_uri, views_uri=postgresql_uri
    )
    with opened_stores(given, with_lake=False) as stores:
        stores.views.create()
        log, views = cast(SqlLog, stores.log), cast(ServerViews, stores.views)
        pools = [log._engine.pool, views._current().reader.pool, log._writer._engine.pool]
        found = [(one.size(), one._max_overflow, one._recycle) for one in cast(list[Any], pools)]
    # The writer's is one connection, which it sees to itself.
    assert found == [(2, 3, 60), (2, 3, 60), (1, 0, 60)]
    monkeypatch.setenv("MLFLOW_SQLALCHEMYSTORE_POOLCLASS", "NullPool")
    engine = open_server(postgresql_uri, pool_of(settings_of_environment()))
    assert isinstance(engine.pool, sa.NullPool)
    engine.dispose()
    monkeypatch.setenv("MLFLOW_SQLALCHEMYSTORE_POOLCLASS", "StaticPool")
    with pytest.raises(SettingError, match="QueuePool or NullPool, not 'StaticPool'"):
        pool_of(settings_of_environment())


def settings_of_environment() -> Settings:
    """The settings of a command that is given nothing on its command line."""
    found: list[Settings] = []

    @click.command()
    @server_options
    def command(**options: object) -> None:
        found.append(settings_from(options))

    assert CliRunner().invoke(command, []).exit_code == 0
    return found[0]


@pytest.mark.parametrize("kind", ["QueuePool", "NullPool"])
def test_a_log_works_with_every_pool_and_tells_what_it_asks(server_uri: str, kind: str) -> None:
    """Also with a single connection; with echo its statements are in the log lines."""
    with structlog.testing.capture_logs() as lines:
        log = SqlLog(server_uri, Pool(1, 0, 60, kind, echo=True))
        assert log.append([event("a"), event("a", "points")]) == [1, 1]
        assert subjects(log) == ["a"]
        assert [one.subject for one in log.about("points", "a")] == ["a"]
        log.close()
    told = [line["sql"] for line in lines if line["event"] == "statement"]
    assert any("log_journal" in sql and "SELECT position" in sql for sql in told)
    assert any("log_heads" in sql and "UPDATE" in sql for sql in told)


def test_a_log_of_no_known_kind_is_refused() -> None:
    """The message says what can be given, and shows no password."""
    assert Settings().log_place == "sqlite:///runfold-data/log.db"
    for uri in ("oracle://me:hidden@host/db", "runs/log.db", "sqlite:log.db"):
        with pytest.raises(SettingError, match="mysql\\+pymysql://USER@HOST/DATABASE") as refused:
            _ = Settings(log_uri=uri).log_place
        assert "hidden" not in str(refused.value)
