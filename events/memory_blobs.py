"""Artifact bytes in memory, for tests."""

import itertools
from collections.abc import Iterator

from events.blobs import BlobInfo, Entry, blob_path, no_place_for, safe_path
from events.errors import InvalidParameterValue, ResourceDoesNotExist


class MemoryBlobs:
    """A blob store that is gone with its process."""

    def __init__(self) -> None:
        self.blobs: dict[str, tuple[BlobInfo, bytes]] = {}
        self.versions = itertools.count(1)

    def begin(self, path: str) -> "MemoryUpload":
        return MemoryUpload(self, blob_path(path))

    def open(self, path: str) -> "MemoryReading":
        clean = safe_path(path)
        if clean in self.blobs:
            return MemoryReading(*self.blobs[clean])
        if self.is_folder(clean):
            raise InvalidParameterValue(
                f"Artifact path refers to a directory, not a file: '{clean}'"
            )
        raise ResourceDoesNotExist(f"No such artifact: '{clean}'")

    def stat(self, path: str) -> BlobInfo | None:
        found = self.blobs.get(safe_path(path))
        return None if found is None else found[0]

    def list(self, folder: str) -> list[Entry]:
        clean = safe_path(folder)
        prefix = f"{clean}/" if clean else ""
        entries: dict[str, Entry] = {}
        for path, (info, _) in self.blobs.items():
            if path.startswith(prefix):
                name, _, deeper = path.removeprefix(prefix).partition("/")
                entries[name] = Entry(name, None if deeper else info.size_bytes)
        return [entries[name] for name in sorted(entries)]

    def delete(self, path: str) -> bool:
        return self.blobs.pop(blob_path(path), None) is not None

    def delete_tree(self, folder: str) -> int:
        clean = safe_path(folder)
        if not clean:
            raise InvalidParameterValue("The root of the artifacts can't be deleted.")
        gone = [path for path in self.blobs if path == clean or path.startswith(f"{clean}/")]
        for path in gone:
            del self.blobs[path]
        return len(gone)

    def remove_abandoned_uploads(self, now_s: float) -> int:  # noqa: ARG002 - none outlive it
        return 0

    def is_folder(self, path: str) -> bool:
        """Whether a blob is somewhere under this path."""
        return not path or any(other.startswith(f"{path}/") for other in self.blobs)


class MemoryUpload:
    """An upload that is kept aside until it is whole."""

    def __init__(self, store: MemoryBlobs, path: str) -> None:
        self._store = store
        self._path = path
        self._written = bytearray()

    def write(self, chunk: bytes) -> None:
        self._written += chunk

    def commit(self) -> None:
        above = self._path.split("/")[:-1]
        folders = ["/".join(above[: end + 1]) for end in range(len(above))]
        if self._store.is_folder(self._path) or any(one in self._store.blobs for one in folders):
            raise no_place_for(self._path)
        version = next(self._store.versions)
        info = BlobInfo(len(self._written), modified_s=float(version), etag=str(version))
        self._store.blobs[self._path] = (info, bytes(self._written))

    def abort(self) -> None:
        self._written.clear()


class MemoryReading:
    """Bytes that were in the store when they were opened."""

    def __init__(self, info: BlobInfo, content: bytes) -> None:
        self.info = info
        self._content = content

    def chunks(self, start: int, end: int) -> Iterator[bytes]:
        yield self._content[start:end]

    def close(self) -> None:
        pass
