"""Artifact bytes in a folder of this machine.

Uploads are written to `<root>/.uploading/` and moved into place when they are whole and on the
disk; what a crash leaves there is removed by `remove_abandoned_uploads`.
"""

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final

from events.blobs import ABANDONED_AFTER_S, BlobInfo, Entry, blob_path, no_place_for, safe_path
from events.errors import InvalidParameterValue, ResourceDoesNotExist

UPLOADS: Final = ".uploading"
CHUNK_BYTES: Final = 1024 * 1024
FILE_MODE: Final = 0o644
ATTEMPTS_MAX: Final = 5


class LocalBlobs:
    """A blob store in the folder `root`, which is made when the first blob comes."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(os.path.realpath(root))

    def begin(self, path: str) -> "LocalUpload":
        target = self._locate(blob_path(path))
        uploads = self.root / UPLOADS
        uploads.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            raise _is_folder(path)
        return LocalUpload(uploads, target)

    def open(self, path: str) -> "LocalReading":
        clean = safe_path(path)
        try:
            file = self._locate(clean).open("rb", buffering=0)
        except IsADirectoryError:
            raise _is_folder(clean) from None
        except (FileNotFoundError, NotADirectoryError):
            raise ResourceDoesNotExist(f"No such artifact: '{clean}'") from None
        return LocalReading(file)

    def stat(self, path: str) -> BlobInfo | None:
        try:
            found = self._locate(safe_path(path)).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return _info(found) if _is_file(found) else None

    def list(self, folder: str) -> list[Entry]:
        clean = safe_path(folder)
        entries = []
        try:
            with os.scandir(self._locate(clean)) as found:
                for item in found:
                    if not clean and item.name == UPLOADS:
                        continue
                    # A file may go away while the folder is read, and a link may lead nowhere.
                    with suppress(FileNotFoundError):
                        size_bytes = None if item.is_dir() else item.stat().st_size
                        # Bytes that are no UTF-8 can't be told to a client; nothing put here by
                        # an upload has any.
                        name = os.fsencode(item.name).decode(errors="replace")
                        entries.append(Entry(name, size_bytes))
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(entries, key=lambda entry: entry.name)

    def delete(self, path: str) -> bool:
        try:
            self._locate(blob_path(path), follow_last=False).unlink()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return False
        return True

    def delete_tree(self, folder: str) -> int:
        clean = safe_path(folder)
        if not clean:
            raise InvalidParameterValue("The root of the artifacts can't be deleted.")
        target = self._locate(clean, follow_last=False)
        if target.is_dir() and not target.is_symlink():
            return self._delete_folder(target)
        return int(self.delete(clean))

    def remove_abandoned_uploads(self, now_s: float) -> int:
        """Removes what crashes left: half-deleted folders, and uploads that are a day old.

        Younger uploads may still be written, by this or another process. Returns how many files
        and folders were removed.
        """
        removed = 0
        for left in (self.root / UPLOADS).glob("*"):
            with suppress(FileNotFoundError):
                if left.is_dir():
                    shutil.rmtree(left)
                elif left.stat().st_mtime < now_s - ABANDONED_AFTER_S:
                    left.unlink()
                else:
                    continue
                removed += 1
        return removed

    def _delete_folder(self, folder: Path) -> int:
        """Moves a folder out of sight, then deletes it, so that no upload into it gets in the way.

        An upload that comes meanwhile makes a new folder.
        """
        uploads = self.root / UPLOADS
        uploads.mkdir(parents=True, exist_ok=True)
        trash = Path(tempfile.mkdtemp(dir=uploads))
        try:
            with suppress(FileNotFoundError):
                folder.rename(trash / "deleted")
            return sum(len(files) for _, _, files in os.walk(trash))
        finally:
            with suppress(FileNotFoundError):
                shutil.rmtree(trash)

    def _locate(self, path: str, *, follow_last: bool = True) -> Path:
        """The file that a safe path names. Raises for one that a symbolic link leads away from."""
        if path.split("/")[0] == UPLOADS:
            raise InvalidParameterValue(f"Invalid path: '{UPLOADS}' is where uploads wait.")
        named = self.root / path
        real = os.path.realpath(named if follow_last else named.parent)
        if real != str(self.root) and not real.startswith(f"{self.root}/"):
            raise InvalidParameterValue(f"Invalid path: '{path}' leads out of the artifacts.")
        return named


class LocalUpload:
    """An upload to a file of its own, moved into place at the end."""

    def __init__(self, uploads: Path, target: Path) -> None:
        self._target = target
        descriptor, name = tempfile.mkstemp(dir=uploads)
        self._waiting: Path | None = Path(name)
        self._file = os.fdopen(descriptor, "wb", buffering=CHUNK_BYTES)

    def write(self, chunk: bytes) -> None:
        self._file.write(chunk)

    def commit(self) -> None:
        if self._waiting is None:
            raise RuntimeError("an upload ends once, by commit or by abort")
        self._file.flush()
        os.fchmod(self._file.fileno(), FILE_MODE)
        os.fsync(self._file.fileno())
        self._file.close()
        for attempt in range(ATTEMPTS_MAX):
            try:
                made = _make_folders(self._target.parent)
                self._waiting.replace(self._target)
                break
            except FileNotFoundError:
                # The folder was deleted between making it and using it.
                if attempt == ATTEMPTS_MAX - 1:
                    raise
            except OSError as error:
                if error.errno not in (errno.EISDIR, errno.ENOTDIR, errno.EEXIST):
                    raise
                raise no_place_for(self._target.name) from None
        self._waiting = None
        for folder in {self._target.parent, *made}:
            _sync_folder(folder)

    def abort(self) -> None:
        self._file.close()
        if self._waiting is not None:
            self._waiting.unlink(missing_ok=True)
            self._waiting = None


class LocalReading:
    """An open file; it stays readable when another one takes its place or it is deleted."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.info = _info(os.fstat(file.fileno()))

    def chunks(self, start: int, end: int) -> Iterator[bytes]:
        while start < end:
            chunk = os.pread(self._file.fileno(), min(CHUNK_BYTES, end - start), start)
            if not chunk:
                raise OSError(errno.EIO, "the file became shorter while it was read")
            start += len(chunk)
            yield chunk

    def close(self) -> None:
        self._file.close()


def _info(found: os.stat_result) -> BlobInfo:
    return BlobInfo(
        size_bytes=found.st_size,
        modified_s=found.st_mtime,
        etag=f"{found.st_mtime_ns:x}-{found.st_size:x}-{found.st_ino:x}",
    )


def _is_file(found: os.stat_result) -> bool:
    return stat.S_ISREG(found.st_mode)


def _is_folder(path: str) -> InvalidParameterValue:
    return InvalidParameterValue(f"Artifact path refers to a directory, not a file: '{path}'")


def _make_folders(folder: Path) -> list[Path]:
    """Makes the folder and those above it; returns the folders that got a new one in them."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for one in reversed(missing):
        one.mkdir(exist_ok=True)
    return [one.parent for one in missing]


def _sync_folder(folder: Path) -> None:
    """Puts the names in a folder on the disk; a folder that is gone has none."""
    with suppress(FileNotFoundError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
