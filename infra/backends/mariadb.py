"""MariaDB, as Debian's package `mariadb-server` installs it."""

import os
import socket

from infra.backends.service import Service, ServiceError, free_port, new_folder, prepare, program


def missing() -> str | None:
    """What this machine lacks to run it, or None."""
    if program("mariadbd") is None or program("mariadb-install-db") is None:
        return "MariaDB's programs (Debian's package mariadb-server)"
    return None


def make(port: int | None = None) -> Service:
    """A MariaDB on an empty folder, which `root` enters without a password; not started yet."""
    server, install = program("mariadbd"), program("mariadb-install-db")
    if server is None or install is None:
        raise ServiceError(str(missing()))
    port = port or free_port()
    as_root = ["--user=root"] if os.geteuid() == 0 else []
    folder = new_folder("mariadb")
    data = folder / "data"
    prepare(
        [
            *(install, "--no-defaults", f"--datadir={data}", "--skip-test-db"),
            *("--auth-root-authentication-method=normal", *as_root),
        ],
        folder,
    )
    command = [
        *(server, "--no-defaults", f"--datadir={data}", f"--port={port}", *as_root),
        *("--bind-address=127.0.0.1", f"--socket={folder / 'socket'}"),
        f"--pid-file={folder / 'pid'}",
    ]

    def answers() -> bool:
        # It listens once it serves, and speaks first.
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
                return bool(connection.recv(1))
        except OSError:
            return False

    uri = f"mysql+pymysql://root@127.0.0.1:{port}/mysql"
    return Service("mariadb", uri, folder, command, answers)
