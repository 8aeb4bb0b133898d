"""The real servers behind Runfold in tests: one of each for the session, a database a test."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa

from events.s3 import open_bucket
from events.s3_blobs import S3Blobs, open_s3
from events.s3_settings import S3Access
from infra.backends.catalog import BACKENDS
from infra.backends.service import Service
from infra.backends.versitygw import ACCESS_KEY, BUCKET, SECRET_KEY
from projections.lake import LakePlace
from projections.s3_lake import S3Lake, open_s3_lake
from tests.servers import require


def running(name: str) -> Iterator[Service]:
    """A server of this kind that ends, with its folder, when the generator does."""
    lacking = BACKENDS[name].missing()
    require(lacking is None, str(lacking))
    service = BACKENDS[name].make(None)
    try:
        yield service.start()
    finally:
        service.remove()


def fresh_database(service: Service) -> Iterator[str]:
    """The URI of an empty database, which is dropped when the generator ends."""
    name = f"runfold_{os.urandom(4).hex()}"
    # No pool: the test may have restarted the server.
    admin = sa.create_engine(service.uri, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    try:
        with admin.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
        yield sa.make_url(service.uri).set(database=name).render_as_string(hide_password=False)
        if service.process is not None:
            with admin.connect() as connection:
                force = " WITH (FORCE)" if admin.dialect.name == "postgresql" else ""
                connection.exec_driver_sql(f"DROP DATABASE {name}{force}")
    finally:
        admin.dispose()


@dataclass(frozen=True)
class S3Place:
    """A place in a bucket, and how to get there."""

    uri: str
    endpoint: str

    @property
    def access(self) -> S3Access:
        return S3Access(self.endpoint)

    @property
    def environment(self) -> Mapping[str, str]:
        """What a process has in its environment to get there."""
        return {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_DEFAULT_REGION": "us-east-1",
            "MLFLOW_S3_ENDPOINT_URL": self.endpoint,
        }

    def entered(self, monkeypatch: pytest.MonkeyPatch) -> "S3Place":
        """This place, once this process may get there."""
        for name, value in self.environment.items():
            monkeypatch.setenv(name, value)
        return self

    def lake(self, folder: Path, cache_mb: int = 100, owner: str = "this log") -> S3Lake:
        """A lake there, of a machine that keeps its copies in this folder."""
        folder.mkdir(parents=True, exist_ok=True)
        return open_s3_lake(LakePlace(str(folder), self.uri, owner, cache_mb, self.access))

    def clear(self, below: str) -> int:
        """Deletes what is there below this, also where the environment has no credentials; returns
        how many objects that were."""
        with pytest.MonkeyPatch.context() as patched:
            self.entered(patched)
            bucket = open_bucket(self.uri, self.access)
            keys = [key for key in self.objects() if key.startswith(below)]
            for key in keys:
                bucket.call("delete_object", Key=bucket.key(key))
            return len(keys)

    def objects(self) -> list[str]:
        """The keys of all objects there, from the place on."""
        bucket = open_bucket(self.uri, self.access)
        pages = bucket.pages("list_objects_v2", Prefix=bucket.key(""))
        return [
            one["Key"].removeprefix(bucket.key("")) for p in pages for one in p.get("Contents", [])
        ]

    def read(self, key: str) -> bytes:
        """The bytes of an object there."""
        bucket = open_bucket(self.uri, self.access)
        body: bytes = bucket.call("get_object", Key=bucket.key(key))["Body"].read()
        return body

    def blobs(self, below: str = "") -> S3Blobs:
        """A store there."""
        return open_s3(f"{self.uri}{below}", self.access)


def fresh_place(service: Service) -> S3Place:
    """An empty place in the server's bucket."""
    return S3Place(f"s3://{BUCKET}/{os.urandom(4).hex()}/below", service.uri)


def drop_views(uri: str) -> int:
    """Drops whatever a server has of views beside this database's log; returns how much it was."""
    url = sa.make_url(uri)
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    is_postgresql = engine.dialect.name == "postgresql"
    with engine.connect() as connection:
        if not is_postgresql:
            connection.exec_driver_sql("DROP TABLE runfold_views")
        found = connection.exec_driver_sql("SELECT schema_name FROM information_schema.schemata")
        start = "runfold_views" if is_postgresql else f"{url.database}_views_"
        names = [name for name in found.scalars() if name.startswith(start)]
        for name in names:
            cascade = " CASCADE" if is_postgresql else ""
            connection.exec_driver_sql(f"DROP SCHEMA {name}{cascade}")
    engine.dispose()
    return len(names)
