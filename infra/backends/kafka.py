"""Apache Kafka from Maven Central, one node that is broker and controller (KRaft)."""

import fcntl
import hashlib
import os
import shutil
import socket
from collections.abc import Sequence
from pathlib import Path

from infra.backends.service import Service, ServiceError, free_port, new_folder, prepare, program

POM = Path(__file__).with_suffix(".xml")
"""Says which version."""
_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={folder}/data
auto.create.topics.enable=false
# So that the first group has its coordinator at once, and its first member its partitions.
offsets.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
# A broker that was killed is let in again after this time, not after nine seconds.
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
"""
_HEAP = ("-Xms128m", "-Xmx384m")
_CLUSTER_ID = "runfold-one-node-0000w"


def missing() -> str | None:
    """What this machine lacks to run it, or None."""
    if program("java") is None or program("mvn") is None:
        return "Java and Maven (Debian's packages default-jdk-headless and maven)"
    return None


def _jars() -> Path:
    """The folder with the broker's jars, fetched the first time."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "runfold" / f"kafka-{hashlib.sha256(POM.read_bytes()).hexdigest()[:16]}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            fetched = new_folder("kafka-jars")
            copy = "dependency:copy-dependencies"
            jars = f"-DoutputDirectory={fetched}/jars"
            prepare(["mvn", "-q", "-B", "-f", str(POM), copy, jars], fetched)
            shutil.move(fetched / "jars", folder)
            shutil.rmtree(fetched, ignore_errors=True)
    return folder


def make(port: int | None = None, properties: str = "", scram: Sequence[str] = ()) -> Service:
    """A Kafka on an empty folder, without topics; not started yet.

    `properties`: lines of its settings that come after the usual ones, and so count. `scram`: its
    users, as the storage tool's --add-scram takes them.
    """
    java, lacking = program("java"), missing()
    if java is None or lacking is not None:
        raise ServiceError(str(lacking))
    run = [java, "-cp", f"{_jars()}/*"]
    port = port or free_port()
    folder = new_folder("kafka")
    path = folder / "server.properties"
    usual = _PROPERTIES.format(port=port, controller=free_port(), folder=folder)
    path.write_text(usual + properties)
    format_storage = ["kafka.tools.StorageTool", "format", "--standalone", "-t", _CLUSTER_ID]
    users = [word for user in scram for word in ("--add-scram", user)]
    prepare([*run, *format_storage, *users, "-c", str(path)], folder)

    def answers() -> bool:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5):
                return True
        except OSError:
            return False

    command = [java, *_HEAP, *run[1:], "kafka.Kafka", str(path)]
    return Service("kafka", f"kafka://127.0.0.1:{port}", folder, command, answers)
