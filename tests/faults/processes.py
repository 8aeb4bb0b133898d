"""The processes of a running server, as Linux tells them."""

from collections.abc import Iterator
from pathlib import Path

from tests.servers import Server


def descendants(pid: int) -> Iterator[int]:
    """The process and all that it started."""
    yield pid
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield from descendants(int(child))


def of_role(server: Server, role: str) -> int | None:
    """The process that is the server's `api`, `projector` or `sealer`; None while there is none."""
    assert server.process is not None
    parent = server.process.pid
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        try:
            words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue  # It ended since it was listed.
        if role.encode() in words:
            return int(child)
    return None
