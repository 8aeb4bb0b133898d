"""What the log on Kafka does beside the contract: its checks, gaps, and producers of others."""

from __future__ import annotations

import os
import re
import statistics
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import requests
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, NewTopic
from kafka.errors import KafkaTimeoutError

import events.kafka_log
from events.codec import Series, encode_block, make_block
from events.errors import InvalidParameterValue, TemporarilyUnavailable
from events.event import DIRECT, GAP, JOURNAL, NewEvent, Partition
from events.kafka_log import KafkaLog, init_log
from events.kafka_reader import Ends
from events.kafka_settings import KafkaAccess
from events.kafka_topics import RECORD_BYTES_MAX, REQUIRED
from events.log import LogError, PartlyAppended
from events.metrics import POINTS_LOGGED
from events.settings import Settings
from infra.backends.service import Service
from projections.direct_points import NO_BLOCK
from projections.metrics import latest_metrics
from projections.same_log import require_same_log
from projections.sqlite_views import SqliteViews
from tests.faults.wire import Wire
from tests.homes import open_home
from tests.servers import Server
from workers.projector import Projector
from workers.projector_process import prepare
from workers.stores import Stores

DOCS = Path(__file__).parent.parent / "docs" / "kafka.md"
ACCESS = KafkaAccess()


def servers_of(uri: str) -> str:
    """The brokers of a log's URI."""
    return uri.removeprefix("kafka://").partition("/")[0]


def prefix_of(uri: str) -> str:
    """The prefix of its topics."""
    return uri.rpartition("/")[2]


@pytest.fixture
def admin(kafka_uri: str) -> Iterator[Any]:
    """A client that makes, changes and deletes topics."""
    client = KafkaAdminClient(bootstrap_servers=servers_of(kafka_uri))
    yield client
    client.close()


@pytest.fixture
def log(kafka_uri: str) -> Iterator[KafkaLog]:
    """An empty log with three partitions of points."""
    init_log(kafka_uri, ACCESS, partitions=3)
    opened = KafkaLog(kafka_uri, ACCESS)
    yield opened
    opened.close()


def points(run_id: str, step: int = 1) -> NewEvent:
    """One point of a run."""
    block = make_block([(Series("loss"), step, 1, 0.5)])
    return POINTS_LOGGED.new(run_id, block, time=7)


def test_init_makes_what_is_missing_and_can_be_repeated(kafka_uri: str) -> None:
    """The second time nothing is made, and the log is the same."""
    prefix = prefix_of(kafka_uri)
    made = init_log(kafka_uri, ACCESS, partitions=2)
    assert made == [f"{prefix}.{lane}" for lane in ("journal", "points", "about")]
    first = KafkaLog(kafka_uri, ACCESS)
    assert init_log(kafka_uri, ACCESS, partitions=9) == []
    second = KafkaLog(kafka_uri, ACCESS)
    assert (first.identity, first.generation) == (second.identity, second.generation)
    assert len(first.partitions()) == len(second.partitions()) == 3
    first.close()
    second.close()


@pytest.mark.parametrize(
    "uri",
    [
        "kafka://127.0.0.1:1",
        "kafka://127.0.0.1:1/",
        "kafka:///prefix",
        "kafka://user:secret@127.0.0.1:1/prefix",
        "kafka://127.0.0.1:1/a/b",
    ],
)
def test_a_uri_that_names_no_log_is_refused(uri: str) -> None:
    """With the form that it should have, and without a password that was in it."""
    with pytest.raises(LogError, match="kafka://HOST:PORT") as refused:
        KafkaLog(uri, ACCESS)
    assert "secret" not in str(refused.value)


def test_topics_that_are_missing_are_refused(kafka_uri: str) -> None:
    """The message says what makes them."""
    with pytest.raises(LogError, match="runfold log init"):
        KafkaLog(kafka_uri, ACCESS)


def test_topics_that_hold_no_log_yet_are_refused(kafka_uri: str, admin: Any) -> None:
    """Topics without the first record are no log, but can become one."""
    prefix = prefix_of(kafka_uri)
    lanes = ("journal", "points", "about")
    topics = [NewTopic(f"{prefix}.{lane}", 1, 1, topic_configs=REQUIRED) for lane in lanes]
    admin.create_topics(topics)
    with pytest.raises(LogError, match="does not say whose log it is"):
        KafkaLog(kafka_uri, ACCESS)
    assert init_log(kafka_uri, ACCESS, partitions=1) == []
    KafkaLog(kafka_uri, ACCESS).close()


def test_a_journal_of_two_partitions_is_refused(kafka_uri: str, admin: Any) -> None:
    """There would be no order in it."""
    prefix = prefix_of(kafka_uri)
    admin.create_topics([NewTopic(f"{prefix}.journal", 2, 1, topic_configs=REQUIRED)])
    with pytest.raises(LogError, match="2 partitions"):
        init_log(kafka_uri, ACCESS, partitions=1)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("retention.ms", "604800000"), ("retention.bytes", "1000"), ("cleanup.policy", "compact")],
)
@pytest.mark.parametrize("lane", ["journal", "points", "about"])
def test_a_topic_that_forgets_is_refused(
    kafka_uri: str, admin: Any, lane: str, setting: str, value: str
) -> None:
    """The message names the topic, the setting and what it must be."""
    init_log(kafka_uri, ACCESS, partitions=1)
    topic = f"{prefix_of(kafka_uri)}.{lane}"
    admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, {setting: value})])
    with pytest.raises(LogError, match=rf"{topic}.*{setting}={value}.*{REQUIRED[setting]}"):
        KafkaLog(kafka_uri, ACCESS)


def test_records_that_were_deleted_are_missed(log: KafkaLog, kafka_uri: str, admin: Any) -> None:
    """A log without its beginning is refused; who has it open does not pass over what is gone."""
    log.append([points("r0", step) for step in range(3)])
    (event, *_) = log.about("points", "r0")
    place = TopicPartition(f"{prefix_of(kafka_uri)}.points", event.partition)
    admin.delete_records({place: 1})
    with pytest.raises(LogError, match="lost its first 1 records"):
        KafkaLog(kafka_uri, ACCESS)
    partition = Partition("points", event.partition)
    with pytest.raises(LogError, match="has no offset 0 any more"):
        log.read(partition, 0, 9)
    assert [one.position for one in log.read(partition, 1, 9)] == [2, 3]


def test_no_broker_is_a_refusal_with_its_address() -> None:
    """Without Kafka the command ends with a message, and a server would."""
    # In a process of its own: the client library leaves sockets open where nobody answers.
    uri = "kafka://127.0.0.1:1/prefix"
    command = [sys.executable, "-m", "workers.cli", "log", "init", uri]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Kafka at 127.0.0.1:1 can't be used as a log" in done.stderr


def test_marks_of_transactions_hold_nothing_and_hold_up_nothing(
    log: KafkaLog, kafka_uri: str, tmp_path: Path
) -> None:
    """Offsets that a transaction takes for itself are skipped, also where they are the last: the
    views reach the head."""
    log.append([points("r0", 1)])
    (event,) = log.about("points", "r0")
    partition = Partition("points", event.partition)
    producer = KafkaProducer(bootstrap_servers=servers_of(kafka_uri), transactional_id="t")
    producer.init_transactions()
    for step in (2, 3):
        producer.begin_transaction()
        producer.send(
            f"{prefix_of(kafka_uri)}.points",
            points("r0", step).data,
            b"r0",
            [("type", b"points.logged"), ("version", b"1")],
        )
        producer.commit_transaction()
    producer.close()
    # A commit is answered before the broker has written its mark.
    until = time.monotonic() + 10
    while log.head(partition) < 5 and time.monotonic() < until:
        time.sleep(0.05)
    assert log.head(partition) == 5
    read = log.read(partition, 0, 100)
    assert [(one.position, one.type) for one in read] == [
        (1, "points.logged"),
        (2, "points.logged"),
        (4, "points.logged"),
        (5, GAP),
    ]
    assert log.read(partition, 4, 100) == read[-1:]
    assert [one.position for one in log.read(partition, 1, 2)] == [2, 4]
    views = SqliteViews(tmp_path / "views.db", log.identity.log_id)
    views.create()
    Projector(log, views).catch_up()
    assert views.checkpoints()[partition].position == 5
    with views.read() as connection:
        assert [row.step for row in connection.execute(latest_metrics.select())] == [3]
    views.close()


def test_a_reader_goes_back_and_forth(log: KafkaLog) -> None:
    """What was read is read again, from anywhere, in pages of any size."""
    log.append([points(f"r{number % 5}", number) for number in range(300)])
    for partition in log.partitions()[1:]:
        whole = log.read(partition, 0, 1_000)
        assert len(whole) == log.head(partition)
        for after, limit in ((10, 3), (0, 7), (10, 30), (len(whole), 5), (2, 1)):
            assert log.read(partition, after, limit) == whole[after : after + limit]
    assert sum(log.heads().values()) == 300


def test_a_projector_with_nothing_to_do_asks_little_and_is_told_at_once(
    log: KafkaLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a log that does not grow it asks the ends once a second; what comes then is folded within
    a tenth of a second, most of the time."""
    asked: list[float] = []
    of = Ends.of

    def counted(ends: Ends, places: Any) -> dict[TopicPartition, int]:
        asked.append(time.monotonic())
        return of(ends, places)

    monkeypatch.setattr(Ends, "of", counted)
    views = SqliteViews(tmp_path / "views.db", log.identity.log_id)
    views.create()
    stop = threading.Event()
    thread = threading.Thread(target=Projector(log, views).run, args=(stop, None))
    thread.start()
    time.sleep(1.0)
    asked.clear()
    time.sleep(3.0)
    assert len(asked) <= 4
    took_s = []
    for step in range(11):
        (position,) = log.append([points("r0", step)])
        partition = log.partition_of("points", "r0")
        began = time.monotonic()
        while views.checkpoints()[partition].position < position:
            assert time.monotonic() < began + 5
            time.sleep(0.002)
        took_s.append(time.monotonic() - began)
        time.sleep(0.3)
    stop.set()
    thread.join()
    views.close()
    assert statistics.median(took_s) < 0.1


def batches(service: Service, topic: str) -> list[tuple[int, int]]:
    """Of each batch of records in the broker's file of a topic's first partition: the compression,
    and the id of the producer that has the broker take each of its records once."""
    (file,) = (service.folder / "data" / f"{topic}-0").glob("*.log")
    data, found, at = file.read_bytes(), [], 0
    while at < len(data):
        (size,) = struct.unpack_from(">i", data, at + 8)
        (attributes,) = struct.unpack_from(">h", data, at + 21)
        (producer_id,) = struct.unpack_from(">q", data, at + 43)
        found.append((attributes & 7, producer_id))
        at += 12 + size
    return found


ZSTD, NO_PRODUCER, ALL_REPLICAS = 4, -1, -1


def test_events_are_written_compressed_and_once(
    log: KafkaLog, kafka: Service, kafka_uri: str
) -> None:
    """The broker has them in zstd, and from a producer of which it takes each record once, however
    often it is sent, once all replicas have it."""
    log.append([NewEvent("journal", "run.updated", 1, "r0", 1, b"{}" * 5_000)])
    found = batches(kafka, f"{prefix_of(kafka_uri)}.journal")
    assert [compression for compression, _ in found] == [ZSTD]
    assert NO_PRODUCER not in [producer for _, producer in found]
    assert log._producer is not None
    assert log._producer.config["acks"] == ALL_REPLICAS


def test_events_of_any_size_and_time_are_taken(log: KafkaLog) -> None:
    """Larger than brokers take by default, and as old or far ahead as a client's clock or another
    log has it; what is larger than the log takes is refused for that, and not for later."""
    block = NewEvent("points", "points.logged", 1, "r0", 4_102_444_800_000, os.urandom(3 << 20))
    log.append([block, msgspec.structs.replace(block, time=1)])
    assert [(one.time, one.data) for one in log.about("points", "r0")] == [
        (4_102_444_800_000, block.data),
        (1, block.data),
    ]
    too_large = msgspec.structs.replace(block, data=os.urandom(RECORD_BYTES_MAX + 1))
    with pytest.raises(PartlyAppended) as told:
        log.append([too_large, points("r1")])
    assert isinstance(told.value.outcomes[0], InvalidParameterValue)
    assert told.value.outcomes[1] == log.head(log.partition_of("points", "r1"))


def test_partitions_that_are_added_are_used(
    log: KafkaLog, kafka_uri: str, admin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has the log open hears of them, reads all and spreads the runs over all."""
    often = {**log._client, "metadata_max_age_ms": 100}
    monkeypatch.setattr(events.kafka_log, "client_options", lambda *_: often)
    opened = KafkaLog(kafka_uri, ACCESS)
    admin.create_partitions({f"{prefix_of(kafka_uri)}.points": 6})
    until = time.monotonic() + 10
    while len(opened.heads()) < 7:
        assert time.monotonic() < until
        time.sleep(0.05)
    subjects = [f"r{number}" for number in range(40)]
    opened.append([points(subject) for subject in subjects])
    heads = opened.heads()
    assert all(heads[Partition("points", number)] for number in range(6))
    there = [one.subject for place in opened.partitions() for one in opened.read(place, 0, 99)]
    assert sorted(there) == sorted(subjects)
    opened.close()


class Lost:
    """What a producer answers that gave up a record."""

    def get(self) -> None:
        raise KafkaTimeoutError("given up")


def test_what_became_of_a_record_is_looked_up(
    log: KafkaLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the producer gives up, the log tells which records it has: those have positions, and
    the others are certain not to be there."""
    log.append([points("r0")])
    send = KafkaProducer.send

    def half_lost(producer: Any, topic: str, value: bytes, key: bytes, *more: Any) -> Any:
        if key != b"never":
            send(producer, topic, value, key, *more)
        return Lost()

    monkeypatch.setattr(KafkaProducer, "send", half_lost)
    journal = NewEvent("journal", "run.deleted", 1, "r0", 1, b"{}")
    with pytest.raises(PartlyAppended) as told:
        log.append([points("r0"), points("never"), journal])
    there, never, also_there = told.value.outcomes
    assert (there, also_there) == (2, 1)
    assert isinstance(never, TemporarilyUnavailable)
    monkeypatch.undo()
    assert log.append([points("r0")]) == [3]
    assert list(log.about("points", "never")) == []


def test_views_of_a_log_that_was_made_again_or_shortened_are_refused(
    log: KafkaLog, kafka_uri: str, admin: Any, tmp_path: Path
) -> None:
    """A log that lost what the views were folded from stops the start, with the reason."""
    log.append([points("r0")])
    home = open_home(tmp_path / "home", log)
    views = home.views
    prepare(Stores(Settings(), log, views, home.gc.artifacts))
    Projector(log, views).catch_up()
    require_same_log(log, views)
    prefix = prefix_of(kafka_uri)
    admin.delete_topics([f"{prefix}.{lane}" for lane in ("journal", "points", "about")])
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            init_log(kafka_uri, ACCESS, partitions=3)
            break
        except LogError:
            # Topics go on being there for a moment after they were deleted.
            time.sleep(0.2)
    again = KafkaLog(kafka_uri, ACCESS)
    with pytest.raises(LogError, match="deleted and made again"):
        require_same_log(again, views)
    again.generation = log.generation
    with pytest.raises(LogError, match="the log ends at 0"):
        require_same_log(again, views)
    again.close()
    views.close()


@pytest.fixture
def server(kafka_uri: str, tmp_path: Path, start_runfold: Callable[..., Server]) -> Server:
    """A server whose log is on Kafka."""
    init_log(kafka_uri, ACCESS, partitions=3)
    return start_runfold(tmp_path / "home", "--log-uri", kafka_uri)


def test_a_producer_of_others_writes_past_http(server: Server, kafka_uri: str) -> None:
    """The documentation's producer is run as it stands: its points are in the run's history as
    soon as it has ended; bad records are set aside, visible in /health, and hold up nobody."""
    wire = Wire(server.url)
    run = wire.done("runs/create", {"experiment_id": "0", "run_name": "direct"})
    run_id = run["run"]["info"]["run_id"]
    producer = KafkaProducer(bootstrap_servers=servers_of(kafka_uri))
    topic, headers = f"{prefix_of(kafka_uri)}.points", [("type", b"points.logged")]
    for partition in range(3):
        producer.send(topic, b"nonsense", run_id.encode(), partition=partition)
        producer.send(topic, None, run_id.encode(), headers, partition=partition)
        producer.send(topic, b"no block", b"r", [*headers, ("version", b"1")], partition=partition)
    producer.flush()
    producer.close()
    (script,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    arguments = [servers_of(kafka_uri), prefix_of(kafka_uri), run_id]
    subprocess.run([sys.executable, "-c", script, *arguments], check=True)
    history = wire.history(run_id, "loss")
    assert history == [(step, 1 / (step + 1)) for step in range(100)]
    health = requests.get(
        f"{server.url}/health", headers={"Accept": "application/json"}, timeout=30
    ).json()
    assert health["status"] == "ok"
    assert health["set_aside"]["count"] == 9
    assert health["set_aside"]["last"]["reason"] == NO_BLOCK
    assert [one["lag"] for one in health["lanes"]["points"]["partitions"]] == [0, 0, 0]
    wire.close()


def test_who_writes_past_the_api_is_told_apart(log: KafkaLog, kafka_uri: str) -> None:
    """Who writes records himself is known as the origin; the API's own events are not. Both find a
    run's partition in the same way."""
    producer = KafkaProducer(bootstrap_servers=servers_of(kafka_uri))
    data = encode_block(make_block([(Series("loss"), 1, 1, 0.5)]))
    headers = [("type", b"points.logged"), ("version", b"1"), ("origin", b"127.0.0.1")]
    producer.send(f"{prefix_of(kafka_uri)}.points", data, b"r0", headers, timestamp_ms=9).get(30)
    producer.close()
    log.append([points("r0")])
    first, second = log.about("points", "r0")
    assert (first.origin, first.time, first.data) == (DIRECT, 9, data)
    assert (second.origin, second.position) == (None, first.position + 1)
    assert log.head(JOURNAL) == 0
    # Hashes of the tests of Kafka's own client: who sets no partition writes where the API does.
    for key, hashed in {"21": -973932308, "foobar": -790332482, "abc": 479470107}.items():
        assert log.partition_of("points", key).number == (hashed & 0x7FFFFFFF) % 3
