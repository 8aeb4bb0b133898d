"""The real servers behind Runfold in tests: one of each for the session, a database a test."""

import os
from collections.abc import Iterator

import sqlalchemy as sa

from infra.backends.catalog import BACKENDS
from infra.backends.service import Service
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
    admin = sa.create_engine(service.uri, isolation_level="AUTOCOMMIT")
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
