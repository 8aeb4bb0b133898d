"""The README's first session, run as it stands."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.servers import MLFLOW_QUIET, Server

README = Path(__file__).resolve().parent.parent / "README.md"
URL = "http://127.0.0.1:5000"


def blocks(language: str) -> list[str]:
    """The README's fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README.read_text("utf-8"), re.M | re.S)


def test_the_first_session(tmp_path: Path, start_runfold: Callable[..., Server]) -> None:
    """The session logs a grid search with the real client and prints what the README shows, and
    the commands that look at the log and make the views again succeed."""
    [session], [shown] = blocks("python"), blocks("text")
    server = start_runfold(tmp_path / "runfold-data")
    assert URL in session
    ran = subprocess.run(
        [sys.executable, "-c", session.replace(URL, server.url)],
        cwd=tmp_path,
        env={**os.environ, **MLFLOW_QUIET},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    # The client tells where to look at a run in the same stream.
    told = [line for line in ran.stdout.splitlines() if "://" not in line]
    assert "\n".join(told) + "\n" == shown, ran.stdout
    (tmp_path / ".venv").symlink_to(Path(sys.executable).parent.parent)
    [commands] = [block for block in blocks("sh") if "runfold verify" in block]
    subprocess.run(["bash", "-euc", commands], cwd=tmp_path, check=True)
