"""What only a blob store in S3 can get wrong; the contract of all is in test_blobs.py."""

import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ReadTimeoutError

import events.s3_blobs
from events.blobs import ABANDONED_AFTER_S, BlobStore, put
from events.errors import (
    InvalidParameterValue,
    PermissionDenied,
    ResourceDoesNotExist,
    TemporarilyUnavailable,
)
from events.opened_blobs import check_place, open_blobs
from events.places import SettingError
from events.s3 import open_bucket
from events.s3_blobs import CHUNK_BYTES, PART_BYTES, S3Blobs, S3Reading, open_s3
from events.s3_settings import S3Access
from events.settings import Settings
from infra.backends.catalog import BACKENDS
from infra.backends.service import Service
from infra.backends.versitygw import BUCKET
from tests.backends import S3Place, fresh_place
from tests.servers import require


def waiting(store: S3Blobs) -> list[str]:
    """The keys of uploads in parts that nobody ended."""
    pages = store.bucket.pages("list_multipart_uploads", Prefix=store.bucket.key(""))
    return [upload["Key"] for page in pages for upload in page.get("Uploads", [])]


def content(store: BlobStore, path: str, start: int = 0, end: int | None = None) -> bytes:
    """What a blob holds, as one piece."""
    reading = store.open(path)
    try:
        return b"".join(reading.chunks(start, reading.info.size_bytes if end is None else end))
    finally:
        reading.close()


def test_a_large_blob_goes_up_in_parts(s3_place: S3Place) -> None:
    """More than a part arrives whole, in pieces of any size, and leaves no unfinished upload."""
    store, body = s3_place.blobs(), os.urandom(2 * PART_BYTES + 17)
    put(store, "d/large.bin", [body[:5], body[5 : PART_BYTES + 9], body[PART_BYTES + 9 :]])
    info = store.stat("d/large.bin")
    assert info is not None
    assert (info.size_bytes, info.etag.partition("-")[2]) == (len(body), "3")
    assert content(store, "d/large.bin") == body
    edge = (PART_BYTES - 3, PART_BYTES + CHUNK_BYTES + 3)
    assert content(store, "d/large.bin", *edge) == body[edge[0] : edge[1]]
    assert waiting(store) == []


def test_an_upload_that_is_given_up_leaves_no_parts(s3_place: S3Place) -> None:
    """Of an upload that ended early neither a blob nor a part is left."""
    store = s3_place.blobs()
    upload = store.begin("large")
    upload.write(b"x" * (PART_BYTES + 1))
    assert waiting(store) == [store.bucket.key("large")]
    upload.abort()
    upload.abort()
    assert (waiting(store), store.list("")) == ([], [])


def test_abandoned_uploads_are_removed(s3_place: S3Place) -> None:
    """Parts of an upload that nobody ended go after a day, and not before."""
    store = s3_place.blobs()
    store.begin("large").write(b"x" * PART_BYTES)
    now = time.time()
    assert store.remove_abandoned_uploads(now + ABANDONED_AFTER_S - 60) == 0
    assert store.remove_abandoned_uploads(now + ABANDONED_AFTER_S + 60) == 1
    assert waiting(store) == []


def test_deleting_a_folder_leaves_nothing_of_it(
    s3_place: S3Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All objects go, over any number of calls, and unfinished uploads; neighbours stay."""
    monkeypatch.setattr(events.s3_blobs, "DELETED_AT_ONCE", 2)
    store = s3_place.blobs()
    for path in ("d/1", "d/2", "d/e/3", "d/e/4", "d/5", "dd", "e/d/6"):
        put(store, path, [b"x"])
    store.begin("d/large").write(b"x" * PART_BYTES)
    assert store.delete_tree("d") == 5
    assert [entry.name for entry in store.list("")] == ["dd", "e"]
    assert waiting(store) == []


def test_places_of_one_bucket_do_not_meet(s3_place: S3Place) -> None:
    """A place whose name begins with another's is another place."""
    one, other = s3_place.blobs("/a"), s3_place.blobs("/ab")
    put(one, "x", [b"1"])
    put(other, "y", [b"2"])
    assert [entry.name for entry in one.list("")] == ["x"]
    one.delete_tree("x")
    assert [entry.name for entry in other.list("")] == ["y"]


def test_a_range_of_a_replaced_object_is_not_mixed_in(s3_place: S3Place) -> None:
    """Who asks for a later part of an object that is another one by now gets an error."""
    store = s3_place.blobs()
    put(store, "x", [b"one"])
    reading = store.open("x")
    put(store, "x", [b"two"])
    with pytest.raises(OSError, match="replaced"):
        list(reading.chunks(1, 3))
    reading.close()


class Breaking:
    """The rest of an answer that does not come."""

    def read(self, _size: int) -> bytes:
        raise ReadTimeoutError(endpoint_url="http://s3")

    def close(self) -> None:
        pass


def test_a_broken_answer_is_taken_up_where_it_broke(s3_place: S3Place) -> None:
    """A connection that breaks off in the middle costs the reader nothing but time."""
    store, body = s3_place.blobs(), os.urandom(3 * CHUNK_BYTES)
    put(store, "x", [body])
    reading = store.open("x")
    assert isinstance(reading, S3Reading)
    chunks = reading.chunks(0, len(body))
    found = [next(chunks)]
    reading.close()
    reading._body = Breaking()
    found += chunks
    reading.close()
    assert b"".join(found) == body


def test_keys_have_room_for_the_prefix(s3_place: S3Place) -> None:
    """A path that is too long together with the prefix is refused before it is sent."""
    store = s3_place.blobs("/" + "p" * 200)
    with pytest.raises(InvalidParameterValue, match="too long"):
        put(store, "/".join(["x" * 200] * 5), [b"x"])


def test_what_s3_refuses_is_said(
    s3_server: Service, s3_place: S3Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Wrong credentials, none, and a missing bucket are each named, with the place."""
    with pytest.raises(ResourceDoesNotExist, match=r"bucket of s3://no-such-bucket/x"):
        open_s3("s3://no-such-bucket/x", s3_place.access).list("")
    # Clients are kept by how S3 is reached.
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    denied = open_s3(s3_place.uri, S3Access(s3_server.uri, addressing_style="path"))
    for call in (lambda: denied.list("d"), lambda: put(denied, "x", [b"1"])):
        with pytest.raises(PermissionDenied, match=f"s3://{BUCKET}.*this server's credentials"):
            call()
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    unknown = open_s3(s3_place.uri, S3Access(s3_server.uri, ignore_tls=True))
    with pytest.raises(PermissionDenied, match="no credentials"):
        unknown.stat("x")


def test_buckets_are_addressed_as_was_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the path or in the host's name, of the endpoint that was given."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    styles = {"path": "https://s3.corp/bucket/k?", "virtual": "https://bucket.s3.corp/k?"}
    for style, place in styles.items():
        bucket = open_bucket("s3://bucket", S3Access("https://s3.corp", addressing_style=style))
        assert bucket.signed("get_object", 60, Key="k").startswith(place)


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_a_certificate_that_nobody_vouches_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Is refused, unless it was said that any will do."""
    require(shutil.which("openssl") is not None, "openssl")
    certify = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=s3"]
    made = [*certify, "-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "cert")]
    subprocess.run(made, check=True, capture_output=True)
    service = BACKENDS["versitygw"].make(None)
    files = {"VGW_CERT": str(tmp_path / "cert"), "VGW_KEY": str(tmp_path / "key")}
    service.environment = {**service.environment, **files}
    place = fresh_place(service).entered(monkeypatch)
    endpoint = service.uri.replace("http:", "https:")
    try:
        service.start()
        with pytest.raises(TemporarilyUnavailable, match=r"CERTIFICATE_VERIFY_FAILED|SSL"):
            open_s3(place.uri, S3Access(endpoint)).stat("x")
        assert open_s3(place.uri, S3Access(endpoint, ignore_tls=True)).stat("x") is None
    finally:
        service.remove()


def test_a_server_that_is_away_is_unavailable(
    own_s3_server: Service, own_s3_place: S3Place
) -> None:
    """While S3 is away every call says so, and all is well when it is back."""
    store = own_s3_place.blobs()
    put(store, "x", [b"1"])
    own_s3_server.kill()
    calls: list[Any] = [store.open, store.stat, store.list, store.delete_tree]
    for call in calls:
        with pytest.raises(TemporarilyUnavailable, match=own_s3_place.uri):
            call("x")
    with pytest.raises(TemporarilyUnavailable):
        put(store, "y", [b"2"])
    own_s3_server.start()
    assert content(store, "x") == b"1"
    put(store, "y", [b"2"])
    assert [entry.name for entry in store.list("")] == ["x", "y"]


def test_places_are_checked_before_a_server_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A URI without a bucket, and S3 without boto3, are refused with what to do."""
    for uri in ("s3://", "s3:///x", "s3://a", "s3://a b/x"):
        with pytest.raises(SettingError, match="s3://BUCKET/PREFIX"):
            _ = Settings(artifacts_destination=uri).artifacts_place
    place = Settings(artifacts_destination="s3://bucket/x/").artifacts_place
    assert place == "s3://bucket/x"
    check_place(place)
    monkeypatch.setattr("events.opened_blobs.find_spec", lambda _name: None)
    with pytest.raises(SettingError, match=r"pip install 'runfold\[s3\]'"):
        open_blobs(place, S3Access())
