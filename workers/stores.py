"""Opens the stores that the settings name."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from events.artifact_uris import ArtifactRoots, artifact_roots
from events.errors import RunfoldError, TemporarilyUnavailable
from events.kafka_settings import KafkaAccess
from events.log import CopyTarget, Log, LogError
from events.opened_blobs import open_blobs
from events.places import SettingError, known_log_uri
from events.settings import Settings
from events.sql_log import SqlLog
from events.sql_servers import DEFAULT_POOL, DriverMissing, Pool
from events.sqlite_log import SqliteLog
from projections.database import Views
from projections.opened_views import open_views
from projections.same_log import require_same_log
from workers.log_copy import require_whole

if TYPE_CHECKING:
    from projections.lake import Lake


@dataclass(frozen=True)
class Stores:
    """The opened log, views and lake, and the artifact folders."""

    settings: Settings
    log: Log
    views: Views
    artifacts: ArtifactRoots

    @cached_property
    def lake(self) -> Lake:
        """The lake, opened when it is first asked for: DuckDB, which its module loads, is large,
        and the projector needs none. Raises SettingError."""
        module: Any = importlib.import_module("projections.opened_lake")
        lake: Lake = module.lake_of(self.settings, self.log.identity.log_id)
        return lake


PLAIN_KAFKA = KafkaAccess()


def kafka_module() -> Any:
    """The module of the log on Kafka, whose client few need and which takes a while to load.

    Raises LogError where it is not installed.
    """
    try:
        return importlib.import_module("events.kafka_log")
    except ImportError as error:
        raise LogError(f"a log on Kafka needs `pip install 'runfold[kafka]'`: {error}") from error


def open_log(
    uri: str, pool: Pool = DEFAULT_POOL, kafka: KafkaAccess = PLAIN_KAFKA, *, make: bool = True
) -> Log:
    """The log that the URI names; made where there is none, unless told not to. One on Kafka is
    made by `runfold log init` alone.

    Raises LogError, SettingError.
    """
    log = open_copy_target(uri, pool, kafka, make=make)
    try:
        require_whole(log)
    except LogError:
        log.close()
        raise
    return log


def open_copy_target(
    uri: str, pool: Pool = DEFAULT_POOL, kafka: KafkaAccess = PLAIN_KAFKA, *, make: bool = True
) -> CopyTarget:
    """The same log to copy another into, which may have been begun already."""
    known_log_uri(uri)
    if uri.startswith("kafka://"):
        opened: CopyTarget = kafka_module().KafkaLog(uri, kafka)
        return opened
    if not uri.startswith("sqlite:///"):
        return SqlLog(uri, pool, make=make)
    path = Path(uri.removeprefix("sqlite:///"))
    if not make and not path.exists():
        raise LogError(f"there is no log at {path}: give --home or --log-uri as to the server")
    return SqliteLog(path)


def pool_of(settings: Settings) -> Pool:
    """How connections to database servers are kept. Raises SettingError."""
    return Pool(
        settings.pool_size,
        settings.pool_max_overflow,
        settings.pool_recycle_s,
        settings.pool_kind,
        settings.database_echo,
    )


def opened_artifacts(settings: Settings) -> ArtifactRoots:
    """Where the settings say that artifacts are. Raises SettingError."""
    opened = lru_cache(maxsize=8)(partial(open_blobs, access=settings.s3))
    return artifact_roots(settings, opened(settings.artifacts_place), opened)


def _require_lake(stores: Stores) -> None:
    """Refuses the lake where S3 refuses it; an S3 server that is away may come."""
    try:
        with contextlib.suppress(TemporarilyUnavailable):
            stores.lake.ready()
    except RunfoldError as error:
        raise SettingError(f"the lake can't be used: {error.message}") from error


@contextlib.contextmanager
def opened_stores(
    settings: Settings, *, make: bool = True, with_lake: bool = True
) -> Iterator[Stores]:
    """The stores of these settings, closed at the end; the log must be there if not to `make`.
    The lake is looked at now unless it is not needed.

    Raises LogError, SettingError.
    """
    pool = pool_of(settings)
    log = open_log(settings.log_place, pool, settings.kafka_access, make=make)
    views = _open_views(settings, log, pool)
    stores = Stores(settings, log, views, opened_artifacts(settings))
    try:
        if with_lake:
            _require_lake(stores)
        with contextlib.suppress(TemporarilyUnavailable):
            require_same_log(log, views)
        yield stores
    finally:
        views.close()
        log.close()


def _open_views(settings: Settings, log: Log, pool: Pool) -> Views:
    try:
        return open_views(settings.views_place, log.identity.log_id, pool)
    except (DriverMissing, ValueError) as error:
        raise SettingError(str(error)) from error
