"""Blobs over HTTP: taken from a client, sent to one, and listed.

Sent in pieces, from where the client wants it, and always as an attachment; taken in pieces too, so
that a file of any size costs one buffer. Artifacts are what users uploaded, so a browser must never
show one as a page of this server: its type is not to be guessed, and it is saved, not shown.
"""

import asyncio
import mimetypes
import re
import unicodedata
from collections.abc import AsyncIterator, Iterator, Sequence
from email.utils import formatdate
from typing import Any, Final
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from api.answers import json_answer
from api.errors import error_response
from events.blobs import BlobInfo, BlobStore, Entry, Reading, Upload
from events.errors import InvalidParameterValue

TEXT_EXTENSIONS: Final = frozenset(
    {"cf", "cfg", "cnf", "conf", "csv", "err", "hocon", "ini", "ipynb", "js", "json", "log", "md"}
    | {"prop", "properties", "py", "py3", "rst", "toml", "tsv", "txt", "xml", "yaml", "yml"}
    | {"MLmodel", "MLproject"}
)
"""What the UI shows as text, and MLflow therefore serves as such."""

WRITE_BYTES: Final = 1024 * 1024

TOKEN: Final = re.compile(r"[A-Za-z0-9!#$%&'*+\-.^_`|~]+")
PRINTABLE: Final = re.compile(r"[\x20-\x7e]+")
ATTRIBUTE_CHARACTERS: Final = "!#$&+-.^_`|~"
RANGE: Final = re.compile(r"\s*bytes\s*=\s*(\d{0,19})\s*-\s*(\d{0,19})\s*", re.IGNORECASE)


async def stream_file(request: Request, store: BlobStore, path: str) -> Response:
    """The blob at `path`, or the range of it that was asked for; nothing but headers for HEAD.

    Raises ResourceDoesNotExist, and InvalidParameterValue for a folder or an unsafe path.
    """
    reading = await run_in_threadpool(store.open, path)
    try:
        return _answer(request, reading, path.rstrip("/").rsplit("/", 1)[-1])
    except BaseException:
        reading.close()
        raise


async def store_body(
    request: Request,
    store: BlobStore,
    path: str,
    *,
    bytes_min: int = 0,
    bytes_max: int | None = None,
) -> None:
    """Puts the request's body into a blob, piece by piece; it appears when the body has ended.

    Raises InvalidParameterValue for a body outside the bounds. When the client leaves before the
    end, nothing appears.
    """
    upload = await run_in_threadpool(store.begin, path)
    try:
        size_bytes = await _copy(request, upload, bytes_max)
        if size_bytes < bytes_min:
            raise InvalidParameterValue("Request must specify data.")
        await run_in_threadpool(upload.commit)
    except BaseException:
        # Also where this task was ended: what was sent must not stay in a store far away.
        await asyncio.shield(run_in_threadpool(upload.abort))
        raise


def list_answer(entries: Sequence[Entry], folder: str, root_uri: str | None = None) -> Response:
    """MLflow's JSON of a listing; paths are below `folder`, which "" leaves out."""
    answer: dict[str, Any] = {} if root_uri is None else {"root_uri": root_uri}
    files = []
    for entry in entries:
        path = f"{folder}/{entry.name}" if folder else entry.name
        file: dict[str, Any] = {"path": path, "is_dir": entry.is_folder}
        if entry.size_bytes:
            # Protobuf leaves a zero out, so clients read a missing size as one.
            file["file_size"] = entry.size_bytes
        files.append(file)
    if files:
        answer["files"] = files
    return json_answer(answer)


async def _copy(request: Request, upload: Upload, bytes_max: int | None) -> int:
    size_bytes = 0
    waiting: list[bytes] = []
    waiting_bytes = 0
    async for chunk in request.stream():
        size_bytes += len(chunk)
        if bytes_max is not None and size_bytes > bytes_max:
            raise too_large(bytes_max)
        waiting.append(chunk)
        waiting_bytes += len(chunk)
        # Network pieces are small; a trip to a thread for each would cost more than the disk.
        if waiting_bytes >= WRITE_BYTES:
            await run_in_threadpool(upload.write, b"".join(waiting))
            waiting, waiting_bytes = [], 0
    if waiting:
        await run_in_threadpool(upload.write, b"".join(waiting))
    return size_bytes


def too_large(bytes_max: int) -> InvalidParameterValue:
    """The error for an upload of more than `bytes_max`."""
    return InvalidParameterValue(
        f"Artifact size is too large. Max size is {bytes_max // 1024**2} MB."
    )


def _answer(request: Request, reading: Reading, name: str) -> Response:
    info = reading.info
    headers = {
        "content-type": content_type(name),
        "content-disposition": content_disposition(name),
        "x-content-type-options": "nosniff",
        "cache-control": "no-cache",
        "accept-ranges": "bytes",
        "last-modified": formatdate(info.modified_s, usegmt=True),
        "etag": f'"{info.etag}"',
    }
    if _is_known(request.headers.get("if-none-match"), headers["etag"]):
        reading.close()
        return Response(status_code=304, headers=headers)
    span = _wanted_range(request, info, headers)
    if span is not None and span[0] >= span[1]:
        reading.close()
        return error_response(
            "INVALID_PARAMETER_VALUE",
            f"The range is not in the artifact, which has {info.size_bytes} bytes.",
            status=416,
            headers={"content-range": f"bytes */{info.size_bytes}"},
        )
    status, (start, end) = (200, (0, info.size_bytes)) if span is None else (206, span)
    headers["content-length"] = str(end - start)
    if span is not None:
        headers["content-range"] = f"bytes {start}-{end - 1}/{info.size_bytes}"
    if request.method == "HEAD":
        reading.close()
        return Response(status_code=status, headers=headers)
    return Download(reading, reading.chunks(start, end), status, headers)


class Download(StreamingResponse):
    """A streamed blob, which is closed however the answer ends."""

    def __init__(
        self, reading: Reading, chunks: Iterator[bytes], status: int, headers: dict[str, str]
    ) -> None:
        super().__init__(_in_threads(chunks), status_code=status, headers=headers)
        self.reading = reading

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.reading.close()


async def _in_threads(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    while True:
        # A thread is taken for each piece only, so that slow clients don't hold any.
        chunk = await run_in_threadpool(next, chunks, None)
        if chunk is None:
            return
        yield chunk


def content_type(name: str) -> str:
    """The type by which an artifact is sent, after its name."""
    extension = name.rpartition(".")[2]
    if extension in TEXT_EXTENSIONS:
        return "text/plain"
    return mimetypes.guess_type(name)[0] or "application/octet-stream"


def content_disposition(name: str) -> str:
    """The header that makes a browser save the artifact under its name, whatever is in it."""
    if PRINTABLE.fullmatch(name):
        return f"attachment; filename={_quoted(name)}"
    plain = "".join(PRINTABLE.findall(unicodedata.normalize("NFKD", name))) or "download"
    exact = quote(name, safe=ATTRIBUTE_CHARACTERS)
    return f"attachment; filename={_quoted(plain)}; filename*=UTF-8''{exact}"


def _quoted(name: str) -> str:
    if TOKEN.fullmatch(name):
        return name
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _is_known(if_none_match: str | None, etag: str) -> bool:
    if if_none_match is None:
        return False
    known = {one.strip().removeprefix("W/") for one in if_none_match.split(",")}
    return etag in known or "*" in known


def _wanted_range(
    request: Request, info: BlobInfo, headers: dict[str, str]
) -> tuple[int, int] | None:
    """Start and end (exclusive) of the range asked for; empty when it can't be met.

    None for the whole: when no range, several, or something malformed was asked for, or when the
    client has the beginning of other bytes than these (`If-Range`).
    """
    asked = RANGE.fullmatch(request.headers.get("range", ""))
    if asked is None or asked.groups() == ("", ""):
        return None
    condition = request.headers.get("if-range")
    if condition is not None and condition not in (headers["etag"], headers["last-modified"]):
        return None
    first, last = asked.groups()
    if not first:
        return max(0, info.size_bytes - int(last)), info.size_bytes
    end = info.size_bytes if not last else min(int(last) + 1, info.size_bytes)
    if last and int(last) < int(first):
        return None
    return int(first), end
