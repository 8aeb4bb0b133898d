"""infra/Dockerfile fits the program: what it copies, runs and asks is there. No container runtime
is needed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from tests.servers import Server
from workers.cli import main

ROOT = Path(__file__).resolve().parent.parent
INFRA = ROOT / "infra"


def instructions() -> Iterator[tuple[str, str]]:
    """The Dockerfile's, each with its words on one line."""
    text = (INFRA / "Dockerfile").read_text("utf-8")
    text = re.sub(r"^#.*\n", "", text, flags=re.M).replace("\\\n", "")
    for line in filter(None, text.splitlines()):
        name, _, words = line.partition(" ")
        yield name, words


def test_the_image_has_all_of_the_program() -> None:
    """Every package is copied, nothing is copied that is not there, all of it is sent to the
    builder, and what runs is no root's."""
    sources = [
        word
        for name, words in instructions()
        if name == "COPY" and not words.startswith("--from")
        for word in words.split()[:-1]
    ]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    assert set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) < set(sources)
    assert [source for source in sources if not (ROOT / source).exists()] == []
    sent = (INFRA / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
    assert {f"!{source}" for source in sources} <= set(sent)
    last = dict(instructions())
    assert last["USER"] == "runfold"
    assert json.loads(last["ENTRYPOINT"])[0] in project["project"]["scripts"]
    [command] = json.loads(last["CMD"])
    assert command in main.list_commands(main.make_context("runfold", ["server"]))


def health_check() -> list[str]:
    """What the image runs to see whether a container is well."""
    words = dict(instructions())["HEALTHCHECK"]
    command: list[str] = json.loads(words.partition(" CMD ")[2])
    return [sys.executable, *command[1:]]


def is_well(**environment: str) -> bool:
    """What it finds, with these variables."""
    there = {key: at for key, at in os.environ.items() if not key.startswith(("RUNFOLD", "MLFLOW"))}
    checked = subprocess.run(
        health_check(), env={**there, **environment}, capture_output=True, check=False
    )
    return checked.returncode == 0


def test_the_health_check_sees_whether_it_answers(runfold_server: Server) -> None:
    """It asks the port of the API, or that of a worker, and fails where nobody answers."""
    port = str(runfold_server.port)
    assert is_well(MLFLOW_PORT=port)
    assert is_well(MLFLOW_PORT="9", RUNFOLD_METRICS_PORT=port)
    assert not is_well(MLFLOW_PORT=port, RUNFOLD_METRICS_PORT="9")
