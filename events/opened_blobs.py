"""Opens the place for artifact bytes that a URI names."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from events.blobs import BlobStore
from events.local_blobs import LocalBlobs
from events.places import SettingError, is_bucket
from events.s3_settings import S3Access


def check_place(place: str | Path) -> None:
    """Raises SettingError where what it takes to open the place is not installed."""
    if is_bucket(str(place)) and find_spec("boto3") is None:
        raise SettingError(
            f"{place} needs boto3, which is not installed: pip install 'runfold[s3]'"
        )


def open_blobs(place: str | Path, access: S3Access) -> BlobStore:
    """The blob store in a folder or at `s3://BUCKET/PREFIX`. Raises SettingError."""
    if not is_bucket(str(place)):
        return LocalBlobs(Path(place))
    check_place(place)
    # It imports boto3, which is large and not everybody has.
    module: Any = importlib.import_module("events.s3_blobs")
    store: BlobStore = module.open_s3(str(place), access)
    return store
