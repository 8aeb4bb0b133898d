"""Which bytes an artifact URI means: the one place that knows.

A run's or a model's `artifact_uri` is either behind the server's proxy (`mlflow-artifacts:/…`), in
a folder that the server was told to use, or somewhere that only the client reaches (`s3://…`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from events.blobs import BlobStore, safe_path
from events.errors import InvalidParameterValue
from events.places import SettingError, is_bucket
from events.settings import Settings

PROXY_ROUTE: Final = "/api/2.0/mlflow-artifacts/artifacts/"
LOCATION_CHARACTERS_MAX: Final = 2048

HOST_SCHEMES: Final = frozenset(
    {"ftp", "sftp", "hdfs", "viewfs", "http", "https", "mlflow-artifacts", "r2", "b2", "abfss"}
)
"""Their URIs name a host; a server that followed one would call whomever the client says."""


@dataclass(frozen=True)
class ArtifactRoots:
    """The places that this server reads and writes artifacts in."""

    proxied: BlobStore
    folders: tuple[Path, ...]
    """Resolved folders in which `file:` URIs and plain paths may be."""
    open_place: Callable[[str | Path], BlobStore]
    """Opens one of the folders or buckets."""
    buckets: tuple[str, ...] = ()
    """URIs such as `s3://BUCKET/PREFIX`, without a slash at the end, below which others may be."""

    def locate(self, uri: str, path: str = "") -> tuple[BlobStore, str]:
        """The store of a URI, and what `path` below that URI is called there.

        Raises InvalidParameterValue for a URI that this server does not reach, or an unsafe path.
        """
        below = safe_path(path)
        scheme = urlsplit(uri).scheme
        if scheme in ("mlflow-artifacts", "http", "https"):
            inside = _proxied_path(uri)
            return self.proxied, f"{inside}/{below}".strip("/")
        if is_bucket(uri):
            bucket, inside = self._in_bucket(uri)
            try:
                return self.open_place(bucket), f"{inside}/{below}".strip("/")
            except SettingError as error:
                raise InvalidParameterValue(str(error)) from error
        root, inside = self._in_folder(uri)
        return self.open_place(root), f"{inside}/{below}".strip("/")

    def is_proxied(self, uri: str) -> bool:
        """Whether clients come to this server for what is at the URI."""
        return urlsplit(uri).scheme in ("mlflow-artifacts", "http", "https")

    def check_location(self, uri: str) -> None:
        """Refuses a location for new artifacts that would lead this server astray (L-20)."""
        if len(uri) > LOCATION_CHARACTERS_MAX:
            raise InvalidParameterValue(
                f"The artifact location has more than {LOCATION_CHARACTERS_MAX} characters."
            )
        if uri.startswith("runs:"):
            raise InvalidParameterValue(f"The artifact location can't be a runs:/ URI: {uri!r}.")
        try:
            parts = urlsplit(uri)
        except ValueError:
            raise InvalidParameterValue(f"The artifact location {uri!r} is no URI.") from None
        if "#" in uri or ";" in parts.path or ".." in unquote(parts.query):
            raise InvalidParameterValue(
                f"The artifact location {uri!r} must have no fragment, no parameters, "
                "and no '..' in its query."
            )
        if parts.scheme in HOST_SCHEMES:
            if parts.netloc or parts.scheme != "mlflow-artifacts":
                raise InvalidParameterValue(
                    f"The artifact location {uri!r} names a host that is not this server's "
                    "artifact storage."
                )
            safe_path(parts.path.lstrip("/"))
        elif parts.scheme in ("", "file"):
            self._in_folder(uri)

    def _in_bucket(self, uri: str) -> tuple[str, str]:
        """The configured place in S3 that an `s3:` URI is in, and the path in there."""
        for bucket in self.buckets:
            if f"{uri}/".startswith(f"{bucket}/"):
                inside = uri[len(bucket) + 1 :].rstrip("/")
                if safe_path(inside) != inside:
                    raise InvalidParameterValue(
                        f"The artifact location {uri[:200]!r} has a name that is percent-encoded."
                    )
                return bucket, inside
        raise InvalidParameterValue(
            f"This server does not reach the artifacts at {uri[:200]!r}; use a client that does, "
            "or give the server their place with --default-artifact-root."
        )

    def _in_folder(self, uri: str) -> tuple[Path, str]:
        """The configured folder that a `file:` URI or plain path is in, and the path in there."""
        parts = urlsplit(uri)
        if parts.scheme not in ("", "file") or parts.netloc not in ("", "localhost"):
            raise InvalidParameterValue(
                f"This server does not reach the artifacts at {uri[:200]!r}; "
                "use a client that does, or an experiment below mlflow-artifacts:/."
            )
        # Only a URI is percent-encoded; a plain path may have a % of its own.
        named = unquote(parts.path) if parts.scheme else uri
        if "\0" in named:
            raise InvalidParameterValue("The artifact location has a NUL in it.")
        folder = Path(named).resolve()
        for root in self.folders:
            if folder.is_relative_to(root):
                inside = "" if folder == root else folder.relative_to(root).as_posix()
                if safe_path(inside) != inside:
                    raise InvalidParameterValue(
                        f"The artifact location {uri[:200]!r} has a name that is percent-encoded."
                    )
                return root, inside
        raise InvalidParameterValue(
            f"The artifact location {uri[:200]!r} is not in a folder that this server was "
            "given with --default-artifact-root or --artifacts-destination."
        )


def artifact_roots(
    settings: Settings, proxied: BlobStore, open_place: Callable[[str | Path], BlobStore]
) -> ArtifactRoots:
    """The places that the settings name."""
    folders: list[Path] = []
    buckets: list[str] = []
    root = settings.artifact_root
    parts = urlsplit(root)
    if parts.scheme in ("", "file"):
        folders.append(Path(unquote(parts.path) if parts.scheme else root).resolve())
    elif is_bucket(root):
        buckets.append(root.rstrip("/"))
    proxied_in = settings.artifacts_place
    if isinstance(proxied_in, Path):
        folders.insert(0, proxied_in.resolve())
    else:
        buckets.insert(0, proxied_in)
    return ArtifactRoots(proxied, tuple(folders), open_place, tuple(buckets))


def _proxied_path(uri: str) -> str:
    """The path in the proxied store that a `mlflow-artifacts:` or `http:` URI stands for."""
    parts = urlsplit(uri)
    if parts.scheme == "mlflow-artifacts":
        return safe_path(parts.path.lstrip("/"))
    _, route, inside = parts.path.partition(PROXY_ROUTE)
    if not route:
        raise InvalidParameterValue(f"This server does not reach the artifacts at {uri[:200]!r}.")
    return safe_path(inside)


def join_uri(root: str, *parts: str) -> str:
    """A URI below another; what follows a `?` or `#` of the root stays at the end."""
    split = urlsplit(root)
    path = "/".join((split.path.rstrip("/"), *parts))
    return split._replace(path=path).geturl() if split.scheme else path
