"""The rows of the table: what is measured, in which unit, and what Runfold must reach.

Absolute times and rates were set on a machine where the yardstick reached REFERENCE_RATES; on
another they scale by what the yardstick reaches there. Bytes do not scale, and neither do the times
of SQL and of reads past one machine, which their issues name for any machine of two cores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

RUNFOLD, MLFLOW, FASTTRACKML, YARDSTICK = "runfold", "mlflow", "fasttrackml", "yardstick"
SERVERS = (MLFLOW, FASTTRACKML, YARDSTICK, RUNFOLD)
TITLES = {
    RUNFOLD: "Runfold",
    MLFLOW: "MLflow",
    FASTTRACKML: "FastTrackML",
    YARDSTICK: "yardstick",
}

REFERENCE_RATES: Mapping[str, float] = {
    "log-batch": 1_100_000,
    "log-batch-50": 226_000,
    "log-metric": 12_500,
}
"""What the yardstick reached, by row, on the machine of the absolute targets."""


@dataclass(frozen=True)
class Against:
    """At least so many times as good as another server, measured on a row in the same run."""

    server: str
    factor: float
    row: str | None = None
    """The other server's row, where it is not the same one."""
    named: str | None = None
    """What the table calls what it is compared with, where the server's name would not say it."""


@dataclass(frozen=True)
class Limit:
    """An absolute bound: at least, or at most where less is better."""

    value: float
    scales: bool = False
    """True for times and rates, which depend on the machine."""


Target = Against | Limit


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    group: str
    """Rows of a group stand together, and share a chart."""
    title: str
    unit: str
    better: Literal["more", "less"]
    targets: tuple[Target, ...] = ()


LOGGING = "Logging"
READING = "Searching and reading"
BESIDE = "Reading beside the load"
STORING = "Disk, memory, upkeep"
SQL = "SQL"
PAST = "Past one machine"

QUERIES = {
    "newest": "newest",
    "metric": "metric filter",
    "metric-param": "metric and param filter, ordered by metric",
    "tag-status": "tag and status",
    "order": "ordered by metric",
    "param-like": "param LIKE",
    "name": "run name LIKE",
}
"""The searches, by the end of their rows' names."""


def _times(mlflow: float, fasttrackml: float, yardstick: float | None = None) -> tuple[Target, ...]:
    wanted = [Against(MLFLOW, mlflow), Against(FASTTRACKML, fasttrackml)]
    if yardstick is not None:
        wanted.append(Against(YARDSTICK, yardstick))
    return tuple(wanted)


_LOGGING_ROWS = (
    Row(
        "log-batch",
        LOGGING,
        "log-batch, 1,000 points, 20 keys, 8 connections, 8 runs",
        "points/s",
        "more",
        _times(25, 10, 0.35),
    ),
    Row(
        "sustained",
        LOGGING,
        "the same, kept up for a minute",
        "points/s",
        "more",
        (Against(YARDSTICK, 0.35, "log-batch"), Against(MLFLOW, 25, "log-batch")),
    ),
    Row(
        "sustained-lag",
        LOGGING,
        "until the views have caught up after it",
        "s",
        "less",
        (Limit(2, scales=True),),
    ),
    Row(
        "log-batch-50",
        LOGGING,
        "log-batch, 50 points, 8 connections",
        "points/s",
        "more",
        _times(30, 7, 0.55),
    ),
    Row(
        "log-metric",
        LOGGING,
        "log-metric, 16 connections",
        "calls/s",
        "more",
        _times(40, 3, 0.5),
    ),
    Row("log-metric-p99", LOGGING, "its p99", "ms", "less", (Against(FASTTRACKML, 1),)),
    Row(
        "one-run",
        LOGGING,
        "log-batch, 100 points, 64 connections to one run",
        "points/s",
        "more",
        _times(25, 8),
    ),
    Row("one-run-5xx", LOGGING, "its answers of 5xx", "answers", "less", (Limit(0),)),
    Row(
        "runs",
        LOGGING,
        "create run and log-batch (10 params, 10 metrics, 3 tags), 4 connections",
        "runs/s",
        "more",
        _times(20, 2),
    ),
)

_READING_ROWS = (
    *(
        Row(
            f"search-{name}",
            READING,
            f"search over 5,000 runs, 100 rows: {title}",
            "ms",
            "less",
            (Against(FASTTRACKML, 2),),
        )
        for name, title in QUERIES.items()
    ),
    *(
        Row(
            f"search-100k-{name}",
            READING,
            f"search over 100,000 runs: {title}",
            "ms",
            "less",
            (Against(RUNFOLD, 1 / 3, f"search-{name}", "itself over 5,000 runs"),),
        )
        for name, title in QUERIES.items()
    ),
    Row(
        "page",
        READING,
        "page through 5,000 runs, 1,000 a page",
        "s",
        "less",
        (Limit(0.35, scales=True),),
    ),
    Row("read", READING, "read 100,000 points of one key", "points/s", "more", _times(10, 5)),
    Row(
        "chart",
        READING,
        "320-point chart of a key with 100,000 points",
        "ms",
        "less",
        (Limit(10, scales=True),),
    ),
    Row(
        "chart-10m",
        READING,
        "320-point chart of a key with 10 million points",
        "ms",
        "less",
        (Limit(50, scales=True),),
    ),
)

_BESIDE_ROWS = (
    Row("beside-rate", BESIDE, "the load of the first case, with two readers", "points/s", "more"),
    Row(
        "beside-get",
        BESIDE,
        "runs/get of another run, p99",
        "ms",
        "less",
        (Limit(100, scales=True),),
    ),
    Row(
        "beside-search",
        BESIDE,
        "runs/search of 100 rows, p99",
        "ms",
        "less",
        (Limit(300, scales=True),),
    ),
)

_STORING_ROWS = (
    Row(
        "disk-curves",
        STORING,
        "bytes on disk per point, log and lake, noisy float32 curves",
        "bytes",
        "less",
        (Limit(11),),
    ),
    Row("disk-curves-lake", STORING, "of which the lake", "bytes", "less", (Limit(4.7),)),
    Row(
        "disk-random",
        STORING,
        "bytes on disk per point, uniformly random float64",
        "bytes",
        "less",
        (Limit(18),),
    ),
    Row("idle", STORING, "resident memory, idle", "MB", "less"),
    Row(
        "load-memory",
        STORING,
        "resident memory under the first case",
        "MB",
        "less",
        (Limit(500),),
    ),
    Row(
        "rebuild-points",
        STORING,
        "rebuild of all views: points",
        "points/s",
        "more",
        (Limit(500_000, scales=True),),
    ),
    Row(
        "rebuild-journal",
        STORING,
        "rebuild of all views: journal events",
        "events/s",
        "more",
        (Limit(20_000, scales=True),),
    ),
    Row("rebuild-memory", STORING, "rebuild: resident memory", "MB", "less", (Limit(500),)),
    Row(
        "gc-memory",
        STORING,
        "gc of a run with 6.5 million points: memory above idle",
        "MB",
        "less",
        (Limit(200),),
    ),
    Row("gc-time", STORING, "gc of that run", "s", "less", (Limit(30, scales=True),)),
)

_SQL_ROWS = (
    # The issue of SQL names its times for two cores, and not for the machine of the others: these
    # do not scale.
    Row(
        "sql-curve",
        SQL,
        "mean and quantiles of 2,000 curves in 200 parts, of 100 million points",
        "s",
        "less",
        (Limit(1.5),),
    ),
    Row("sql-curve-tenth", SQL, "of 200 curves, of 10 million; the peers by REST", "s", "less"),
    Row(
        "sql-best",
        SQL,
        "best run at a step, by experiment, of 100 million points",
        "s",
        "less",
        (Limit(0.5),),
    ),
    Row("sql-best-tenth", SQL, "of 10 million points; the peers by REST", "s", "less"),
    Row("sql-table", SQL, "run_table of 5,000 runs, 20 columns", "s", "less", (Limit(0.2),)),
    Row("sql-table-tenth", SQL, "of 500 runs; the peers by REST", "s", "less"),
    Row("sql-empty", SQL, "a query of nothing", "ms", "less", (Limit(60),)),
    Row(
        "sql-arrow",
        SQL,
        "every point of a million streamed as Arrow",
        "rows/s",
        "more",
        (Limit(1_000_000),),
    ),
    Row(
        "sql-arrow-memory",
        SQL,
        "memory for four million of them, above that for one",
        "MB",
        "less",
        (Limit(50),),
    ),
    Row(
        "sql-beside-rate",
        SQL,
        "log-batch beside one query a second over every point",
        "points/s",
        "more",
    ),
    Row(
        "sql-beside-share",
        SQL,
        "of the rate without queries, measured just before",
        "%",
        "more",
        (Limit(80),),
    ),
    Row("sql-beside-query", SQL, "such a query", "ms", "less"),
    Row("sql-hostile-p99", SQL, "log-batch beside two clients of bombs, p99", "ms", "less"),
    Row(
        "sql-hostile-times",
        SQL,
        "of what it is without them",
        "times",
        "less",
        (Limit(2),),
    ),
)


def _past_rows(log: str, title: str, wanted: Against) -> tuple[Row, ...]:
    """The rows of one kind of log; the views are on PostgreSQL in all of them."""
    return (
        Row(
            log,
            PAST,
            f"log on {title}: the load of the first case through one API process",
            "points/s",
            "more",
            (wanted,),
        ),
        Row(
            f"{log}-two",
            PAST,
            f"log on {title}: the same through two API processes",
            "points/s",
            "more",
            (Against(RUNFOLD, 1, log, "one API process"),),
        ),
        Row(
            f"{log}-lag",
            PAST,
            f"log on {title}: until the views have caught up after these loads",
            "s",
            "less",
            (Limit(10),),
        ),
        Row(
            f"{log}-fresh",
            PAST,
            f"log on {title}: a read right after a write, p50",
            "ms",
            "less",
            (Limit(30),),
        ),
        Row(f"{log}-fresh-p99", PAST, f"log on {title}: its p99", "ms", "less", (Limit(150),)),
    )


_PAST_ROWS = (
    *_past_rows("postgresql", "PostgreSQL", Against(MLFLOW, 10, None, "MLflow on PostgreSQL")),
    *_past_rows("kafka", "Kafka", Against(MLFLOW, 8, "log-batch", "MLflow on SQLite")),
)

ROWS: tuple[Row, ...] = (
    *_LOGGING_ROWS,
    *_READING_ROWS,
    *_BESIDE_ROWS,
    *_STORING_ROWS,
    *_SQL_ROWS,
    *_PAST_ROWS,
)
