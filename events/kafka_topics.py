"""The topics of a Kafka log: where they are, how they are made, and what must be true of them."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import structlog
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType, NewTopic
from kafka.errors import KafkaError

from events.kafka_settings import KafkaAccess
from events.log import LogError

logger = structlog.get_logger(__name__)

Client = Mapping[str, Any]
"""What every client of the brokers is made with."""

RECORD_BYTES_MAX = 16 << 20
"""No event is larger: a request's body has 2 MB."""
REQUEST_MS_MAX = 15_000
BOOTSTRAP_MS = 10_000
_DISCONNECTED = "socket disconnected"
_TIMED_OUT = ("RequestTimedOutError", "timed out")
REQUIRED = {"retention.ms": "-1", "retention.bytes": "-1", "cleanup.policy": "delete"}
"""The topics' settings without which Kafka forgets events by itself."""
_MADE_WITH = {
    **REQUIRED,
    "max.message.bytes": str(RECORD_BYTES_MAX),
    "message.timestamp.type": "CreateTime",
    # Events that are copied from another log are older, and clocks differ.
    "message.timestamp.after.max.ms": str(2**63 - 1),
}


@dataclass(frozen=True)
class Topics:
    """The topics of one log."""

    prefix: str

    @property
    def journal(self) -> str:
        """The topic of the journal, with one partition."""
        return f"{self.prefix}.journal"

    @property
    def points(self) -> str:
        """The topic of the points lane."""
        return f"{self.prefix}.points"

    @property
    def about(self) -> str:
        """The topic of what the log knows of itself, with one partition."""
        return f"{self.prefix}.about"

    @property
    def names(self) -> tuple[str, str, str]:
        """All three."""
        return (self.journal, self.points, self.about)


@dataclass(frozen=True)
class Found:
    """What the brokers say of the topics."""

    points_partitions: int
    generation: str
    """The ids of the topics: a topic that was deleted and made again has another."""


def location(uri: str) -> tuple[list[str], Topics]:
    """The brokers and topics of a `kafka://host:port,…/prefix` URI. Raises LogError."""
    parts = urlsplit(uri)
    prefix = parts.path.strip("/")
    servers = [server for server in parts.netloc.split(",") if server]
    if parts.scheme != "kafka" or not servers or not prefix or "/" in prefix or "@" in parts.netloc:
        raise LogError(
            "a Kafka log is kafka://HOST:PORT,HOST:PORT/PREFIX; users, passwords and certificates "
            "have settings of their own (--kafka-…)"
        )
    return servers, Topics(prefix)


def client_options(servers: list[str], access: KafkaAccess) -> dict[str, Any]:
    """What every client is made with."""
    options: dict[str, Any] = {
        "bootstrap_servers": servers,
        "bootstrap_timeout_ms": BOOTSTRAP_MS,
        "request_timeout_ms": REQUEST_MS_MAX,
        # By default the pause between two tries grows to 30 s, and a broker that is back is found
        # that much later.
        "reconnect_backoff_ms": 50,
        "reconnect_backoff_max_ms": 500,
        # How soon partitions are seen that were added.
        "metadata_max_age_ms": 30_000,
        "security_protocol": access.security_protocol,
    }
    given = {
        "sasl_mechanism": access.sasl_mechanism,
        "sasl_plain_username": access.sasl_username,
        "sasl_plain_password": access.sasl_password,
        "ssl_cafile": access.ssl_cafile,
        "ssl_certfile": access.ssl_certfile,
        "ssl_keyfile": access.ssl_keyfile,
        "ssl_password": access.ssl_password,
    }
    options.update({name: value for name, value in given.items() if value is not None})
    return options


class _Heard(logging.Handler):
    """Keeps the client library's last complaint: why brokers let nobody in is told there alone."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.last = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Takes in a line."""
        line = record.getMessage()
        # Others say that it tries again, or that it has given up.
        if " failed: " not in line or line.startswith("Bootstrap failed"):
            return
        # The last try is often cut short by the time that was left.
        if not self.last or not any(word in line for word in _TIMED_OUT):
            self.last = line


@contextlib.contextmanager
def _listening() -> Iterator[_Heard]:
    heard, lines = _Heard(), logging.getLogger("kafka.net.manager")
    lines.addHandler(heard)
    try:
        yield heard
    finally:
        lines.removeHandler(heard)


def _opened_admin(client: Client) -> KafkaAdminClient:
    with _listening() as heard:
        try:
            return KafkaAdminClient(**client)
        except (KafkaError, OSError, ValueError) as error:
            servers = ",".join(client["bootstrap_servers"])
            why = heard.last or repr(error)
            if client.get("sasl_mechanism") and _DISCONNECTED in why:
                # With the answer that the login is wrong the broker ends the connection, and the
                # client library drops an answer that comes together with an end.
                why += "; brokers do this too where the login is wrong"
            raise LogError(f"Kafka at {servers} can't be used as a log: {why}") from error


@contextlib.contextmanager
def _admin(client: Client) -> Iterator[KafkaAdminClient]:
    admin = _opened_admin(client)
    try:
        yield admin
    except (KafkaError, OSError, ValueError) as error:
        servers = ",".join(client["bootstrap_servers"])
        raise LogError(f"Kafka at {servers} can't be used as a log: {error!r}") from error
    finally:
        admin.close()


def make_topics(client: Client, topics: Topics, partitions: int, replication: int) -> list[str]:
    """Makes those of the topics that are missing; returns their names.

    `replication`: -1 for the brokers' default. Raises LogError.
    """
    with _admin(client) as admin:
        there = _described(admin, topics)
        counts = {topics.journal: 1, topics.points: partitions, topics.about: 1}
        missing = [
            NewTopic(name, count, replication, topic_configs=_MADE_WITH)
            for name, count in counts.items()
            if name not in there
        ]
        if missing:
            admin.create_topics(missing)
            admin.wait_for_topics([topic.name for topic in missing])
    return [topic.name for topic in missing]


def check_topics(client: Client, topics: Topics) -> Found:
    """What the brokers say of the topics. Raises LogError where they can't hold a log."""
    with _admin(client) as admin:
        there = _described(admin, topics)
        missing = [name for name in topics.names if name not in there]
        if missing:
            raise LogError(
                f"there is no topic {' and no '.join(missing)}: `runfold log init` makes the "
                "topics of a log"
            )
        resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in topics.names]
        settings = admin.describe_configs(resources, config_filter="all")["topic"]
    for name in (topics.journal, topics.about):
        count = len(there[name]["partitions"])
        if count != 1:
            raise LogError(
                f"the topic {name} has {count} partitions; its order needs exactly one, and Kafka "
                "can't take partitions away: use another prefix"
            )
    for name in topics.names:
        _check_settings(name, settings[name], len(there[name]["partitions"][0]["replica_nodes"]))
    return Found(
        len(there[topics.points]["partitions"]),
        " ".join(str(there[name]["topic_id"]) for name in topics.names),
    )


def _described(admin: KafkaAdminClient, topics: Topics) -> dict[str, Any]:
    """The metadata by name of those of the topics that exist."""
    found = admin.describe_topics(list(topics.names))
    return {topic["name"]: topic for topic in found if topic["error_code"] == 0}


def _check_settings(name: str, settings: Mapping[str, Any], replicas: int) -> None:
    wrong = [
        f"{setting}={settings[setting]['value']} (must be {value})"
        for setting, value in REQUIRED.items()
        if settings[setting]["value"] != value
    ]
    if wrong:
        raise LogError(
            f"the topic {name} would lose events: {', '.join(wrong)}. Change its settings, for "
            "example with kafka-configs.sh --alter"
        )
    in_sync = int(settings["min.insync.replicas"]["value"])
    if replicas == 1:
        logger.warning(
            "one broker has the only copy of a topic, which a loss of power can cost: have three "
            "replicas, or flush.messages=1",
            topic=name,
        )
    elif in_sync < 2:
        logger.warning("events are acknowledged by one replica alone", topic=name, in_sync=in_sync)
