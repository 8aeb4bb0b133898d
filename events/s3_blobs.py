"""Artifact bytes in a bucket of S3.

A blob is one object, so it is seen whole or not at all. What is larger than a part goes up in parts
of bounded size, which a crash leaves behind unseen; `remove_abandoned_uploads` removes them.
"""

from __future__ import annotations

import errno
import hashlib
import math
import mimetypes
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, Final

from events.blobs import (
    ABANDONED_AFTER_S,
    BlobInfo,
    Entry,
    PartsUpload,
    SignedUrl,
    blob_path,
    no_place_for,
    safe_path,
)
from events.errors import (
    InvalidParameterValue,
    ResourceDoesNotExist,
    RunfoldError,
    TemporarilyUnavailable,
)
from events.s3 import Bucket, Refused, open_bucket, told
from events.s3_settings import S3Access

CHUNK_BYTES: Final = 1024 * 1024
PART_BYTES: Final = 8 * 1024 * 1024
PARTS_MAX: Final = 10_000
DELETED_AT_ONCE: Final = 1_000
READ_ATTEMPTS: Final = 3
UPLOAD_URL_S: Final = 3600
KNOWN_FOLDERS_MAX: Final = 10_000
KNOWN_FOLDER_S: Final = 60.0


def open_s3(uri: str, access: S3Access) -> S3Blobs:
    """The blob store at `s3://BUCKET/PREFIX`; nothing is asked of the server yet."""
    return S3Blobs(open_bucket(uri, access))


class S3Blobs:
    """A blob store below a prefix of a bucket."""

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket
        self._folders: dict[str, float] = {}
        """Folders that held something a moment ago, with when: no blob has their names."""

    def begin(self, path: str) -> S3Upload:
        return S3Upload(self, blob_path(path))

    def open(self, path: str) -> S3Reading:
        clean = safe_path(path)
        if clean:
            with suppress(Missing):
                return S3Reading(self.bucket, clean)
        if not clean or self._is_folder(clean):
            raise InvalidParameterValue(
                f"Artifact path refers to a directory, not a file: '{clean}'"
            )
        raise ResourceDoesNotExist(f"No such artifact: '{clean}'")

    def stat(self, path: str) -> BlobInfo | None:
        clean = safe_path(path)
        return self._stat(clean) if clean else None

    def list(self, folder: str) -> list[Entry]:
        prefix = self._prefix(safe_path(folder))
        entries = []
        for page in self.bucket.pages("list_objects_v2", Prefix=prefix, Delimiter="/"):
            found = page.get("Contents", [])
            entries += [Entry(one["Key"].removeprefix(prefix), one["Size"]) for one in found]
            inner = page.get("CommonPrefixes", [])
            entries += [Entry(one["Prefix"].removeprefix(prefix)[:-1], None) for one in inner]
        # Other programs mark a folder by an object with a slash at its end.
        return sorted((one for one in entries if one.name), key=lambda one: one.name)

    def delete(self, path: str) -> bool:
        clean = blob_path(path)
        if self._stat(clean) is None:
            return False
        self.bucket.call("delete_object", Key=self.bucket.key(clean))
        return True

    def delete_tree(self, folder: str) -> int:
        clean = safe_path(folder)
        if not clean:
            raise InvalidParameterValue("The root of the artifacts can't be deleted.")
        self._folders.clear()
        prefix = self._prefix(clean)
        for upload in self._uploads(prefix):
            self._give_up(upload["Key"], upload["UploadId"])
        deleted = int(self.delete(clean))
        keys: list[str] = []
        for page in self.bucket.pages("list_objects_v2", Prefix=prefix):
            keys += [one["Key"] for one in page.get("Contents", [])]
            while len(keys) >= DELETED_AT_ONCE:
                deleted += self._delete_keys(keys[:DELETED_AT_ONCE])
                keys = keys[DELETED_AT_ONCE:]
        return deleted + self._delete_keys(keys)

    def remove_abandoned_uploads(self, now_s: float) -> int:
        """Gives up uploads in parts that were begun a day or longer ago."""
        removed = 0
        for upload in self._uploads(self._prefix("")):
            if upload["Initiated"].timestamp() < now_s - ABANDONED_AFTER_S:
                self._give_up(upload["Key"], upload["UploadId"])
                removed += 1
        return removed

    # What clients do with the bucket themselves.

    def create_parts(self, path: str, count: int) -> PartsUpload:
        clean = blob_path(path)
        if not 1 <= count <= PARTS_MAX:
            raise InvalidParameterValue(
                f"An upload has 1 to {PARTS_MAX:,} parts, not {count}: send larger ones."
            )
        self.check_place(clean)
        key = self.bucket.key(clean)
        upload_id = self.begin_parts(clean)
        urls = [
            self.bucket.signed(
                "upload_part", UPLOAD_URL_S, Key=key, PartNumber=number, UploadId=upload_id
            )
            for number in range(1, count + 1)
        ]
        return PartsUpload(upload_id, urls)

    def complete_parts(self, path: str, upload_id: str, parts: Sequence[tuple[int, str]]) -> None:
        clean = blob_path(path)
        self.check_place(clean)
        try:
            self.finish_parts(clean, upload_id, parts)
        except Refused as error:
            raise InvalidParameterValue(error.message) from error

    def abort_parts(self, path: str, upload_id: str) -> None:
        self._give_up(self.bucket.key(blob_path(path)), upload_id)

    def download_url(self, path: str, seconds: int, disposition: str) -> SignedUrl:
        clean = blob_path(path)
        info = self._stat(clean)
        if info is None:
            raise ResourceDoesNotExist(f"No such artifact: '{clean}'")
        url = self.bucket.signed(
            "get_object",
            seconds,
            Key=self.bucket.key(clean),
            ResponseContentDisposition=disposition,
        )
        return SignedUrl(url, {}, info.size_bytes)

    def upload_url(self, path: str, seconds: int) -> SignedUrl:
        clean = blob_path(path)
        self.check_place(clean)
        kind = _content_type(clean)
        key = self.bucket.key(clean)
        url = self.bucket.signed("put_object", seconds, Key=key, ContentType=kind)
        return SignedUrl(url, {"Content-Type": kind})

    # What an upload is made of.

    def check_place(self, path: str) -> None:
        """Raises where a folder has the path's name, or a blob that of one of its folders.

        S3 itself has no folders and would take both; nobody could download them then.
        """
        if self._is_folder(path) or self._is_below_blob(path):
            raise no_place_for(path)

    def put(self, path: str, body: bytes | bytearray) -> None:
        """Makes a blob of bytes that fit one call."""
        key = self.bucket.key(path)
        self.bucket.call("put_object", Key=key, Body=body, ContentType=_content_type(path))

    def begin_parts(self, path: str) -> str:
        """The id of a new upload in parts."""
        key, kind = self.bucket.key(path), _content_type(path)
        begun = self.bucket.call("create_multipart_upload", Key=key, ContentType=kind)
        return str(begun["UploadId"])

    def put_part(self, path: str, upload_id: str, number: int, body: bytes | bytearray) -> str:
        """Sends a part and returns its tag."""
        key = self.bucket.key(path)
        sent = self.bucket.call(
            "upload_part", Key=key, UploadId=upload_id, PartNumber=number, Body=body
        )
        return str(sent["ETag"])

    def finish_parts(self, path: str, upload_id: str, parts: Sequence[tuple[int, str]]) -> None:
        """Makes a blob of the parts. Raises ResourceDoesNotExist where the upload is not there."""
        named = [{"PartNumber": number, "ETag": etag} for number, etag in parts]
        try:
            self.bucket.call(
                "complete_multipart_upload",
                Key=self.bucket.key(path),
                UploadId=upload_id,
                MultipartUpload={"Parts": named},
            )
        except Refused as error:
            if not error.is_missing:
                raise
            # Whoever did not hear the answer asks again.
            info = self._stat(path)
            if info is None or info.etag != _etag_of_parts([etag for _, etag in parts]):
                raise ResourceDoesNotExist(f"No such upload of '{path}': {upload_id}") from error

    def remember_folders(self, path: str) -> None:
        """Keeps in mind that there is something in the path's folders."""
        if len(self._folders) > KNOWN_FOLDERS_MAX:
            self._folders.clear()
        now = time.monotonic()
        self._folders.update(dict.fromkeys(_folders_above(path), now))

    # The bucket.

    def _prefix(self, folder: str) -> str:
        """What the keys in a folder begin with."""
        return self.bucket.key(f"{folder}/" if folder else "")

    def _stat(self, path: str) -> BlobInfo | None:
        try:
            found = self.bucket.call("head_object", Key=self.bucket.key(path))
        except Refused as error:
            if error.is_missing:
                return None
            raise
        return _info(found)

    def _is_folder(self, path: str) -> bool:
        """Whether a blob is somewhere under this path."""
        found = self.bucket.call("list_objects_v2", Prefix=self._prefix(path), MaxKeys=1)
        return bool(found.get("KeyCount", 0))

    def _is_below_blob(self, path: str) -> bool:
        since = time.monotonic() - KNOWN_FOLDER_S
        for folder in _folders_above(path):
            if self._folders.get(folder, -math.inf) > since:
                return False
            if self._stat(folder) is not None:
                return True
        return False

    def _delete_keys(self, keys: Sequence[str]) -> int:
        if not keys:
            return 0
        named = {"Objects": [{"Key": key} for key in keys], "Quiet": True}
        errors = self.bucket.call("delete_objects", Delete=named).get("Errors", [])
        if errors:
            first = errors[0]
            raise TemporarilyUnavailable(
                f"{len(errors)} of {len(keys)} objects of {self.bucket.uri} could not be deleted; "
                f"the first is {first.get('Key')}: {first.get('Code')} {first.get('Message', '')}"
            )
        return len(keys)

    def _uploads(self, prefix: str) -> Iterator[Any]:
        for page in self.bucket.pages("list_multipart_uploads", Prefix=prefix):
            yield from page.get("Uploads", [])

    def _give_up(self, key: str, upload_id: str) -> None:
        try:
            self.bucket.call("abort_multipart_upload", Key=key, UploadId=upload_id)
        except Refused as error:
            if not error.is_missing:
                raise


class Missing(Exception):
    """There is no such object."""


class S3Upload:
    """An upload that keeps less than a part in memory."""

    def __init__(self, store: S3Blobs, path: str) -> None:
        self._store = store
        self._path = path
        self._buffer = bytearray()
        self._upload_id: str | None = None
        self._tags: list[str] = []
        self._ended = False

    def write(self, chunk: bytes) -> None:
        left = memoryview(chunk)
        while left:
            room = PART_BYTES - len(self._buffer)
            self._buffer += left[:room]
            left = left[room:]
            if len(self._buffer) == PART_BYTES:
                self._send()

    def commit(self) -> None:
        if self._ended:
            raise RuntimeError("an upload ends once, by commit or by abort")
        store = self._store
        store.check_place(self._path)
        if self._upload_id is None:
            store.put(self._path, self._buffer)
        else:
            if self._buffer:
                self._send()
            store.finish_parts(self._path, self._upload_id, list(enumerate(self._tags, 1)))
        self._ended = True
        store.remember_folders(self._path)

    def abort(self) -> None:
        if not self._ended and self._upload_id is not None:
            # What can't be given up now is abandoned, and removed later.
            with suppress(RunfoldError):
                self._store.abort_parts(self._path, self._upload_id)
        self._ended = True
        self._buffer = bytearray()

    def _send(self) -> None:
        if self._upload_id is None:
            self._upload_id = self._store.begin_parts(self._path)
        number = len(self._tags) + 1
        if number > PARTS_MAX:
            gigabytes = PARTS_MAX * PART_BYTES // 1024**3
            raise InvalidParameterValue(
                f"An artifact of more than {gigabytes} GB can't go through this server; clients "
                "send it to the bucket themselves with MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD=true."
            )
        body, self._buffer = self._buffer, bytearray()
        self._tags.append(self._store.put_part(self._path, self._upload_id, number, body))


class S3Reading:
    """An object that is being read. Where it is read from its start, this is one call; who reads
    a range of an object that was replaced meanwhile gets an error and not other bytes."""

    def __init__(self, bucket: Bucket, path: str) -> None:
        """Raises Missing."""
        self._bucket = bucket
        self._key = bucket.key(path)
        self._at = 0
        try:
            found = bucket.call("get_object", Key=self._key)
        except Refused as error:
            if error.is_missing:
                raise Missing(path) from error
            raise
        self._body: Any = found["Body"]
        self.info = _info(found)

    def chunks(self, start: int, end: int) -> Iterator[bytes]:
        failures = 0
        while start < end:
            try:
                chunk = self._read(start, end)
            except TemporarilyUnavailable:
                # The rest of the very same bytes may still be had.
                failures += 1
                self.close()
                if failures == READ_ATTEMPTS:
                    raise
                continue
            failures = 0
            start += len(chunk)
            yield chunk

    def close(self) -> None:
        if self._body is not None:
            self._body.close()
            self._body = None

    def _read(self, start: int, end: int) -> bytes:
        if self._body is None or self._at != start:
            self.close()
            self._body = self._reopened(start, end)
            self._at = start
        with told(self._bucket.uri):
            chunk: bytes = self._body.read(min(CHUNK_BYTES, end - start))
        if not chunk:
            raise TemporarilyUnavailable(f"{self._bucket.uri} gave less than it had announced.")
        self._at += len(chunk)
        return chunk

    def _reopened(self, start: int, end: int) -> Any:
        try:
            found = self._bucket.call(
                "get_object",
                Key=self._key,
                Range=f"bytes={start}-{end - 1}",
                IfMatch=f'"{self.info.etag}"',
            )
        except Refused as error:
            raise OSError(errno.EIO, "the object was replaced while it was read") from error
        return found["Body"]


def _info(found: Any) -> BlobInfo:
    return BlobInfo(
        size_bytes=found["ContentLength"],
        modified_s=found["LastModified"].timestamp(),
        etag=found["ETag"].strip('"'),
    )


def _folders_above(path: str) -> list[str]:
    """The folders that a path is in, the deepest first."""
    parts = path.split("/")
    return ["/".join(parts[:end]) for end in range(len(parts) - 1, 0, -1)]


def _content_type(path: str) -> str:
    return mimetypes.guess_type(path)[0] or "application/octet-stream"


def _etag_of_parts(etags: Sequence[str]) -> str | None:
    """What S3 calls an object that was made of these parts, unless it is encrypted."""
    try:
        digests = b"".join(bytes.fromhex(etag.strip('"')) for etag in etags)
    except ValueError:
        return None
    return f"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(etags)}"
