"""Artifact bytes, by path: what every blob store does, and which paths there are.

A path is relative, its parts divided by "/", such as `1/<run id>/artifacts/model/MLmodel`. A blob
is whole or not there: nobody ever reads part of an upload. All methods block; callers on the event
loop run them in threads.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PureWindowsPath
from typing import Final, Protocol, runtime_checkable
from urllib.parse import unquote

from events.errors import InvalidParameterValue

PATH_BYTES_MAX: Final = 1024
"""S3 takes no longer keys, so no store does."""

PART_BYTES_MAX: Final = 255
"""File systems take no longer names."""

DECODINGS_MAX: Final = 10

ABANDONED_AFTER_S: Final = 24 * 3600
"""Nobody writes an upload for so long."""


@dataclass(frozen=True, slots=True)
class BlobInfo:
    """What is known of a blob without reading it."""

    size_bytes: int
    modified_s: float
    etag: str  # changes whenever the bytes do; without quotation marks


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a listing. `size_bytes` is None for a folder."""

    name: str
    size_bytes: int | None

    @property
    def is_folder(self) -> bool:
        return self.size_bytes is None


class Upload(Protocol):
    """A blob on its way in. Nothing is seen of it before `commit` returns."""

    def write(self, chunk: bytes) -> None:
        """Takes more bytes."""

    def commit(self) -> None:
        """Puts the blob in place, durably, over one that is there.

        Raises InvalidParameterValue when a folder is there, or a blob where a folder is needed.
        """

    def abort(self) -> None:
        """Drops what was written; after `commit`, and when called again, it does nothing."""


class Reading(Protocol):
    """A blob that was opened. What it gives stays the same when the blob is replaced meanwhile."""

    info: BlobInfo

    def chunks(self, start: int, end: int) -> Iterator[bytes]:
        """The bytes from `start` up to, not including, `end`, in pieces of bounded size."""

    def close(self) -> None:
        """Lets go of the blob; may be called again."""


class BlobStore(Protocol):
    """Where artifact bytes are kept. Every path is put through `safe_path` by the store."""

    def begin(self, path: str) -> Upload:
        """Starts an upload to `path`."""

    def open(self, path: str) -> Reading:
        """Opens a blob. Raises ResourceDoesNotExist, or InvalidParameterValue for a folder."""

    def stat(self, path: str) -> BlobInfo | None:
        """The blob's size and age; None when there is none, also when there is a folder."""

    def list(self, folder: str) -> list[Entry]:
        """What is directly in a folder ("" is the root), by name; empty when there is no folder."""

    def delete(self, path: str) -> bool:
        """Deletes a blob; False when there was none."""

    def delete_tree(self, folder: str) -> int:
        """Deletes a folder, all that is in it, and a blob of that name; returns how many blobs.

        The root can't be deleted: InvalidParameterValue.
        """

    def remove_abandoned_uploads(self, now_s: float) -> int:
        """Removes what crashes left of uploads a day or longer ago, and of half-done deletions.

        To be called when a server starts. Returns how many leftovers there were.
        """


@dataclass(frozen=True, slots=True)
class PartsUpload:
    """An upload that a client makes in parts, past this server."""

    upload_id: str
    urls: Sequence[str]
    """Where to PUT each part, the first one's first."""


@dataclass(frozen=True, slots=True)
class SignedUrl:
    """A URL of the store itself, and what has to be sent with it."""

    url: str
    headers: Mapping[str, str]
    size_bytes: int | None = None


@runtime_checkable
class DirectAccess(Protocol):
    """What a blob store has whose bytes can also go to and from clients without this server."""

    def create_parts(self, path: str, count: int) -> PartsUpload:
        """Begins an upload of so many parts. Raises as `Upload.commit` does."""

    def complete_parts(self, path: str, upload_id: str, parts: Sequence[tuple[int, str]]) -> None:
        """Makes the blob of its parts, given by number and tag; doing it twice changes nothing.

        Raises ResourceDoesNotExist for an upload that is not there, InvalidParameterValue for
        parts that don't fit.
        """

    def abort_parts(self, path: str, upload_id: str) -> None:
        """Drops what was uploaded; nothing there is no error."""

    def download_url(self, path: str, seconds: int, disposition: str) -> SignedUrl:
        """Where the blob can be read for so long; it is sent with this Content-Disposition.

        Raises ResourceDoesNotExist.
        """

    def upload_url(self, path: str, seconds: int) -> SignedUrl:
        """Where the blob can be PUT for so long. Raises as `Upload.commit` does."""


def put(store: BlobStore, path: str, chunks: Iterable[bytes]) -> None:
    """Uploads a blob from chunks that are at hand."""
    upload = store.begin(path)
    try:
        for chunk in chunks:
            upload.write(chunk)
        upload.commit()
    finally:
        upload.abort()


def safe_path(sent: str) -> str:
    """The path that a client means, without "." and empty parts; "" is the root.

    Clients percent-encode paths more than once, so a path is decoded until it stays the same; what
    is checked is the outcome. Raises InvalidParameterValue for a path that leads out of the root,
    is absolute on any system, or has control characters.
    """
    path = _decoded(sent)
    parts = path.split("/")
    if (
        ".." in parts
        or path.startswith("/")
        or PureWindowsPath(path).is_absolute()
        or ".." in path.split("\\")
        or path.startswith("\\")
        or "#" in path
        or re.search(r"[\x00-\x1f\x7f]", path)
    ):
        raise InvalidParameterValue(f"Invalid path: {_shown(path)}.")
    parts = [part for part in parts if part not in ("", ".")]
    clean = "/".join(parts)
    try:
        sizes = [len(part.encode()) for part in parts]
    except UnicodeEncodeError:
        raise InvalidParameterValue(f"Invalid path: {_shown(path)}.") from None
    if max(sizes, default=0) > PART_BYTES_MAX or len(clean.encode()) > PATH_BYTES_MAX:
        raise InvalidParameterValue(
            f"Invalid path: {_shown(path)} is too long; {PART_BYTES_MAX} bytes between slashes and "
            f"{PATH_BYTES_MAX} in all are possible."
        )
    return clean


def blob_path(sent: str) -> str:
    """`safe_path` of something that can be a blob: it has a name, and no slash at its end."""
    path = safe_path(sent)
    if not path or _decoded(sent).endswith("/"):
        raise InvalidParameterValue("The artifact path must end with a file name.")
    return path


def no_place_for(path: str) -> InvalidParameterValue:
    """The error for a blob in whose place a folder is, or below another blob."""
    return InvalidParameterValue(
        f"The artifact '{path}' can't be written: "
        "a folder has its name, or a file has the name of one of its folders."
    )


def _decoded(path: str) -> str:
    for _ in range(DECODINGS_MAX):
        decoded = unquote(path)
        if decoded == path:
            return path
        path = decoded
    raise InvalidParameterValue("Invalid path: it is percent-encoded too many times.")


def _shown(path: str) -> str:
    shown = ascii(path)
    return shown if len(shown) <= 200 else shown[:200] + "…"
