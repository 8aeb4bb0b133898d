"""The roles alone over Kafka, many of each: whoever dies, another goes on."""

import signal
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import cycle
from pathlib import Path

import pytest

from events.kafka_log import init_log
from events.kafka_settings import KafkaAccess
from infra.backends.service import Service
from tests.faults.conftest import Connect
from tests.faults.judge import ACKNOWLEDGED, judge, read_journal
from tests.faults.test_crashes import SEAL_OFTEN, start_writer
from tests.faults.test_roles import WRITERS, eventually, is_active
from tests.servers import Server, send
from tests.test_maintenance_live import command

PARTITIONS = 4
TAKEOVER_S_MAX = 10.0
FRESH_S_MAX = 60.0


def folded(worker: Server, lane: str) -> float:
    """How many of a lane's events a projector has folded."""
    for line in send(worker.url, "GET", "/metrics").body.decode().splitlines():
        if line.startswith(f'runfold_folded_events_total{{lane="{lane}"}}'):
            return float(line.rpartition(" ")[2])
    return 0.0


def grows(worker: Server, lane: str) -> Callable[[], bool]:
    """What says whether a projector has folded more of a lane than now."""
    before = folded(worker, lane)
    return lambda: folded(worker, lane) > before


@pytest.mark.timeout(600)
def test_whoever_is_killed_another_goes_on(
    tmp_path: Path,
    own_kafka: Service,
    start_role: Callable[..., Server],
    connect: Connect,
) -> None:
    """Three projectors share the points out, and one of them has the journal. While four writers
    write through two API processes, the one with the journal, another projector, an API process
    and the broker are killed: within 10 s others fold what the dead one did, and in the end every
    acknowledged write is there once and no other is."""
    home, uri = tmp_path / "home", f"{own_kafka.uri}/roles"
    init_log(uri, KafkaAccess(), PARTITIONS)
    flags = ("--log-uri", uri)
    apis = [start_role(home, "api", *flags) for _ in range(2)]
    projectors = [start_role(home, "worker projector", *flags) for _ in range(3)]
    start_role(home, "worker sealer", *flags, *SEAL_OFTEN)
    eventually("one has the journal", lambda: sum(map(is_active, projectors)) == 1)
    experiment_id = connect(apis[0]).experiment("roles")
    journals = [tmp_path / f"journal{number}" for number in range(WRITERS)]
    writers = [
        start_writer(api, experiment_id, journal, number)
        for number, (api, journal) in enumerate(zip(cycle(apis), journals, strict=False))
    ]
    try:
        for projector in projectors:
            eventually("points are shared out", grows(projector, "points"))
        leader = next(one for one in projectors if is_active(one))
        others = [one for one in projectors if one is not leader]
        leader.kill()
        took_s = eventually("journal taken over", lambda: any(map(is_active, others)))
        assert took_s < TAKEOVER_S_MAX
        print(f"the journal was taken over after {took_s:.1f} s")
        fresh_again(connect, apis[0], "after the leader")
        leader.start()
        time.sleep(8.0)
        others[0].kill()
        fresh_again(connect, apis[0], "after a projector")
        others[0].start()
        apis[1].kill()
        apis[1].start()
        own_kafka.end(signal.SIGKILL)
        own_kafka.start()
        fresh_again(connect, apis[1], "after the broker", FRESH_S_MAX)
        time.sleep(2.0)
    finally:
        for writer in writers:
            writer.communicate(timeout=120)
    told = [read_journal(journal) for journal in journals]
    fates = Counter(one.fate for journal in told for one in journal)
    assert fates[ACKNOWLEDGED] > 200, fates
    print(dict(fates))
    for api in apis:
        assert judge(connect(api), experiment_id, told) == []
    command(home, "verify", *flags)


def fresh_again(connect: Connect, api: Server, name: str, within_s: float = TAKEOVER_S_MAX) -> None:
    """Points of many runs, in all partitions, are read back soon."""
    wire = connect(api)

    def is_fresh(number: int) -> bool:
        reply = wire.post("runs/create", {"experiment_id": "0", "run_name": name})
        if reply.status != 200:
            return False
        run_id = reply.data["run"]["info"]["run_id"]
        point = {"run_id": run_id, "key": "m", "value": number, "timestamp": 1, "step": 1}
        wire.post("runs/log-metric", point)
        return wire.get("runs/get", run_id=run_id).status == 200

    took_s = sum(
        eventually(f"fresh {name}", partial(is_fresh, number), within_s) for number in range(8)
    )
    assert took_s < within_s
    print(f"reads are fresh {name} after {took_s:.1f} s")
