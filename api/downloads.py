"""Sends a blob to a client: in pieces, from where the client wants it, always as an attachment.

A file of any size costs one buffer. Artifacts are what users uploaded, so a browser must never show
one as a page of this server: each is an attachment whose type is not to be guessed.
"""

import mimetypes
import re
import unicodedata
from collections.abc import AsyncIterator, Iterator
from email.utils import formatdate
from typing import Final
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from api.errors import error_response
from events.blobs import BlobInfo, BlobStore, Reading

TEXT_EXTENSIONS: Final = frozenset(
    {"cf", "cfg", "cnf", "conf", "csv", "err", "hocon", "ini", "ipynb", "js", "json", "log", "md"}
    | {"prop", "properties", "py", "py3", "rst", "toml", "tsv", "txt", "xml", "yaml", "yml"}
    | {"MLmodel", "MLproject"}
)
"""What the UI shows as text, and MLflow therefore serves as such."""

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
