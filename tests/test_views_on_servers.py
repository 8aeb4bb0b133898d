"""The views on PostgreSQL and MariaDB: their answers are those of SQLite, and they are replaced,
locked and lost as the interface says."""

import json
import math
import random
import string
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import sqlalchemy as sa
from hypothesis import given
from structlog.testing import capture_logs

from events.codec import Series, make_block
from events.errors import TemporarilyUnavailable
from events.event import JOURNAL
from events.experiments import EXPERIMENT_CREATED, ExperimentCreated, Tag
from events.memory_log import MemoryLog
from events.metrics import POINTS_LOGGED
from events.runs import (
    RUN_BATCH_LOGGED,
    RUN_CREATED,
    RUN_DELETED,
    RUN_TAG_DELETED,
    Param,
    RunBatchLogged,
    RunCreated,
    RunDeleted,
    RunTag,
    RunTagDeleted,
)
from events.sql_servers import Pool
from infra.backends.service import Service
from projections.database import PROJECTOR, AlreadyRunning, Views
from projections.experiments import get_experiment, search_experiments
from projections.folding import rejected_between
from projections.opened_views import open_views
from projections.purges import Choice
from projections.run_documents import documents, search_documents
from projections.schema import view_meta
from projections.stored_texts import escaped, unescaped
from tests.homes import open_home
from tests.sql_cases import SqlCase, Tables, without_times
from tests.test_replay import EVENTS
from tests.test_sql_tables import Player, check, seen_by_others
from workers.gc import run_gc
from workers.projector import Projector
from workers.rebuild import run_rebuild
from workers.verify import run_verify

DOUBLE_MAX = sys.float_info.max
KINDS = ("experiment", "run", "run", "run", "model", "export", "seal", "round")
TEXTS = (
    *("x", "X ", "x ", "é", "É", "\x00a", "a\\b%_", "'\"", "𝕏" * 50, "z" * 6_000, ""),
    *("\x01", "\x02", "[a]*?"),
)
VALUES = (0.1 + 0.2, math.nan, math.inf, -math.inf, -0.0, 1e-320, DOUBLE_MAX, 2 / 3, 5, 6, 7, 8, 9)
FILTERS = (
    *(None, "params.p = 'x'", "params.p LIKE 'x%'", "params.p ILIKE 'X%'", "params.p != 'x'"),
    *("params.p ILIKE 'É'", "params.P ILIKE '%é%'", "params.p ILIKE 'Z%z_Z'"),
    *("params.p LIKE '%\\b%'", "metrics.m > 0.3", "metrics.m != 5", "metrics.m < 6"),
    f"metrics.m >= {DOUBLE_MAX!r}",
    "metrics.m < 5 and params.p LIKE '%'",
    f"tags.t = '{'z' * 6_000}'",
    "attributes.run_id IN ('r01','r02')",
    *("attributes.start_time > 5", "attributes.run_name LIKE 'name1%'"),
)
ORDERS: tuple[list[str], ...] = (
    *([], ["params.p"], ["params.p DESC"], ["metrics.m"], ["attributes.end_time", "tags.t DESC"]),
    ["metrics.m2 DESC", "params.P"],
)


@pytest.fixture
def views(server_uri: str) -> Iterator[Views]:
    """Empty views on each server."""
    made = open_views(server_uri, "memory")
    assert made.create()
    yield made
    made.close()


def a_log() -> MemoryLog:
    """Runs with texts and numbers that databases are known to take in their own ways."""
    log, rng = MemoryLog(), random.Random(1)
    log.append(
        [EXPERIMENT_CREATED.new("1", ExperimentCreated("e", "a", 1, [Tag("a", "b")]), time=1)]
    )
    for number, value in enumerate(VALUES):
        run_id, text = f"r{number:02}", TEXTS[number]
        name = f"name{number}" + "".join(rng.choices(string.printable, k=number * 500))
        created = RunCreated("1", name, "u", number, "uri", [RunTag("mlflow.runName", name)])
        params = [Param("p", text), Param("P", TEXTS[-number - 1])]
        points = [(Series("m"), 1, 1, value), (Series("m2"), 2**62, -(2**63), float(number))]
        log.append(
            [
                RUN_CREATED.new(run_id, created, time=2),
                RUN_BATCH_LOGGED.new(run_id, RunBatchLogged(params, [RunTag("t", text)]), time=3),
                POINTS_LOGGED.new(run_id, make_block(points), time=4),
            ]
        )
    return log


def pages(connection: sa.Connection, filter_text: str | None, order_by: list[str]) -> list[str]:
    """The ids that a search finds, three at a time."""
    found: list[str] = []
    after = None
    while True:
        page, after = search_documents(
            connection,
            experiment_ids=["1"],
            filter_text=filter_text,
            order_by=order_by,
            view="ACTIVE_ONLY",
            limit=3,
            after=after,
        )
        found += [document.info["run_id"] for document in page]
        if after is None:
            return found


def answers(views: Views, log: MemoryLog) -> dict[str, Any]:
    """What the views answer to many questions."""
    Projector(log, views).catch_up()
    assert [one.stopped for one in views.checkpoints().values()] == [None, None]
    found: dict[str, Any] = {}
    with views.read() as connection:
        for document in documents(connection, [f"r{number:02}" for number in range(len(VALUES))]):
            lists = (document.metrics, document.params, document.tags)
            found[document.info["run_id"]] = (document.info, *map(json.loads, lists))
        found["experiment"] = get_experiment(connection, "1")
        found["experiments"] = search_experiments(
            connection, filter_text="tags.a = 'b'", order_by=[], view="ALL", limit=5, after=None
        )
        for filter_text in FILTERS:
            for order_by in ORDERS:
                found[f"{filter_text} by {order_by}"] = pages(connection, filter_text, order_by)
        found["in many"] = search_documents(
            connection,
            experiment_ids=[str(number) for number in range(1_500)],
            filter_text=None,
            order_by=[],
            view="ACTIVE_ONLY",
            limit=1,
            after=None,
        )[0][0].info
    return found


def test_answers_are_those_of_sqlite(views: Views, tmp_path: Path) -> None:
    """Whole runs, and searches of every kind, page by page: texts that differ in a capital, a space
    at the end, a character 0, 6,000 characters; NaN, infinity, 64 bits."""
    log = a_log()
    sqlite = open_views(f"sqlite:///{tmp_path / 'views.db'}", "memory")
    sqlite.create()
    expected = answers(sqlite, log)
    sqlite.close()
    found = answers(views, log)
    assert found.keys() == expected.keys()
    for question, answer in expected.items():
        # Of numbers the text as well: 1 is not 1.0 to who reads JSON.
        assert repr(found[question]) == repr(answer), question


def test_a_batch_asks_for_its_rows_at_once(server_uri: str) -> None:
    """Two hundred events on as many runs take a few statements, not some each; what they ask for
    is found all the same."""
    log = MemoryLog()
    log.append([EXPERIMENT_CREATED.new("1", ExperimentCreated("e", "a", 1), time=1)])
    runs = [f"r{number}" for number in range(100)]
    first, second = RunBatchLogged([Param("p", "1")]), RunBatchLogged([Param("p", "2")])
    for run_id in runs:
        created = RunCreated("1", "n", "u", 1, "uri", [RunTag("t", "1")])
        log.append([RUN_CREATED.new(run_id, created, time=2)])
        log.append([RUN_BATCH_LOGGED.new(run_id, first, time=3)])
    views = open_views(server_uri, "memory", Pool(echo=True))
    views.create()
    projector = Projector(log, views)
    projector.catch_up()
    for run_id in runs:
        log.append([RUN_BATCH_LOGGED.new(run_id, second, time=4)])
        tag = RunBatchLogged(tags=[RunTag("t", "2")])
        log.append([RUN_BATCH_LOGGED.new(run_id, tag, time=4)])
    log.append([RUN_TAG_DELETED.new(runs[0], RunTagDeleted("t"), time=4)])
    with capture_logs() as told:
        assert projector.step(JOURNAL) == 201
    assert sum("statement" in line["event"] for line in told) < 40
    with views.read() as connection:
        assert len(rejected_between(connection, 0, 1_000)) == 100
        found = documents(connection, runs)
    assert {json.loads(one.params)[0]["value"] for one in found} == {"1"}
    assert [len(json.loads(one.tags)) for one in found] == [0] + [1] * 99
    views.close()


def played(case: SqlCase) -> Tables:
    """What the tables say after a history in which points were sealed, and views exported."""
    chance = random.Random(7)
    player = Player(case)
    last = [(Series(f"last {number}"), 9, 9, value) for number, value in enumerate(VALUES)]
    case.given(POINTS_LOGGED, "run1", make_block(last))
    for _ in range(60):
        kind = chance.choice(
            ["experiment", "run", "run", "run", "model", "export", "seal", "round"]
        )
        events = [*EVENTS.get(kind, [""]), *["points of all kinds"] * (3 if kind == "run" else 0)]
        player.play(kind, chance.choice(events), chance.randrange(20))
    case.projector.catch_up()
    told = check(case)
    case.exporter.round()
    case.sealer.seal_all()
    while case.sealer.round():
        continue
    case.exporter.round()
    assert repr(check(case)) == repr(told)
    assert repr(without_times(seen_by_others(case))) == repr(told)
    case.close()
    return told


def test_sql_and_the_lake_say_what_they_say_on_sqlite(server_uri: str, tmp_path: Path) -> None:
    """Of the same history, with NaN and the infinities, sealed, merged and exported, and through
    plain DuckDB."""
    expected = played(SqlCase(tmp_path / "sqlite"))
    found = played(SqlCase(tmp_path / "server", views_uri=server_uri))
    assert repr(found) == repr(expected)
    values = {row[3] for row in found["latest_metrics"]}
    assert {math.inf, -math.inf} <= values


def test_views_are_rebuilt_verified_and_purged(server_uri: str, tmp_path: Path) -> None:
    """All at once and one by one, beside the live ones; a difference is found; gc leaves nothing of
    a run."""
    home = open_home(tmp_path / "home", views_uri=server_uri)
    home.experiment("1", "one")
    for run_id, marker in (("a", "first"), ("b", "second")):
        home.run(run_id, "1", marker)
    home.fold()
    home.seal()
    home.run("c", "1", "third")
    home.fold()
    before, lake = home.content(), home.gc.lake
    for view in (None, "metrics"):
        run_rebuild(home.log, home.views, lake, view, echo=home.said.append)
        assert home.content() == before
    assert run_verify(home.log, home.views, lake, echo=home.said.append)
    home.append(RUN_DELETED, "a", RunDeleted())
    home.fold()
    run_gc(home.gc, Choice(run_ids=["a"]))
    assert home.holds(["first-"]) == []
    with home.views.write() as connection:
        connection.exec_driver_sql("DELETE FROM params WHERE run_id = 'b'")
    assert not run_verify(home.log, home.views, lake, echo=home.said.append)
    home.close()


def test_new_views_are_seen_at_the_next_transaction(views: Views) -> None:
    """Who reads goes on reading the old ones, which are kept for it; whoever begins sees the new
    ones, and the old are removed once nobody reads them."""
    with views.read() as connection:
        with views.making() as made:
            made.add_search_indexes()
            with made.write() as other:
                other.execute(sa.insert(view_meta).values(name="mark", value="new"))
            views.put_in_place(made)
        assert marks(connection) == []
        with views.read() as fresh:
            assert marks(fresh) == ["new"]
    views.remove_replaced()
    with views.read() as fresh:
        assert marks(fresh) == ["new"]


def marks(connection: sa.Connection) -> list[str]:
    """The marks that the views have."""
    return [
        str(value)
        for value in connection.execute(
            sa.select(view_meta.c.value).where(view_meta.c.name == "mark")
        ).scalars()
    ]


def test_one_projector_folds_and_another_takes_over(server_uri: str, views: Views) -> None:
    """The lock is one process's; when its connection dies it is told, and another gets it."""
    other = open_views(server_uri, "memory")
    lost = threading.Event()
    with views.lock(PROJECTOR, lost=lost.set):
        with pytest.raises(AlreadyRunning), other.lock(PROJECTOR):
            pass
        end_all_sessions(server_uri)
        started = time.monotonic()
        with other.lock(PROJECTOR, wait_s=10.0):
            assert time.monotonic() - started < 10.0
            assert lost.wait(10.0)
    other.close()


def end_all_sessions(uri: str) -> None:
    """Ends every other connection to the server's database, as a death of their machines does."""
    driver = "postgresql+psycopg" if uri.startswith("postgresql") else "mysql+pymysql"
    url = sa.make_url(uri).set(drivername=driver)
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        else:
            ids = connection.exec_driver_sql(
                "SELECT id FROM information_schema.processlist"
                f" WHERE id <> connection_id() AND db LIKE '{url.database}%%'"
            ).scalars()
            for one in ids.all():
                connection.exec_driver_sql(f"KILL {one}")
    engine.dispose()


def test_connections_that_died_are_replaced(server_uri: str, views: Views) -> None:
    """Once every connection was ended the next read and write succeed, and so do checkpoints."""
    for _ in range(2):
        with views.read() as connection:
            assert marks(connection) == []
        with views.write() as connection:
            assert marks(connection) == []
        assert views.checkpoints() == {}
        end_all_sessions(server_uri)


def test_views_of_other_code_are_not_read(server_uri: str, views: Views) -> None:
    """Nor ones of another log; the projector makes new ones in their place."""
    other = open_views(server_uri, "another log")
    with pytest.raises(TemporarilyUnavailable), other.read():
        pass
    with pytest.raises(TemporarilyUnavailable):
        other.checkpoints()
    assert other.create()
    assert not other.create()
    with pytest.raises(TemporarilyUnavailable), views.read():
        pass
    other.close()


def test_a_server_that_is_away_is_told_and_comes_back(own_postgresql: Service) -> None:
    """Reads, writes, checkpoints and locks say so at once; all is well after it returns."""
    views = open_views(own_postgresql.uri, "memory")
    views.create()
    with views.read() as connection:
        assert marks(connection) == []
    own_postgresql.kill()
    for use in (views.read, views.write, lambda: views.lock(PROJECTOR)):
        with pytest.raises(TemporarilyUnavailable), use():
            pass
    with pytest.raises(TemporarilyUnavailable):
        views.checkpoints()
    own_postgresql.start()
    assert views.checkpoints() == {}
    with views.read() as connection:
        assert marks(connection) == []
    views.close()


@given(st.text(alphabet="\x00\x01\x02a", max_size=8), st.text(alphabet="\x00\x01\x02a", max_size=8))
def test_texts_are_in_the_same_order_as_stored(one: str, other: str) -> None:
    """With the characters that PostgreSQL can't hold, or that stand for them; and come back."""
    assert unescaped(escaped(one)) == one
    assert "\x00" not in escaped(one)
    assert (escaped(one) < escaped(other)) == (one < other)
