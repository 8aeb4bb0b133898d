"""The contract of every blob store, and what only the folder store can get wrong."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from events.artifact_uris import ArtifactRoots, artifact_roots
from events.blobs import ABANDONED_AFTER_S, BlobStore, put, safe_path
from events.errors import InvalidParameterValue, ResourceDoesNotExist
from events.local_blobs import CHUNK_BYTES, UPLOADS, LocalBlobs
from events.memory_blobs import MemoryBlobs
from events.settings import Settings
from tests.backends import S3Place

pytestmark = pytest.mark.services


@pytest.fixture(params=["local", "memory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    """Each store that there is; a new one is one more line here."""
    if request.param == "local":
        return LocalBlobs(tmp_path / "artifacts")
    if request.param == "s3":
        place: S3Place = request.getfixturevalue("s3_place")
        return place.blobs()
    return MemoryBlobs()


def content(store: BlobStore, path: str, start: int = 0, end: int | None = None) -> bytes:
    """What a blob holds, as one piece."""
    reading = store.open(path)
    try:
        return b"".join(reading.chunks(start, reading.info.size_bytes if end is None else end))
    finally:
        reading.close()


def test_a_blob_comes_back_as_it_was_put(store: BlobStore) -> None:
    """Bytes, size and ranges of a blob are those that were uploaded; empty blobs are blobs."""
    body = os.urandom(CHUNK_BYTES + 17)
    put(store, "1/run/artifacts/model.bin", [body[:5], b"", body[5:]])
    put(store, "empty", [])
    assert content(store, "1/run/artifacts/model.bin") == body
    assert (
        content(store, "1/run/artifacts/model.bin", 3, CHUNK_BYTES + 2) == body[3 : CHUNK_BYTES + 2]
    )
    info = store.stat("1/run/artifacts/model.bin")
    assert info is not None
    assert info.size_bytes == len(body)
    assert content(store, "empty") == b""


def test_an_upload_is_seen_whole_or_not_at_all(store: BlobStore) -> None:
    """Nothing of an upload is seen before it is committed, and nothing of an aborted one ever."""
    put(store, "a/b", [b"old"])
    upload = store.begin("a/b")
    upload.write(b"new and longer")
    assert content(store, "a/b") == b"old"
    assert [entry.name for entry in store.list("")] == ["a"]
    upload.commit()
    upload.abort()
    assert content(store, "a/b") == b"new and longer"
    dropped = store.begin("a/c")
    dropped.write(b"x")
    dropped.abort()
    dropped.abort()
    assert [entry.name for entry in store.list("a")] == ["b"]


def test_replacing_changes_the_etag_and_leaves_readers_alone(store: BlobStore) -> None:
    """Who has a blob open reads on in the old bytes; the new ones have another etag."""
    put(store, "x", [b"one"])
    reading = store.open("x")
    put(store, "x", [b"two"])
    assert b"".join(reading.chunks(0, 3)) == b"one"
    now = store.stat("x")
    assert now is not None
    assert now.etag != reading.info.etag
    reading.close()
    reading.close()


def test_listing(store: BlobStore) -> None:
    """A listing has what is directly in a folder, by name; no folder gives an empty one."""
    for path in ("d/b.txt", "d/a/deep/x", "d/c", "other"):
        put(store, path, [b"12"])
    assert [(e.name, e.size_bytes, e.is_folder) for e in store.list("d/")] == [
        ("a", None, True),
        ("b.txt", 2, False),
        ("c", 2, False),
    ]
    assert [entry.name for entry in store.list("")] == ["d", "other"]
    assert store.list("nope") == []
    assert store.list("other") == []


def test_what_is_missing(store: BlobStore) -> None:
    """A blob that is not there, or is a folder, is said to be so."""
    put(store, "d/a", [b"1"])
    for path in ("nope", "d/a/x", "nope/x"):
        with pytest.raises(ResourceDoesNotExist):
            store.open(path)
        assert store.stat(path) is None
    for path in ("d", "", "d/"):
        with pytest.raises(InvalidParameterValue, match="directory"):
            store.open(path)
        assert store.stat(path) is None


def test_blobs_and_folders_do_not_replace_each_other(store: BlobStore) -> None:
    """A blob is not put where a folder is, nor below another blob; what was there stays."""
    put(store, "d/a", [b"1"])
    for path in ("d", "d/a/x"):
        with pytest.raises(InvalidParameterValue):
            put(store, path, [b"2"])
    assert content(store, "d/a") == b"1"
    assert [entry.name for entry in store.list("")] == ["d"]


def test_deleting(store: BlobStore) -> None:
    """A blob or a whole folder goes; deleting again says that nothing was there."""
    for path in ("d/a", "d/e/b", "d/e/c", "keep"):
        put(store, path, [b"1"])
    assert store.delete("d/a")
    assert not store.delete("d/a")
    assert not store.delete("d/e")
    assert store.delete_tree("d") == 2
    assert store.delete_tree("d") == 0
    assert store.delete_tree("keep") == 1
    assert store.list("") == []
    with pytest.raises(InvalidParameterValue):
        store.delete_tree(".")


UNSAFE = [
    "..",
    "../x",
    "a/../../x",
    "a/..",
    "/etc/passwd",
    "//etc/passwd",
    "%2e%2e/x",
    "%252e%252e/x",
    "%25252e%25252e%25252fx",
    "a%2f..%2f..%2fx",
    "%2fetc/passwd",
    "..%5cx",
    "a\\..\\..\\x",
    "\\\\server\\share",
    "c:/windows",
    "C:\\windows",
    "a\0b",
    "a%00b",
    "a\nb",
    "a#b",
    "\ud800",
    "x" * 256,
    "/".join(["x" * 200] * 6),
]


@pytest.mark.parametrize("path", UNSAFE)
def test_unsafe_paths_are_refused_by_every_call(store: BlobStore, path: str) -> None:
    """A path out of the root, in any spelling, is refused by reads, writes, lists and deletes."""
    for call in (store.begin, store.open, store.stat, store.list, store.delete, store.delete_tree):
        with pytest.raises(InvalidParameterValue):
            call(path)


@pytest.mark.parametrize("path", ["", ".", "a/", "./", "a%2f"])
def test_a_blob_has_a_name(store: BlobStore, path: str) -> None:
    """An upload to the root or to a path with a slash at its end is refused."""
    with pytest.raises(InvalidParameterValue):
        store.begin(path)


@pytest.mark.parametrize(
    ("sent", "path"),
    [
        ("a//b", "a/b"),
        ("./a/./b", "a/b"),
        ("a%20b", "a b"),
        ("a%2520b", "a b"),
        ("100%.txt", "100%.txt"),
        ("é/日本.txt", "é/日本.txt"),
        ("a..b/...", "a..b/..."),
        ("", ""),
    ],
)
def test_spellings_of_one_path(sent: str, path: str) -> None:
    """Paths that mean the same blob are the same path."""
    assert safe_path(sent) == path


@given(st.text(alphabet="./\\%25ecaAE0#:\0\n é", max_size=24))
@settings(max_examples=500, deadline=None)
def test_a_safe_path_stays_inside(sent: str) -> None:
    """Whatever is sent, a path that is let through is inside the root, and is its own safe path."""
    try:
        path = safe_path(sent)
    except InvalidParameterValue:
        return
    root = "/srv/artifacts"
    assert os.path.normpath(f"{root}/{path}") == f"{root}/{path}".rstrip("/")
    assert safe_path(path) == path


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalBlobs]:
    """A folder store beside a file that nobody may reach."""
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "secrets").mkdir()
    yield LocalBlobs(tmp_path / "artifacts")
    assert (tmp_path / "secret").read_text() == "secret"


def test_symbolic_links_do_not_lead_out(local: LocalBlobs, tmp_path: Path) -> None:
    """A link to outside can't be read, listed, written through or followed by a delete."""
    put(local, "in/a", [b"1"])
    (local.root / "in/link").symlink_to(tmp_path / "secret")
    (local.root / "in/folder").symlink_to(tmp_path / "secrets")
    (tmp_path / "artifacts-twin").mkdir()
    (local.root / "twin").symlink_to(tmp_path / "artifacts-twin")
    for path in ("in/link", "in/folder", "in/folder/x", "twin/x"):
        for call in (local.begin, local.open, local.stat, local.list):
            with pytest.raises(InvalidParameterValue):
                call(path)
    with pytest.raises(InvalidParameterValue):
        local.delete("in/folder/x")
    assert local.delete("in/link")
    (tmp_path / "secrets/x").write_text("kept")
    assert local.delete_tree("in") == 1
    assert (tmp_path / "secrets/x").read_text() == "kept"


def test_links_inside_are_followed(local: LocalBlobs) -> None:
    """A link from one artifact to another is as good as a copy."""
    put(local, "a/x", [b"1"])
    (local.root / "b").symlink_to(local.root / "a")
    assert content(local, "b/x") == b"1"


def test_the_folder_of_uploads_is_no_artifact(local: LocalBlobs) -> None:
    """Unfinished uploads are neither listed nor reached, and are removed when they are old."""
    upload = local.begin("a")
    upload.write(b"1")
    (waiting,) = (local.root / UPLOADS).iterdir()
    assert local.list("") == []
    for call in (local.open, local.list, local.begin, local.delete_tree):
        with pytest.raises(InvalidParameterValue):
            call(f"{UPLOADS}/{waiting.name}")
    now_s = waiting.stat().st_mtime
    assert local.remove_abandoned_uploads(now_s + ABANDONED_AFTER_S - 60) == 0
    (local.root / UPLOADS / "half-deleted/deleted").mkdir(parents=True)
    assert local.remove_abandoned_uploads(now_s + ABANDONED_AFTER_S + 60) == 2
    upload.abort()


def test_a_name_that_is_no_text_does_not_stop_a_listing(local: LocalBlobs) -> None:
    """A file name that is not UTF-8, put there by hand, is listed with replacement characters."""
    put(local, "d/a", [b"1"])
    (local.root / "d" / os.fsdecode(b"\xff.bin")).write_bytes(b"2")
    (local.root / "d/dangling").symlink_to("nowhere")
    assert [entry.name for entry in local.list("d")] == ["a", "\ufffd.bin"]


def test_uploads_and_deletes_of_one_folder_at_once(local: LocalBlobs) -> None:
    """An upload succeeds although the folder it goes to is deleted again and again."""
    stop = threading.Event()

    def delete() -> None:
        while not stop.is_set():
            local.delete_tree("d/e")

    deleter = threading.Thread(target=delete)
    deleter.start()
    try:
        for number in range(50):
            put(local, f"d/e/{number}", [b"1"])
    finally:
        stop.set()
        deleter.join()
    assert {entry.name for entry in local.list("d/e")} <= {str(number) for number in range(50)}


@pytest.fixture
def roots(tmp_path: Path) -> ArtifactRoots:
    """What a server with the proxy and one more folder reaches."""
    told = Settings(home=tmp_path / "home", default_artifact_root=str(tmp_path / "shared"))
    return artifact_roots(told, MemoryBlobs(), LocalBlobs)


def test_proxied_uris(roots: ArtifactRoots) -> None:
    """The URIs of the proxy, in all their forms, lead to the proxied store."""
    for uri in (
        "mlflow-artifacts:/1/r/artifacts",
        "mlflow-artifacts://host:5000/1/r/artifacts",
        "http://host/api/2.0/mlflow-artifacts/artifacts/1/r/artifacts",
        "https://host/prefix/api/2.0/mlflow-artifacts/artifacts/1/r/artifacts/",
    ):
        assert roots.locate(uri, "d/x") == (roots.proxied, "1/r/artifacts/d/x")
        assert roots.locate(uri) == (roots.proxied, "1/r/artifacts")
        assert roots.is_proxied(uri)
    with pytest.raises(InvalidParameterValue):
        roots.locate("mlflow-artifacts:/1/r", "../../2")


def test_folder_uris(roots: ArtifactRoots, tmp_path: Path) -> None:
    """Folders that the server was given are reached, by path and by file: URI; others are not."""
    for uri in (f"{tmp_path}/shared/1/a b", (tmp_path / "shared/1/a b").as_uri()):
        found, path = roots.locate(uri, "x")
        assert isinstance(found, LocalBlobs)
        assert (found.root, path) == (tmp_path / "shared", "1/a b/x")
        assert roots.locate(uri)[1] == "1/a b"
    assert roots.locate(f"{tmp_path}/shared/.hidden", "x")[1] == ".hidden/x"
    assert roots.locate(f"{tmp_path}/shared", "x")[1] == "x"
    for uri in (
        "file:///etc",
        "/etc",
        f"{tmp_path}/shared/../other",
        f"{tmp_path}/shared-twin",
        f"{tmp_path}/shared/a%20b",
        "s3://bucket/x",
        "file://other-host/x",
        "http://host/elsewhere",
    ):
        with pytest.raises(InvalidParameterValue):
            roots.locate(uri)


def test_a_relative_root_is_made_absolute() -> None:
    """A relative folder is the server's; clients with other current folders get all of it."""
    root = Settings(default_artifact_root="./mlruns").artifact_root
    assert root == str(Path.cwd() / "mlruns")
    assert Settings(default_artifact_root="s3://b/x").artifact_root == "s3://b/x"


@pytest.mark.parametrize(
    "uri",
    [
        "runs:/x/y",
        "file:///etc",
        "/etc",
        "relative/folder",
        "s3://b/x#y",
        "s3://b/x;y",
        "s3://b/x?a=../..",
        "http://host/api/2.0/mlflow-artifacts/artifacts/x",
        "mlflow-artifacts://host/x",
        "mlflow-artifacts:/../x",
        "ftp://host/x",
        "hdfs://host/x",
        "s3://" + "x" * 2048,
        "http://[",
    ],
)
def test_locations_that_are_refused(roots: ArtifactRoots, uri: str) -> None:
    """L-20: locations that would lead the server to other hosts or folders are refused."""
    with pytest.raises(InvalidParameterValue):
        roots.check_location(uri)


def test_locations_that_are_accepted(roots: ArtifactRoots, tmp_path: Path) -> None:
    """L-20: the proxy, the given folders, and stores that only clients reach are accepted."""
    for uri in ("mlflow-artifacts:/x", f"{tmp_path}/shared/x", "s3://bucket/x", "gs://b/x"):
        roots.check_location(uri)
