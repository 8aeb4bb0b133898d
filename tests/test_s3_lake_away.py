"""The lake in S3 while S3 is away: nothing is lost, nobody waits for long, and sealing goes on."""

import contextlib
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import projections.s3_lake
from events.errors import TemporarilyUnavailable
from events.s3 import Patience
from infra.backends.service import Service
from projections.s3_lake import S3Lake
from projections.segments import pending_blocks
from tests.backends import S3Place
from tests.lake_cases import LakeCase, as_answered
from tests.s3_lakes import KEPT, PATH, case_with_two_runs, copies, forget, points, put


@pytest.fixture
def case(s3_place: S3Place, tmp_path: Path) -> Iterator[LakeCase]:
    yield from case_with_two_runs(s3_place, tmp_path)


def test_sealing_waits_for_s3_and_goes_on(
    own_s3_place: S3Place, own_s3_server: Service, tmp_path: Path
) -> None:
    """What is cached is read meanwhile, what is not is told to come again, and nothing is lost."""
    case = LakeCase(tmp_path, KEPT, own_s3_place.lake(tmp_path / "cache"))
    case.create_run("a")
    case.create_run("b")
    case.log_points("b", points(10))
    case.sealer.seal_all()
    cold = own_s3_place.lake(tmp_path / "cold")
    own_s3_server.kill()
    case.log_points("a", points(30))
    assert case.history("a", "loss") == as_answered(points(30), "loss")
    assert case.history("b", "loss") == as_answered(points(10), "loss")
    before = copies(case.lake)
    for _ in range(3):
        with pytest.raises(TemporarilyUnavailable):
            case.sealer.seal_all()
        with pytest.raises(TemporarilyUnavailable):
            cold.fetch(list(before))
    # While it is known to be away nobody waits for it.
    started = time.monotonic()
    with pytest.raises(TemporarilyUnavailable):
        cold.fetch(list(before))
    assert time.monotonic() - started < 0.5
    with case.views.read() as connection:
        assert pending_blocks(connection)["1"].points == 30
    assert copies(case.lake) == before
    own_s3_server.start()
    time.sleep(projections.s3_lake.AWAY_S)
    case.sealer.seal_all()
    forget(case.lake)
    for run_id, count in (("a", 30), ("b", 10)):
        assert case.history(run_id, "loss") == as_answered(points(count), "loss")
    case.close()


def look(lake: S3Lake) -> None:
    """Asks the lake for something, whatever becomes of it."""
    with contextlib.suppress(TemporarilyUnavailable):
        lake.ready()


def test_a_silent_s3_server_is_waited_for_once(
    own_s3_place: S3Place,
    own_s3_server: Service,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever asks next is told at once, also while one looks whether it answers again."""
    monkeypatch.setattr(projections.s3_lake, "PATIENCE", Patience(1, 1))
    lake, cold = own_s3_place.lake(tmp_path / "warm"), own_s3_place.lake(tmp_path / "cold")
    put(lake, PATH, b"content")
    assert own_s3_server.process is not None
    pid = own_s3_server.process.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(TemporarilyUnavailable):
            cold.fetch([PATH])
        assert cold.away
        monkeypatch.setattr(projections.s3_lake, "AWAY_S", 0.0)
        cold._away_until = time.monotonic()
        looking = threading.Thread(target=look, args=(cold,))
        looking.start()
        while cold._away_until != math.inf:
            time.sleep(0.01)
        started = time.monotonic()
        for _ in range(20):
            with pytest.raises(TemporarilyUnavailable, match="does not answer"):
                cold.fetch([PATH])
        assert time.monotonic() - started < 0.5
        looking.join()
    finally:
        os.kill(pid, signal.SIGCONT)
    cold.fetch([PATH])
    assert cold.away is None


def test_a_file_that_could_not_be_kept_is_not_used(
    case: LakeCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The blocks stay where S3 goes away in the midst of a seal, and are sealed later."""
    case.lake.ready()
    case.log_points("a", points(30))

    call = S3Lake._call

    def away(self: S3Lake, method: str, path: str, **arguments: Any) -> Any:
        if method in ("put_object", "delete_object"):
            raise TemporarilyUnavailable("away")
        return call(self, method, path, **arguments)

    with monkeypatch.context() as patched:
        patched.setattr(projections.s3_lake, "AWAY_S", 0.0)
        patched.setattr(S3Lake, "_call", away)
        with pytest.raises(TemporarilyUnavailable):
            case.sealer.seal_all()
    assert copies(case.lake) == {}
    assert case.history("a", "loss") == as_answered(points(30), "loss")
    case.sealer.seal_all()
    forget(case.lake)
    assert case.history("a", "loss") == as_answered(points(30), "loss")
