"""Random sequences of calls, the same on MLflow's own server and on Runfold."""

import os
import uuid

from hypothesis import HealthCheck, given, settings

from tests.differential.calls import Call
from tests.differential.play import compare, play
from tests.differential.random_calls import sequences
from tests.differential.refusals import RefusalCheck
from tests.servers import Server

# About half a second each, with both servers on two cores. RANDOM_SEQUENCES=1000 searches deeper.
SEQUENCES = int(os.environ.get("RANDOM_SEQUENCES", "60"))


@settings(
    max_examples=SEQUENCES,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(calls=sequences())
def test_random_sequences(
    mlflow_server: Server, runfold_server: Server, refusal_check: RefusalCheck, calls: list[Call]
) -> None:
    """Whatever the sequence of calls, both servers answer each of them alike."""
    unique = f"random-{uuid.uuid4().hex}"
    theirs = play(mlflow_server.url, calls, unique)
    ours = play(runfold_server.url, calls, unique, refusal_check)
    found = compare(calls, theirs, ours)
    played = [f"    [{number}] {call.describe()}" for number, call in enumerate(calls)]
    assert not found, "\n".join([f"{len(found)} calls differ:", *found, "played:", *played])
