"""Whole servers and commands with the lake in S3."""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.backends import S3Place
from tests.faults.wire import Wire
from tests.servers import Server, command, runfold, send

OFTEN = ("--seal-points", "100", "--seal-age", "1", "--export-age", "0.5")
WAIT_S_MAX = 60.0
COUNT = "SELECT count(*) AS points FROM metrics"


def asked(server: Server, statement: str) -> Any:
    """The rows that SQL over HTTP gives."""
    body = json.dumps({"statement": statement}).encode()
    headers = {"content-type": "application/json"}
    answer = send(server.url, "POST", "/api/2.0/runfold/sql", body, headers)
    assert answer.status == 200, answer.body
    return json.loads(answer.body)["rows"]


def wait_until(is_so: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_S_MAX
    while not is_so():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


class Place:
    """One home whose lake is in S3, and the commands on it."""

    def __init__(self, s3: S3Place, home: Path) -> None:
        self.s3 = s3
        self.home = home
        self.flags = ("--lake-uri", s3.uri)
        self.server = runfold(home, *self.flags, *OFTEN, environment=s3.environment)

    def run(self, *words: str) -> str:
        """What a command says that must succeed."""
        return command(words[0], self.home, self.s3.environment, *self.flags, *words[1:])

    def sealed(self) -> set[str]:
        """The segments in the bucket."""
        return {key for key in self.s3.objects() if key.startswith(".segments")}

    def forget(self) -> None:
        """Leaves the machine without a copy."""
        for store in (".segments", ".exports"):
            shutil.rmtree(self.home / "lake-cache" / store, ignore_errors=True)


@pytest.fixture
def place(s3_place: S3Place, tmp_path: Path) -> Iterator[Place]:
    made = Place(s3_place, tmp_path / "home")
    made.server.start()
    yield made
    made.server.kill()


def log_points(wire: Wire, run_id: str, key: str, count: int = 200) -> None:
    points = [{"key": key, "value": n / 8, "timestamp": n, "step": n} for n in range(count)]
    wire.done("runs/log-batch", {"run_id": run_id, "metrics": points})


def test_a_server_and_its_commands_work_on_a_lake_in_s3(place: Place) -> None:
    """Histories and SQL are the same without a copy; rebuild, verify and gc do there what they do
    in a folder; and a cold machine starts from the bucket."""
    wire = Wire(place.server.url)
    experiment_id = wire.experiment("one")
    kept, gone = wire.run(experiment_id, "kept"), wire.run(experiment_id, "gone")
    log_points(wire, kept, "loss")
    log_points(wire, gone, "secret-name")
    wait_until(lambda: len(place.sealed()) > 0, "nothing was sealed")
    wait_until(lambda: "files.json" in place.s3.objects(), "nothing was published")
    history = wire.history(kept, "loss")
    assert len(history) == 200
    for _ in range(2):
        assert asked(place.server, COUNT) == [[400]]
        assert wire.history(kept, "loss") == history
        place.forget()
    assert "equal" in place.run("verify")
    before = place.sealed()
    place.run("rebuild")
    assert place.sealed() - before
    wire.done("runs/delete", {"run_id": gone})
    assert "1 purged" in place.run("gc")
    # The sealer deletes what the old views had left.
    wait_until(lambda: not place.sealed() & before, "files of the old views stay")
    for key in place.s3.objects():
        assert b"secret-name" not in place.s3.read(key), key
    place.forget()
    assert asked(place.server, COUNT) == [[200]]
    assert wire.history(kept, "loss") == history
    wire.close()
    place.server.stop()
    place.forget()
    assert place.run("sql", COUNT, "--format", "csv").split() == ["points", "200"]


def test_a_bucket_that_is_not_there_is_refused(place: Place, tmp_path: Path) -> None:
    """So is a place with another log's lake: the server says why, and does not start."""
    wait_until(lambda: "owner" in place.s3.objects(), "nobody claimed the place")
    other = Place(place.s3, tmp_path / "other")
    with pytest.raises(RuntimeError, match="another log"):
        other.server.start()
    nowhere = runfold(
        tmp_path / "none", "--lake-uri", "s3://nowhere/x", environment=place.s3.environment
    )
    with pytest.raises(RuntimeError, match="not there"):
        nowhere.start()
