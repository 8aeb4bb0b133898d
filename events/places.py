"""The places that settings name: which there can be, and what is said of others."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

DATABASE_SCHEMES = (
    "postgresql",
    "postgresql+psycopg",
    "postgresql+psycopg2",
    "mysql",
    "mysql+pymysql",
    "mariadb",
    "mariadb+pymysql",
)
"""What the URI of a database on a server begins with."""


class SettingError(ValueError):
    """A setting has a value that can't be used; the message says which and what to give."""


def is_bucket(place: str) -> bool:
    """Whether a place is in S3."""
    return place.startswith("s3://")


def known_bucket(uri: str, flag: str) -> str:
    """The `s3:` URI without a slash at its end. Raises SettingError where it names no bucket."""
    if not re.fullmatch(r"s3://[A-Za-z0-9][A-Za-z0-9._-]{2,254}(/.*)?", uri):
        raise SettingError(f"{flag} takes s3://BUCKET/PREFIX, not {uri!r}")
    return uri.rstrip("/")


def known_log_uri(uri: str) -> str:
    """The URI. Raises SettingError where no kind of log has one like it."""
    return _known(uri, "the log", {"sqlite:///": "PATH", "kafka://": "HOST:PORT/PREFIX"})


def known_views_uri(uri: str) -> str:
    """The URI. Raises SettingError where views can't be kept in such a place."""
    return _known(uri, "--views-uri", {"sqlite:///": "PATH"})


def _known(uri: str, what: str, beginnings: Mapping[str, str]) -> str:
    """The URI, where it begins like one of these or like a database's on a server."""
    scheme, separator, _ = uri.partition("://")
    if uri.startswith(tuple(beginnings)) or (separator and scheme in DATABASE_SCHEMES):
        return uri
    kinds = [f"{beginning}{rest}" for beginning, rest in beginnings.items()]
    kinds[1:1] = ["postgresql://USER@HOST/DATABASE", "mysql+pymysql://USER@HOST/DATABASE"]
    shown = f"{scheme}://…" if separator else repr(uri)
    raise SettingError(f"{what} is {', '.join(kinds[:-1])} or {kinds[-1]}, not {shown}")


def folder_path(uri: str | None, default: Path, flag: str) -> Path:
    """The folder that a path or `file:///…` URI names. Raises SettingError for other schemes."""
    if uri is None:
        return default
    path = uri.removeprefix("file://")
    if "://" in path:
        raise SettingError(f"{flag} takes a folder in this version, not {uri!r}")
    return Path(path)
