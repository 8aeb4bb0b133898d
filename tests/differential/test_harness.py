"""The differential tests themselves: they see each difference, and nothing else."""

import re
import uuid
from dataclasses import replace

import pytest

from tests.differential import experiments, runs
from tests.differential.calls import Case, get
from tests.differential.cases import CASES
from tests.differential.differences import DIFFERENCES
from tests.differential.play import Seen, compare, play
from tests.servers import Server

# Rules of the judge, not of single calls.
GENERAL = {"no-5xx", "error-json", "bare-nan"}

LIMITS = (
    [f"L-{number:02}" for number in range(1, 24)]
    + [f"L-{number}" for number in range(30, 52)]
    + [f"L-{number}" for number in range(60, 77)]
    + [f"L-{number}" for number in range(80, 94)]
)

# Limits of what this server does not offer yet: the model registry, traces, users, webhooks.
NOT_OFFERED = {"L-10", "L-11", "L-15", "L-16", "L-22", "L-23", "L-75", "L-86", "L-87"}

SAMPLE = (*experiments.CASES, runs.CREATE, runs.BATCH, runs.METRICS)


@pytest.mark.parametrize("case", SAMPLE, ids=lambda case: case.name)
def test_mlflow_equals_itself(mlflow_server: Server, case: Case) -> None:
    """A sequence played twice on one server shows no difference: ids and times are taken out."""
    calls = [replace(call, ours=None) for call in case.calls]
    first, second = (
        play(mlflow_server.url, calls, f"{case.name}-{uuid.uuid4().hex}") for _ in range(2)
    )
    assert not [line for line in compare(calls, first, second) if "no-5xx" not in line]


def test_a_difference_is_seen() -> None:
    """Another status, code, value or type of a value is reported, with its place."""
    call = get("runs/get")
    answer = Seen(200, "", {"run": {"info": {"start_time": 1}}})
    for other in (
        Seen(201, "", answer.body),
        Seen(200, "", {"run": {"info": {"start_time": 2}}}),
        Seen(200, "", {"run": {"info": {"start_time": 1.0}}}),
        Seen(200, "", {"run": {"info": {}}}),
    ):
        assert len(compare([call], [answer], [other])) == 1
    assert ".run.info.start_time" in compare([call], [answer], [other])[0]
    refusal = Seen(400, "INVALID_PARAMETER_VALUE", "")
    assert compare([call], [refusal], [Seen(400, "BAD_REQUEST", "")])
    assert not compare([call], [refusal], [Seen(400, "INVALID_PARAMETER_VALUE", "", "other text")])


def test_differences_are_all_stated_and_all_met() -> None:
    """A sequence differs only for a listed reason, and each listed reason is met by a sequence."""
    used = {call.ours.difference for case in CASES for call in case.calls if call.ours}
    assert used == set(DIFFERENCES) - GENERAL


def test_every_limit_has_a_sequence() -> None:
    """Each row of the list of limits is played, or belongs to what is not offered yet."""
    played = {match.group() for case in CASES if (match := re.match(r"L-\d+", case.name))}
    assert played | NOT_OFFERED == set(LIMITS)
    assert not played & NOT_OFFERED


def test_names_are_unique() -> None:
    """A case is found by its name."""
    names = [case.name for case in CASES]
    assert len(names) == len(set(names))
