"""PostgreSQL, as Debian's package `postgresql` installs it."""

import os
import signal
import subprocess
from pathlib import Path

from infra.backends.service import Service, ServiceError, free_port, new_folder, prepare, program

PROGRAMS = ("initdb", "postgres", "pg_isready")


def _bin() -> Path | None:
    """The folder of the newest installed version's programs."""
    versions = sorted(
        Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name)
    )
    found = program("initdb", *(str(path) for path in reversed(versions)))
    return None if found is None else Path(found).resolve().parent


def missing() -> str | None:
    """What this machine lacks to run it, or None."""
    folder = _bin()
    if folder is None or any(program(name, str(folder)) is None for name in PROGRAMS):
        return "PostgreSQL's programs (Debian's package postgresql)"
    return None


def make(port: int | None = None) -> Service:
    """A PostgreSQL on an empty folder, which the superuser `postgres` enters without a password;
    not started yet."""
    bin_folder = _bin()
    if bin_folder is None:
        raise ServiceError(str(missing()))
    port = port or free_port()
    # It refuses to run as root.
    user = "postgres" if os.geteuid() == 0 else None
    folder = new_folder("postgresql", user)
    data = folder / "data"
    initdb = [str(bin_folder / "initdb"), "-D", str(data), "-A", "trust", "-U", "postgres"]
    prepare([*initdb, "-E", "UTF8", "--locale=C"], folder, user)
    command = [str(bin_folder / "postgres"), "-D", str(data), "-p", str(port), "-k", str(folder)]
    ready = [str(bin_folder / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
    return Service(
        "postgresql",
        f"postgresql://postgres@127.0.0.1:{port}/postgres",
        folder,
        command,
        lambda: subprocess.run(ready, check=False).returncode == 0,
        user,
        stop_signal=signal.SIGINT,
    )


RESTART_AT_ONCE = signal.SIGQUIT
"""What `pg_ctl restart -m immediate` ends it with: no checkpoint, recovery at the next start."""
