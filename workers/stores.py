"""Opens the stores that the settings name."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from events.artifact_uris import ArtifactRoots, artifact_roots
from events.local_blobs import LocalBlobs
from events.log import Log
from events.settings import Settings
from events.sqlite_log import SqliteLog
from projections.database import Views
from projections.sqlite_views import SqliteViews


@dataclass(frozen=True)
class Stores:
    """The opened log and views, and the artifact folders."""

    settings: Settings
    log: Log
    views: Views
    artifacts: ArtifactRoots


@contextlib.contextmanager
def opened_stores(settings: Settings) -> Iterator[Stores]:
    """The stores of these settings, closed at the end. Raises LogError, SettingError."""
    log = SqliteLog(settings.log_path)
    views: Views = SqliteViews(settings.views_path, log.identity.log_id)
    artifacts = artifact_roots(settings, LocalBlobs(settings.artifacts_path), LocalBlobs)
    try:
        yield Stores(settings, log, views, artifacts)
    finally:
        views.close()
        log.close()
