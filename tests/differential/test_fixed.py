"""The same fixed sequences of calls on MLflow's own server and on Runfold."""

import uuid

import pytest

from tests.differential.calls import Case
from tests.differential.cases import CASES
from tests.differential.play import compare, play
from tests.differential.refusals import RefusalCheck
from tests.servers import Server
from tests.stacks import Stack


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_same_answers(
    mlflow_server: Server,
    shared_stack: Stack,
    stack_server: Server,
    refusal_check: RefusalCheck,
    case: Case,
) -> None:
    """Runfold answers each call as MLflow does, but for the listed differences."""
    if case.of_a_folder and shared_stack.keeps_artifacts_in_s3:
        pytest.skip("this stack's artifacts are in S3: tests/acceptance/test_s3_artifacts.py")
    unique = f"{case.name}-{uuid.uuid4().hex}"
    theirs = play(mlflow_server.url, case.calls, unique)
    ours = play(stack_server.url, case.calls, unique, refusal_check.from_now())
    found = compare(case.calls, theirs, ours)
    assert not found, "\n".join([f"{len(found)} calls differ:", *found])
