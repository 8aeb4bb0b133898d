"""Opens the lake that the settings name."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from events.opened_blobs import check_place
from events.s3_settings import S3Access
from events.settings import Settings
from projections.lake import Lake, LakePlace


def lake_of(settings: Settings, log_id: str) -> Lake:
    """The lake of this log. Raises SettingError."""
    place = settings.lake_place
    if isinstance(place, Path):
        return Lake(place)
    folder = str(settings.lake_path)
    return lake_at(LakePlace(folder, place, log_id, settings.lake_cache_mb, settings.s3))


def lake_from(given: Mapping[str, Any]) -> Lake:
    """The lake of a place that went through JSON."""
    return lake_at(LakePlace(**{**given, "s3": S3Access(**given["s3"])}))


def lake_at(place: LakePlace) -> Lake:
    """The lake that another process has opened, by its `place`. Raises SettingError."""
    if not place.uri:
        return Lake(Path(place.folder))
    check_place(place.uri)
    # It imports boto3, which is large and not everybody has.
    module: Any = importlib.import_module("projections.s3_lake")
    lake: Lake = module.open_s3_lake(place)
    return lake
