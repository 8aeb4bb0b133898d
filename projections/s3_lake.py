"""The lake in S3. The folder has what was written or read lately, within a bound.

The folder is a machine's: its processes share it. Files never change, so a copy is as good as the
object; what the views name no more is dropped by `tidy`.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from events.errors import (
    PermissionDenied,
    ResourceDoesNotExist,
    RunfoldError,
    TemporarilyUnavailable,
)
from events.s3 import Bucket, Patience, Refused, open_bucket, told
from projections.lake import STORES, WRITING, Lake, LakePlace, SegmentGone, escaped

FETCHING: Final = ".fetching"
FETCHED_AT_ONCE: Final = 8
LINKED_AT_ONCE: Final = 64
CHUNK_BYTES: Final = 1024 * 1024
USED_S: Final = 60.0
"""A file that was used so lately stays: who fetched it is about to open it."""
PATIENCE: Final = Patience(20, 2)
"""Somebody waits for each call, or has the lock of the lake."""
AWAY_S: Final = 2.0
"""So long after S3 did not answer one asks again; the others are told at once until it does."""
PUT_TRIES: Final = 100
LEFT_S: Final = 3600.0
"""What is not whole, and was not written to for so long, a crash has left."""
TIDY_S: Final = 60.0
FREE: Final = 0.1
"""The share of the bound that is made free at once,"""
UNSEEN: Final = 0.05
"""and the share that a process adds before it looks."""
OWNER: Final = "owner"
CACHE_LOCK: Final = ".cache.lock"
TIDIED: Final = ".tidied"


class OthersLake(RunfoldError):
    """The place in S3 has the lake of another log."""


@dataclass
class _Flight:
    """A file that is being fetched: others that want it wait."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    waiting: int = 0


class S3Lake(Lake):
    """A lake below a prefix of a bucket."""

    is_remote = True
    # Readers hold a list of the files, not links to them.
    retired_s = 3600.0

    def __init__(self, place: LakePlace, bucket: Bucket) -> None:
        super().__init__(Path(place.folder))
        self._place = place
        self._bucket = bucket
        self._bytes_max = place.cache_mb * 1024 * 1024
        self._added = self._bytes_max
        """Bytes since it was last looked whether the folder keeps its bound; nobody has yet."""
        self._lock = threading.Lock()
        self._flights: dict[str, _Flight] = {}
        self._away_until = 0.0
        self._away_because = ""

    @property
    def place(self) -> LakePlace:
        return self._place

    # What is done to files.

    def ready(self) -> None:
        with self._asked():
            try:
                owner = self._owner()
            except Refused as error:
                if not error.is_missing:
                    raise
                self._claim()
                owner = self._owner()
        if owner != self._place.owner:
            raise OthersLake(
                f"{self._bucket.uri} has the lake of another log: give another --lake-uri, or "
                f"delete what is there, of which the object {OWNER} is the mark."
            )

    def _owner(self) -> str:
        with told(self._bucket.uri):
            found: bytes = self._call("get_object", OWNER)["Body"].read()
        return found.decode()

    def _claim(self) -> None:
        try:
            self._call("put_object", OWNER, Body=self._place.owner.encode(), IfNoneMatch="*")
        except Refused as error:
            # Another process was first, which is as good.
            if error.code not in ("PreconditionFailed", "ConditionalRequestConflict"):
                raise

    def keep(self, path: str) -> None:
        file = self.folder / path
        with self._asked(), file.open("rb") as body:
            self._call("put_object", path, Body=body)
            size = os.fstat(body.fileno()).st_size
        self._make_room(size)

    def fetch(self, paths: Collection[str]) -> None:
        missing = [path for path in dict.fromkeys(paths) if not self._use(path)]
        if len(missing) == 1:
            self._get(missing[0])
        elif missing:
            list(self._threads.map(self._get, missing))

    def link(self, places: Mapping[Path, str]) -> None:
        every = list(places.items())
        # A few at a time: what is linked may go here, so there may be more than the bound.
        for start in range(0, len(every), LINKED_AT_ONCE):
            some = dict(every[start : start + LINKED_AT_ONCE])
            self.fetch(list(some.values()))
            super().link(some)

    @contextlib.contextmanager
    def held(self, paths: Sequence[str], folder: Path) -> Iterator[list[str]]:
        places = {folder / f"{place}.parquet": path for place, path in enumerate(paths)}
        try:
            self.link(places)
            yield [escaped(file) for file in places]
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def remove(self, path: str) -> None:
        with self._asked():
            self._call("delete_object", path)
        super().remove(path)

    def discard(self, path: str) -> None:
        # The copy first: it goes also where S3 is the reason.
        super().remove(path)
        with contextlib.suppress(RunfoldError), self._asked():
            self._call("delete_object", path)

    def found(self, store: str, *, young_s: float = 0.0) -> Iterator[tuple[str, bool]]:
        since = time.time() - young_s
        base = self._bucket.key("")
        with self._asked():
            for page in self._bucket.pages("list_objects_v2", Prefix=self._bucket.key(f"{store}/")):
                for one in page.get("Contents", []):
                    is_young = one["LastModified"].timestamp() > since
                    yield one["Key"].removeprefix(base), is_young

    def publish(self, name: str, text: str) -> None:
        with self._asked():
            self._call("put_object", name, Body=text.encode())

    @property
    def away(self) -> str | None:
        return self._away_because if self._away_until else None

    def _call(self, method: str, path: str, **arguments: Any) -> Any:
        return self._bucket.call(method, Key=self._bucket.key(path), **arguments)

    @contextlib.contextmanager
    def _asked(self) -> Iterator[None]:
        """Around calls of S3. While it is away all but one are told so at once: each that waits for
        it holds a thread that others need."""
        if self._away_until:
            self._look_again()
        try:
            yield
        except TemporarilyUnavailable as error:
            self._away_because = error.message
            self._away_until = time.monotonic() + AWAY_S
            raise

    def _look_again(self) -> None:
        with self._lock:
            if time.monotonic() < self._away_until:
                raise TemporarilyUnavailable(self._away_because)
            self._away_until = math.inf
        until = 0.0
        try:
            # It is there where it answers, whatever it says.
            with contextlib.suppress(Refused, PermissionDenied, ResourceDoesNotExist):
                self._owner()
        except BaseException:
            until = time.monotonic() + AWAY_S
            raise
        finally:
            self._away_until = until

    # The folder.

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(FETCHED_AT_ONCE, "lake")

    def _use(self, path: str) -> bool:
        """Whether a file is in the folder, where it stays for the next moment."""
        try:
            os.utime(self.folder / path)
        except FileNotFoundError:
            return False
        return True

    def _get(self, path: str) -> None:
        """Brings a file into the folder."""
        with self._flying(path):
            if self._use(path):
                return
            fetching = self.folder / FETCHING / secrets.token_hex(16)
            fetching.parent.mkdir(parents=True, exist_ok=True)
            try:
                size = self._download(path, fetching)
                self._put(fetching, self.folder / path)
            finally:
                fetching.unlink(missing_ok=True)
        self._make_room(size)

    def _put(self, fetched: Path, target: Path) -> None:
        for _ in range(PUT_TRIES):
            target.parent.mkdir(parents=True, exist_ok=True)
            # Whoever removes the last file of a folder removes the folder.
            with contextlib.suppress(FileNotFoundError):
                fetched.replace(target)
                return
        raise SegmentGone(f"{target} can't be put into its folder")

    def _download(self, path: str, to: Path) -> int:
        with self._asked(), to.open("wb") as file:
            try:
                body = self._call("get_object", path)["Body"]
            except Refused as error:
                if error.is_missing:
                    raise SegmentGone(f"{path} is not in the lake") from error
                raise
            with told(self._bucket.uri), contextlib.closing(body):
                shutil.copyfileobj(body, file, CHUNK_BYTES)
            file.flush()
            # After a loss of power the file's name must not stand for half of it.
            os.fsync(file.fileno())
            return file.tell()

    @contextlib.contextmanager
    def _flying(self, path: str) -> Iterator[None]:
        """Has one thread at a time fetch a file."""
        with self._lock:
            flight = self._flights.setdefault(path, _Flight())
            flight.waiting += 1
        try:
            with flight.lock:
                yield
        finally:
            with self._lock:
                flight.waiting -= 1
                if not flight.waiting:
                    self._flights.pop(path, None)

    def _make_room(self, added: int) -> None:
        """Removes the files that were not used for longest, where there are more than the bound."""
        with self._lock:
            self._added += added
            if self._added < self._bytes_max * UNSEEN:
                return
            self._added = 0
        with self._alone() as alone:
            if alone:
                self._keep_bound()

    def _keep_bound(self) -> None:
        copies = sorted(self._copies())
        total = sum(size for _, size, _ in copies)
        if total <= self._bytes_max:
            return
        used_from = time.time() - USED_S
        for used_at, size, file in copies:
            if total <= self._bytes_max * (1 - FREE) or used_at > used_from:
                return
            file.unlink(missing_ok=True)
            total -= size

    def _copies(self) -> Iterator[tuple[float, int, Path]]:
        """When each file was used last, its size, and the file."""
        for store in STORES:
            for path, _ in super().found(store):
                file = self.folder / path
                with contextlib.suppress(FileNotFoundError):
                    status = file.stat()
                    if not path.endswith(WRITING):
                        yield status.st_mtime, status.st_size, file

    @contextlib.contextmanager
    def _alone(self) -> Iterator[bool]:
        """Whether no other process of this machine removes files just now."""
        self.folder.mkdir(parents=True, exist_ok=True)
        opened = os.open(self.folder / CACHE_LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            try:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True
        finally:
            os.close(opened)

    def tidy(self, known: Callable[[], Collection[str]]) -> None:
        """Drops the copies of files that the views know no more, such as what gc purged from
        another machine, and what crashes have left. Once a minute, whoever asks."""
        with self._alone() as alone:
            mark = self.folder / TIDIED
            now = time.time()
            if not alone or (mark.exists() and 0 <= now - mark.stat().st_mtime < TIDY_S):
                return
            copies = list(self._copies())
            named = set(known())
            for used_at, _, file in copies:
                # What is being made part of the views is young.
                if used_at < now - USED_S and str(file.relative_to(self.folder)) not in named:
                    Lake.remove(self, str(file.relative_to(self.folder)))
            left = [*self.folder.glob(f"{FETCHING}/*"), *self.folder.glob(f".*/*/*/*{WRITING}")]
            for file in left:
                with contextlib.suppress(FileNotFoundError):
                    if file.stat().st_mtime < now - LEFT_S:
                        file.unlink()
            self._keep_bound()
            mark.touch()


def open_s3_lake(place: LakePlace) -> S3Lake:
    """The lake at this place; nothing is asked of the server yet."""
    return S3Lake(place, open_bucket(place.uri, place.s3, PATIENCE))
