"""What a log on Kafka knows of itself: its id and secret, and how a copy into it goes.

Each record of the topic says all of it anew; the last one counts. Only of the first ones, which two
processes may write at once, the first counts.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from functools import partial
from typing import Any

import msgspec
from kafka import KafkaProducer, TopicPartition
from kafka.errors import KafkaError

from events.kafka_reader import ANSWER_S_MAX, Ends, RecordReader, patiently
from events.kafka_records import TYPE, VERSION
from events.kafka_topics import RECORD_BYTES_MAX, Client, Topics
from events.log import LogError, LogIdentity

_BEGUN, _NOTED = b"log.begun", b"log.noted"
_LINGER_MS = 5
"""No record waits for that: an append flushes. It only keeps one append in one batch."""
_BATCH_BYTES = 1 << 20
_WRITE_S_MAX = 30.0
_RECORDS_MAX = 1_000


class Known(msgspec.Struct, frozen=True):
    """What a record says."""

    log_id: str
    secret: bytes
    copy_note: bytes | None = None
    """See CopyTarget.copy_note."""
    copied_id: str | None = None
    """The id of the log of which this is a copy that stands for it."""


def new_producer(client: Client) -> KafkaProducer:
    """What writes records, each once and for good. Raises KafkaError."""
    return KafkaProducer(
        **client,
        enable_idempotence=True,
        acks="all",
        compression_type="zstd",
        linger_ms=_LINGER_MS,
        batch_size=_BATCH_BYTES,
        max_request_size=RECORD_BYTES_MAX,
        # Whether a record that was given up is in the log is not known. So none is given up: the
        # broker takes each once, however often it is sent.
        delivery_timeout_ms=2**31 - 1,
        max_block_ms=round(ANSWER_S_MAX * 1000),
        allow_auto_create_topics=False,
        metrics_enabled=False,
    )


class About:
    """The topic; nothing of it is held open."""

    def __init__(self, client: Client, topics: Topics) -> None:
        self._client = client
        self._place = TopicPartition(topics.about, 0)

    def _end(self) -> int:
        with contextlib.closing(Ends(self._client)) as ends:
            return patiently(lambda: ends.of([self._place])[self._place])

    def begin(self) -> None:
        """Writes the first record, where there is none."""
        if self._end() == 0:
            self._write(_BEGUN, Known(secrets.token_hex(16), secrets.token_bytes(32)))

    def read(self) -> Known:
        """What is known. Raises LogError where there is nothing."""
        known: Known | None = None
        end = self._end()
        try:
            for record in self._records(end):
                kind = dict(record.headers).get(TYPE)
                if kind == _NOTED or (kind == _BEGUN and known is None):
                    known = msgspec.json.decode(record.value, type=Known)
        except msgspec.MsgspecError as error:
            raise LogError(f"the topic {self._place.topic} says nonsense: {error}") from error
        if known is None:
            raise LogError(
                f"the topic {self._place.topic} does not say whose log it is: `runfold log init` "
                "makes an empty one a log"
            )
        return known

    def _records(self, end: int) -> Iterator[Any]:
        with contextlib.closing(RecordReader(self._client)) as reader:
            offset = 0
            while offset < end:
                page = partial(reader.read, self._place, offset, _RECORDS_MAX, end)
                records, offset = patiently(page)
                yield from records

    def note(self, copy_note: bytes, identity: LogIdentity | None) -> Known:
        """Writes a note of a copy, and the identity of the log that was copied if one is given."""
        known = msgspec.structs.replace(self.read(), copy_note=copy_note)
        if identity is not None:
            known = msgspec.structs.replace(
                known, secret=identity.secret, copied_id=identity.log_id
            )
        self._write(_NOTED, known)
        return known

    def _write(self, kind: bytes, known: Known) -> None:
        producer = new_producer(self._client)
        try:
            headers = [(TYPE, kind), (VERSION, b"1")]
            value = msgspec.json.encode(known)
            sent = producer.send(self._place.topic, value, b"log", headers, partition=0)
            sent.get(timeout=_WRITE_S_MAX)
        except KafkaError as error:
            raise LogError(f"{self._place.topic} could not be written: {error!r}") from error
        finally:
            producer.close(timeout=1)
