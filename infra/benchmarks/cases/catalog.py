"""All cases, in the order in which they run."""

from __future__ import annotations

from infra.benchmarks.bench import Case
from infra.benchmarks.cases import (
    backends,
    disk,
    history,
    logging,
    questions,
    runs,
    sql,
    upkeep,
)

CASES: tuple[Case, ...] = (
    *logging.CASES,
    *runs.CASES,
    *history.CASES,
    *disk.CASES,
    *upkeep.CASES,
    *sql.CASES,
    *questions.CASES,
    *backends.CASES,
)
