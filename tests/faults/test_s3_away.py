"""The S3 server is away for half a minute under load; the writers' journals are the judge."""

import time
from pathlib import Path

import pytest

from infra.backends.service import Service
from projections.lake import SEGMENTS
from tests.backends import S3Place
from tests.faults.conftest import Connect
from tests.faults.judge import judge, read_journal
from tests.faults.test_crashes import WRITERS, start_writer
from tests.faults.wire import Wire
from tests.servers import Server, command, runfold, send

AWAY_S = 30.0
OFTEN = ("--seal-points", "2000", "--seal-age", "1", "--export-age", "1")
SEALED_S_MAX = 60.0


def wait_for_segments(place: S3Place, besides: set[str]) -> set[str]:
    """The segments in the bucket, once there are others than these."""
    deadline = time.monotonic() + SEALED_S_MAX
    while not (found := {key for key in place.objects() if key.startswith(SEGMENTS)}) - besides:
        assert time.monotonic() < deadline, "nothing was sealed"
        time.sleep(0.2)
    return found


def sealed_run(wire: Wire, place: S3Place, experiment_id: str) -> str:
    """A run whose points are in S3."""
    run_id = wire.run(experiment_id, "sealed")
    metrics = [{"key": "loss", "value": n / 8, "timestamp": n, "step": n} for n in range(100)]
    before = {key for key in place.objects() if key.startswith(SEGMENTS)}
    wire.done("runs/log-batch", {"run_id": run_id, "metrics": metrics})
    wait_for_segments(place, before)
    return run_id


def asked(server: Server, run_id: str) -> tuple[int, bool]:
    """The status of a history, and whether it says when to come again."""
    target = f"/api/2.0/mlflow/metrics/get-history?run_id={run_id}&metric_key=loss"
    answer = send(server.url, "GET", target)
    return answer.status, "retry-after" in answer.headers


@pytest.mark.timeout(300)
def test_s3_is_away_under_load(
    own_s3_place: S3Place, own_s3_server: Service, tmp_path: Path, connect: Connect
) -> None:
    """Writes go on, and so do reads of what is cached; others are told when to come again. Sealing
    waits. Once S3 is back all is well: nothing is lost, and the views are what the log says."""
    home = tmp_path / "home"
    flags = ("--lake-uri", own_s3_place.uri)
    server = runfold(home, *flags, *OFTEN, environment=own_s3_place.environment).start()
    try:
        wire = connect(server)
        experiment_id = wire.experiment("away")
        cached = sealed_run(wire, own_s3_place, wire.experiment("warm"))
        other = wire.experiment("cold")
        cold = sealed_run(wire, own_s3_place, other)
        journals = [tmp_path / f"journal{number}" for number in range(WRITERS)]
        writers = [
            start_writer(server, experiment_id, journal, number)
            for number, journal in enumerate(journals)
        ]
        try:
            time.sleep(3)
            before = {key for key in own_s3_place.objects() if key.startswith(SEGMENTS)}
            own_s3_server.kill()
            gone_at = time.monotonic()
            for copy in (home / "lake-cache").glob(f"{SEGMENTS}/experiment_id={other}/*/*"):
                copy.unlink()
            done_before = acknowledged(journals)
            while time.monotonic() - gone_at < AWAY_S:
                assert [writer.poll() for writer in writers] == [None] * WRITERS
                assert asked(server, cached) == (200, False)
                assert asked(server, cold) == (503, True)
                time.sleep(1)
            assert acknowledged(journals) > done_before + 500
            own_s3_server.start()
            wait_for_segments(own_s3_place, before)
        finally:
            for writer in writers:
                writer.communicate(timeout=60)
        assert asked(server, cold) == (200, False)
        assert judge(wire, experiment_id, [read_journal(one) for one in journals]) == []
        command("verify", home, own_s3_place.environment, *flags)
    finally:
        server.stop()


def acknowledged(journals: list[Path]) -> int:
    """How many writes were answered with success by now."""
    return sum(journal.read_text().count('"status": 200') for journal in journals)
