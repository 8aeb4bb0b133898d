"""The other servers, each installed in an environment of its own, in a pinned version."""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from infra.benchmarks.rows import FASTTRACKML, MLFLOW

VERSIONS = {MLFLOW: "3.17.2", FASTTRACKML: "0.6.0"}
BESIDE = {MLFLOW: ("psycopg2-binary==2.9.13",), FASTTRACKML: ()}
"""What else is installed: what a server needs for the databases that it is measured on."""
PROGRAMS = {MLFLOW: "mlflow", FASTTRACKML: "fml"}
LOCK = Path(__file__).resolve().parents[1] / "locks" / "test.txt"


@dataclass(frozen=True)
class Peers:
    """Where the peers are installed."""

    folder: Path

    def _venv(self, name: str) -> Path:
        return self.folder / f"{name}-{VERSIONS[name]}-py{platform.python_version()}"

    def program(self, name: str) -> Path:
        """A peer's command, installed where it is missing."""
        program = self._venv(name) / "bin" / PROGRAMS[name]
        done = self._venv(name) / "installed"
        wanted = [f"{name}=={VERSIONS[name]}", *BESIDE[name]]
        if not done.exists() or done.read_text().split() != wanted:
            self._install(name, list(wanted))
            done.write_text("\n".join(wanted))
        return program

    def _install(self, name: str, wanted: list[str]) -> None:
        venv = self._venv(name)
        print(f"Installing {name} {VERSIONS[name]} into {venv}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        pip = [str(venv / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
        if name == MLFLOW:
            # What MLflow needs has the versions of the tests' lock, so that no later release of
            # a library changes the figures.
            constraints = venv / "constraints.txt"
            constraints.write_text(without_hashes(LOCK.read_text()))
            wanted += ["--constraint", str(constraints)]
        subprocess.run([*pip, "install", "--quiet", *wanted], check=True)


def without_hashes(lock: str) -> str:
    """The versions of a lock, as constraints."""
    return "".join(
        f"{line}\n" for line in re.findall(r"^([A-Za-z0-9][^\s\\]*==.*?)\s*\\?$", lock, re.M)
    )
