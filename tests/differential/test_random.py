"""Random sequences of calls, the same on MLflow's own server and on Runfold."""

import os
import uuid

from hypothesis import HealthCheck, given, settings

from tests.differential.calls import Call
from tests.differential.play import compare, play
from tests.differential.random_calls import sequences
from tests.differential.random_models import model_sequences
from tests.differential.refusals import RefusalCheck
from tests.servers import Server

# About 0.7 s each, with both servers on two cores. RANDOM_SEQUENCES=1000 searches deeper.
SEQUENCES = int(os.environ.get("RANDOM_SEQUENCES", "30"))

seeded = settings(
    max_examples=SEQUENCES,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@seeded
@given(calls=sequences())
def test_random_sequences(
    mlflow_server: Server, stack_server: Server, refusal_check: RefusalCheck, calls: list[Call]
) -> None:
    """Whatever is done with experiments and runs, both servers answer each call alike."""
    _alike(mlflow_server, stack_server, refusal_check, calls)


@seeded
@given(calls=model_sequences())
def test_random_models(
    mlflow_server: Server, stack_server: Server, refusal_check: RefusalCheck, calls: list[Call]
) -> None:
    """Whatever is done with logged models and data sets, both servers answer each call alike."""
    _alike(mlflow_server, stack_server, refusal_check, calls)


def _alike(
    mlflow_server: Server, stack_server: Server, refusal_check: RefusalCheck, calls: list[Call]
) -> None:
    unique = f"random-{uuid.uuid4().hex}"
    theirs = play(mlflow_server.url, calls, unique)
    ours = play(stack_server.url, calls, unique, refusal_check.from_now())
    found = compare(calls, theirs, ours)
    played = [f"    [{number}] {call.describe()}" for number, call in enumerate(calls)]
    assert not found, "\n".join([f"{len(found)} calls differ:", *found, "played:", *played])
