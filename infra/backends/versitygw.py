"""An S3 server over a folder: versitygw, in one pinned version, built by Go."""

import fcntl
import os
import socket
from pathlib import Path

from infra.backends.service import Service, ServiceError, free_port, new_folder, prepare, program

VERSION = "v1.8.0"
ACCESS_KEY, SECRET_KEY = "runfold", "runfold-secret"
"""Whom the server lets in: what boto3 takes as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."""
BUCKET = "runfold"
"""A bucket that is there from the start."""
BUILD_S_MAX = 900.0
_GO = "/usr/local/go/bin"


def _cache() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "runfold" / f"versitygw-{VERSION}"


def missing() -> str | None:
    """What this machine lacks to run it, or None."""
    if program("go", _GO) is None and not (_cache() / "versitygw").exists():
        return "Go 1.25 or newer (https://go.dev/dl), which builds the S3 server versitygw"
    return None


def installed() -> Path:
    """The server's program, built the first time; that takes minutes."""
    built, go = _cache() / "versitygw", program("go", _GO)
    _cache().mkdir(parents=True, exist_ok=True)
    with (_cache() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not built.exists():
            if go is None:
                raise ServiceError(str(missing()))
            # Go puts the program in place when it is whole.
            source = f"github.com/versity/versitygw/cmd/versitygw@{VERSION}"
            folder = new_folder("versitygw-build")
            build = ["env", f"GOBIN={_cache()}", go, "install", source]
            prepare(build, folder, seconds_max=BUILD_S_MAX)
            folder.rmdir()
    return built


def make(port: int | None = None) -> Service:
    """A server with one empty bucket; not started yet. Its URI is the endpoint's."""
    built = installed()
    port = port or free_port()
    folder = new_folder("versitygw")
    (folder / "data" / BUCKET).mkdir(parents=True)
    (folder / "metadata").mkdir()
    # Not every file system has the attributes that it would keep metadata in.
    metadata = ["--sidecar", str(folder / "metadata")]
    address = ["--port", f"127.0.0.1:{port}"]
    command = [str(built), *address, "posix", *metadata, str(folder / "data")]

    def answers() -> bool:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5):
                return True
        except OSError:
            return False

    keys = {"ROOT_ACCESS_KEY": ACCESS_KEY, "ROOT_SECRET_KEY": SECRET_KEY}
    uri = f"http://127.0.0.1:{port}"
    return Service("versitygw", uri, folder, command, answers, environment=keys)


if __name__ == "__main__":
    print(installed())
