"""MLflow's Java client, from Maven Central, against Runfold."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.servers import BIN, Server, require

SOURCES = Path(__file__).parent / "java"
MAVEN_SECONDS_MAX = 240
CLIENT_SECONDS_MAX = 240


def run(command: list[str], folder: Path, seconds_max: int) -> str:
    """What the command printed; its failure is the test's."""
    # The Java client calls the `mlflow` command for artifacts, and finds it on the path.
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PATH": path, "MLFLOW_DISABLE_TELEMETRY": "true"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds_max,
        check=False,
    )
    assert done.returncode == 0, f"{command[0]} failed:\n{done.stdout[-5000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def jars(request: pytest.FixtureRequest) -> Path:
    """The client's jars, fetched once and kept in pytest's cache."""
    for program in ("mvn", "java", "javac"):
        require(shutil.which(program) is not None, f"the program {program}")
    pom = SOURCES / "pom.xml"
    folder: Path = request.config.cache.mkdir("mlflow-java-client")
    fetched = folder / "pom.xml"
    if not fetched.exists() or fetched.read_bytes() != pom.read_bytes():
        shutil.copy(pom, folder / "wanted.xml")
        command = ["mvn", "-q", "-B", "-f", "wanted.xml", "dependency:copy-dependencies"]
        run([*command, "-DoutputDirectory=libs"], folder, MAVEN_SECONDS_MAX)
        # Only now: what was fetched is whole.
        (folder / "wanted.xml").replace(fetched)
    return folder / "libs"


@pytest.mark.timeout(600)
def test_the_java_client_does_its_part(jars: Path, runfold_server: Server, tmp_path: Path) -> None:
    """Experiments, runs, batches, searches, artifacts, deletions, refusals, the fluent API."""
    classes = tmp_path / "classes"
    classpath = f"{jars}/*"
    source = SOURCES / "ClientAcceptance.java"
    encoding = ["-encoding", "UTF-8"]
    run(["javac", *encoding, "-cp", classpath, "-d", str(classes), str(source)], tmp_path, 120)
    command = ["java", "-Dfile.encoding=UTF-8", "-cp", f"{classes}{os.pathsep}{classpath}"]
    command += ["ClientAcceptance", runfold_server.url, str(tmp_path / "files")]
    printed = run(command, tmp_path, CLIENT_SECONDS_MAX)
    assert "checks held" in printed.splitlines()[-1]
