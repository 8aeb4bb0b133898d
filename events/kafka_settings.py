"""How Kafka's brokers are spoken to, and the settings that say so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class KafkaAccess:
    """What a client needs to be let in; KAFKA_SETTINGS describes each."""

    security_protocol: str = "PLAINTEXT"
    sasl_mechanism: str | None = None
    sasl_username: str | None = None
    sasl_password: str | None = None
    ssl_cafile: str | None = None
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    ssl_password: str | None = None


class KafkaSetting(NamedTuple):
    """One of them: what an `events.settings.Setting` is made of, in its order."""

    field: str
    flag: str
    environment: tuple[str, ...]
    help: str
    storage: bool = True
    secret: bool = False
    metavar: str = "FILE"


KAFKA_SETTINGS = (
    KafkaSetting(
        "kafka_security_protocol",
        "--kafka-security-protocol",
        ("RUNFOLD_KAFKA_SECURITY_PROTOCOL",),
        "How Kafka's brokers are spoken to: PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL.",
        metavar="PROTOCOL",
    ),
    KafkaSetting(
        "kafka_sasl_mechanism",
        "--kafka-sasl-mechanism",
        ("RUNFOLD_KAFKA_SASL_MECHANISM",),
        "How Kafka's brokers are logged in to: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512.",
        metavar="MECHANISM",
    ),
    KafkaSetting(
        "kafka_sasl_username",
        "--kafka-sasl-username",
        ("RUNFOLD_KAFKA_SASL_USERNAME",),
        "The user as whom Kafka's brokers are logged in to.",
        metavar="USER",
    ),
    KafkaSetting(
        "kafka_sasl_password",
        "--kafka-sasl-password",
        ("RUNFOLD_KAFKA_SASL_PASSWORD",),
        "That user's password.",
        secret=True,
        metavar="PASSWORD",
    ),
    KafkaSetting(
        "kafka_ssl_cafile",
        "--kafka-ssl-cafile",
        ("RUNFOLD_KAFKA_SSL_CAFILE",),
        "The certificates by which Kafka's brokers are known (PEM). Default: the system's.",
    ),
    KafkaSetting(
        "kafka_ssl_certfile",
        "--kafka-ssl-certfile",
        ("RUNFOLD_KAFKA_SSL_CERTFILE",),
        "The certificate that Kafka's brokers are shown (PEM).",
    ),
    KafkaSetting(
        "kafka_ssl_keyfile",
        "--kafka-ssl-keyfile",
        ("RUNFOLD_KAFKA_SSL_KEYFILE",),
        "That certificate's private key (PEM).",
    ),
    KafkaSetting(
        "kafka_ssl_password",
        "--kafka-ssl-password",
        ("RUNFOLD_KAFKA_SSL_PASSWORD",),
        "That key's password.",
        secret=True,
        metavar="PASSWORD",
    ),
)
