"""TLS and logins of Kafka's brokers, by the settings that a server is given."""

from __future__ import annotations

import gc
import logging
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from events import kafka_topics
from events.event import NewEvent
from events.kafka_log import KafkaLog, init_log
from events.kafka_settings import KafkaAccess
from events.log import LogError
from infra.backends import kafka
from infra.backends.service import free_port
from tests.servers import require
from workers.cli import main

# The client library leaves sockets of TLS, and those that were refused, to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed <s:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:.*[sS]ocket:pytest.PytestUnraisableExceptionWarning"),
]

USER, PASSWORD = "runfold", "pass word"
_LISTENERS = """\
listeners=PLAINTEXT://127.0.0.1:{plain},CONTROLLER://127.0.0.1:{controller},\
SASL_PLAINTEXT://127.0.0.1:{sasl},SSL://127.0.0.1:{ssl},SASL_SSL://127.0.0.1:{sasl_ssl}
advertised.listeners=PLAINTEXT://127.0.0.1:{plain},SASL_PLAINTEXT://127.0.0.1:{sasl},\
SSL://127.0.0.1:{ssl},SASL_SSL://127.0.0.1:{sasl_ssl}
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,\
SASL_PLAINTEXT:SASL_PLAINTEXT,SSL:SSL,SASL_SSL:SASL_SSL
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
ssl.keystore.type=PEM
ssl.keystore.location={folder}/broker.pem
ssl.truststore.type=PEM
ssl.truststore.location={folder}/ca.crt
listener.name.ssl.ssl.client.auth=required
"""
_LOGINS = """\
listener.name.{name}.plain.sasl.jaas.config=\
org.apache.kafka.common.security.plain.PlainLoginModule required user_{user}="{password}";
listener.name.{name}.scram-sha-256.sasl.jaas.config=\
org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.{name}.scram-sha-512.sasl.jaas.config=\
org.apache.kafka.common.security.scram.ScramLoginModule required;
"""


@dataclass(frozen=True)
class Secured:
    """A broker, its ports by protocol, and the folder with the certificates."""

    ports: dict[str, int]
    folder: Path

    def uri(self, access: KafkaAccess, prefix: str = "secured") -> str:
        """A log at the port for this access."""
        return f"kafka://127.0.0.1:{self.ports[access.security_protocol]}/{prefix}"

    def access(self, protocol: str, mechanism: str | None = None) -> KafkaAccess:
        """What is told to a client that is let in."""
        has_tls, has_login = protocol.endswith("SSL"), mechanism is not None
        has_key = protocol == "SSL"
        return KafkaAccess(
            protocol,
            sasl_mechanism=mechanism,
            sasl_username=USER if has_login else None,
            sasl_password=PASSWORD if has_login else None,
            ssl_cafile=str(self.folder / "ca.crt") if has_tls else None,
            ssl_certfile=str(self.folder / "client.crt") if has_key else None,
            ssl_keyfile=str(self.folder / "client.key") if has_key else None,
            ssl_password=PASSWORD if has_key else None,
        )


def openssl(folder: Path, *words: str) -> None:
    """Runs the tool there."""
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)


def certify(folder: Path, name: str, *of_key: str) -> None:
    """A key and a certificate for 127.0.0.1, by the authority in the folder."""
    request = ("req", "-new", "-newkey", "rsa:2048", *of_key, "-keyout", f"{name}.key")
    openssl(folder, *request, "-out", f"{name}.csr", "-subj", f"/CN={name}")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    by = ("-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names")
    openssl(folder, "x509", "-req", "-in", f"{name}.csr", *by, "-days", "2", "-out", f"{name}.crt")


def make_certificates(folder: Path) -> None:
    """An authority, what it says of the broker and of a client, and another authority."""
    for name in ("ca", "other"):
        own = ("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key")
        openssl(folder, *own, "-out", f"{name}.crt", "-days", "2", "-subj", f"/CN={name}")
    certify(folder, "broker", "-nodes")
    certify(folder, "client", "-passout", f"pass:{PASSWORD}")
    parts = [(folder / f"broker.{kind}").read_text() for kind in ("key", "crt")]
    (folder / "broker.pem").write_text("".join(parts))


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """A broker that is spoken to in every way, with an empty log."""
    lacking = kafka.missing()
    require(lacking is None, str(lacking))
    require(shutil.which("openssl") is not None, "openssl")
    folder = tmp_path_factory.mktemp("certificates")
    make_certificates(folder)
    names = ("plain", "controller", "sasl", "ssl", "sasl_ssl")
    ports = {name: free_port() for name in names}
    properties = _LISTENERS.format(folder=folder, **ports)
    for name in ("sasl_plaintext", "sasl_ssl"):
        properties += _LOGINS.format(name=name, user=USER, password=PASSWORD)
    users = [f"SCRAM-SHA-{bits}=[name={USER},password={PASSWORD}]" for bits in (256, 512)]
    service = kafka.make(ports["plain"], properties, users)
    protocols = {"SASL_PLAINTEXT": "sasl", "SSL": "ssl", "SASL_SSL": "sasl_ssl"}
    try:
        service.start()
        found = {protocol: ports[name] for protocol, name in protocols.items()}
        init_log(f"kafka://127.0.0.1:{ports['plain']}/secured", KafkaAccess(), partitions=2)
        yield Secured(found, folder)
    finally:
        service.remove()


WAYS = [
    ("SASL_PLAINTEXT", "PLAIN"),
    ("SASL_PLAINTEXT", "SCRAM-SHA-256"),
    ("SSL", None),
    ("SASL_SSL", "SCRAM-SHA-512"),
]


@pytest.mark.parametrize(("protocol", "mechanism"), WAYS)
def test_a_log_is_used_by_every_way_in(
    secured: Secured, protocol: str, mechanism: str | None
) -> None:
    """Topics are looked at, events appended and read, with a login, a certificate, or both."""
    access = secured.access(protocol, mechanism)
    log = KafkaLog(secured.uri(access), access)
    subject = f"{protocol} {mechanism}"
    (position,) = log.append([NewEvent("points", "points.logged", 1, subject, 1, b"\0")])
    partition = log.partition_of("points", subject)
    assert [one.subject for one in log.read(partition, position - 1, 1)] == [subject]
    assert log.has_grown(log.heads(), 0.1) is False
    log.close()


def test_the_command_takes_the_settings(secured: Secured, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log is made over TLS with a login; the password comes by a variable."""
    access = secured.access("SASL_SSL", "PLAIN")
    monkeypatch.setenv("RUNFOLD_KAFKA_SASL_PASSWORD", PASSWORD)
    words = ["--kafka-security-protocol", "SASL_SSL", "--kafka-sasl-mechanism", "PLAIN"]
    words += ["--kafka-sasl-username", USER, "--kafka-ssl-cafile", str(access.ssl_cafile)]
    result = CliRunner().invoke(main, ["log", "init", secured.uri(access, "by-command"), *words])
    assert (result.exit_code, "0 in journal" in result.output) == (0, True), result.output


@pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning")
def test_who_is_not_let_in_is_told_so(secured: Secured, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong password, a broker nobody vouches for, a missing certificate and a missing login are
    each refused with the reason, soon, and no message has the password."""
    monkeypatch.setattr(kafka_topics, "BOOTSTRAP_MS", 4_000)
    # The client library leaves its sockets to the collector where a handshake fails: pytest, which
    # keeps the lines of its log, is not to keep them.
    monkeypatch.setattr(logging.getLogger("kafka"), "propagate", False)
    login = secured.access("SASL_PLAINTEXT", "SCRAM-SHA-256")
    tls = secured.access("SSL")
    refused = [
        (replace(login, sasl_password="wrong"), "Authentication failed|login is wrong"),
        (replace(tls, ssl_cafile=str(secured.folder / "other.crt")), "CERTIFICATE_VERIFY_FAILED"),
        (replace(tls, ssl_certfile=None, ssl_keyfile=None), "can't be used as a log"),
    ]
    for access, why in refused:
        with pytest.raises(LogError, match=why) as told:
            KafkaLog(secured.uri(access), access)
        assert PASSWORD not in str(told.value)
        assert "wrong" not in str(told.value).replace("login is wrong", "")
    del told
    gc.collect()
