"""The same fixed sequences of calls on MLflow's own server and on Runfold."""

import uuid

import pytest

from tests.differential import (
    artifacts,
    experiments,
    http_shapes,
    limits_lifecycle,
    limits_metrics,
    limits_names,
    limits_search,
    logged_models,
    metrics,
    runs,
    searches,
)
from tests.differential.calls import Case
from tests.differential.play import compare, play
from tests.servers import Server

CASES = (
    *experiments.CASES,
    *runs.CASES,
    *metrics.CASES,
    *logged_models.CASES,
    *artifacts.CASES,
    *searches.CASES,
    *http_shapes.CASES,
    *limits_names.CASES,
    *limits_metrics.CASES,
    *limits_lifecycle.CASES,
    *limits_search.CASES,
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_same_answers(mlflow_server: Server, runfold_server: Server, case: Case) -> None:
    """Runfold answers each call as MLflow does, but for the listed differences."""
    unique = f"{case.name}-{uuid.uuid4().hex[:8]}"
    theirs = play(mlflow_server.url, case.calls, unique)
    ours = play(runfold_server.url, case.calls, unique)
    found = compare(case.calls, theirs, ours)
    assert not found, "\n".join([f"{len(found)} calls differ:", *found])
