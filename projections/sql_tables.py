"""The tables of SQL queries and of the lake: their names, columns, types and units.

Declared once: the snapshot of a query, the lake's files and docs/sql.md follow from it.
`python -m projections.sql_tables docs/sql.md` writes the tables' section of that page anew.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

TEXTS = "MAP(VARCHAR, VARCHAR)"
MS_MAX = 9_000_000_000_000_000
"""Times farther from 1970 than this, which no TIMESTAMP holds, are null there."""
BEGIN = "<!-- The tables, made by `python -m projections.sql_tables docs/sql.md`. -->"
END = "<!-- The end of the tables. -->"


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its DuckDB type, what it says, and the unit of its numbers."""

    name: str
    type: str
    description: str
    unit: str = ""


@dataclass(frozen=True, slots=True)
class SqlTable:
    """One table that a query finds."""

    name: str
    description: str
    columns: tuple[Column, ...]

    def column_names(self) -> tuple[str, ...]:
        """The names of its columns, in order."""
        return tuple(column.name for column in self.columns)


def _text(name: str, description: str) -> Column:
    return Column(name, "VARCHAR", description)


def _time(name: str, description: str) -> tuple[Column, Column]:
    """A time as a person reads it, and as it was given."""
    return (
        Column(name, "TIMESTAMP", description, "UTC"),
        Column(f"{name}_ms", "BIGINT", f"`{name}` as it was given.", "ms since 1970"),
    )


_EXPERIMENT = _text("experiment_id", "The experiment that it belongs to.")
_RUN = _text("run_id", "The run that it belongs to.")
_STAGE = _text("lifecycle_stage", "`active` or `deleted`.")

TABLES: tuple[SqlTable, ...] = (
    SqlTable(
        "experiments",
        "One row an experiment, deleted ones too.",
        (
            _text("experiment_id", "The experiment's id."),
            _text("name", "Its name."),
            _text("artifact_location", "Below this URI are the artifacts of its runs."),
            _STAGE,
            *_time("creation_time", "When it was created."),
            *_time("last_update_time", "When it was last renamed, deleted, restored or tagged."),
            Column("tags", TEXTS, "Its tags: `tags['team']` is one of them, or null."),
        ),
    ),
    SqlTable(
        "runs",
        "One row a run, deleted ones too.",
        (
            _text("run_id", "The run's id."),
            _EXPERIMENT,
            _text("run_name", "Its name."),
            _text("user_id", "Who started it, as the client said."),
            _text("status", "`RUNNING`, `SCHEDULED`, `FINISHED`, `FAILED` or `KILLED`."),
            _STAGE,
            *_time("start_time", "When it started, as the client said."),
            *_time("end_time", "When it ended, as the client said; null while it has not."),
            Column("duration_ms", "BIGINT", "From start to end; null while it has no end.", "ms"),
            *_time("deleted_time", "When it was deleted; null where it is active."),
            _text("artifact_uri", "Where its artifacts are."),
        ),
    ),
    SqlTable(
        "params",
        "One row a param of a run. All values are text: `TRY_CAST(value AS DOUBLE)`.",
        (_RUN, _EXPERIMENT, _text("key", "The param's name."), _text("value", "Its value.")),
    ),
    SqlTable(
        "tags",
        "One row a tag of a run, MLflow's own (`mlflow.…`) too.",
        (_RUN, _EXPERIMENT, _text("key", "The tag's name."), _text("value", "Its value.")),
    ),
    SqlTable(
        "latest_metrics",
        "One row a metric of a run: its latest point, which is the one with the greatest step, "
        "then timestamp, then value.",
        (
            _RUN,
            _EXPERIMENT,
            _text("key", "The metric's name."),
            Column("value", "DOUBLE", "The value; NaN and the infinities are themselves."),
            Column("step", "BIGINT", "The step, any whole number of 64 bits."),
            *_time("timestamp", "When it was measured, as the client said."),
        ),
    ),
    SqlTable(
        "metrics",
        "One row a point of a metric, each once, those of the last moment too.",
        (
            _RUN,
            _EXPERIMENT,
            _text("key", "The metric's name."),
            Column("step", "BIGINT", "The step, any whole number of 64 bits."),
            *_time("timestamp", "When it was measured, as the client said."),
            Column("value", "DOUBLE", "The value; NaN and the infinities are themselves."),
            _text("model_id", "The logged model that it was measured on, or null."),
            _text("dataset_name", "The dataset that it was measured on, or null."),
            _text("dataset_digest", "The digest of that dataset, or null."),
        ),
    ),
    SqlTable(
        "datasets",
        "One row a dataset that is an input of a run.",
        (
            _RUN,
            _EXPERIMENT,
            _text("name", "The dataset's name."),
            _text("digest", "Its digest."),
            _text("context", "What the run used it for, such as `training`, or null."),
            _text("source_type", "What kind of source it comes from."),
            _text("source", "The source, mostly JSON."),
            _text("schema", "Its schema, mostly JSON, or null."),
            _text("profile", "Its profile, mostly JSON, or null."),
            Column("tags", TEXTS, "The tags of this input."),
        ),
    ),
    SqlTable(
        "logged_models",
        "One row a logged model, deleted ones too. What was measured on it is in `metrics`.",
        (
            _text("model_id", "The model's id."),
            _EXPERIMENT,
            _text("name", "Its name."),
            _text("source_run_id", "The run that made it; empty where none did."),
            _text("status", "`PENDING`, `READY` or `FAILED`."),
            _STAGE,
            _text("model_type", "What the client said that it is; may be empty."),
            *_time("creation_timestamp", "When it was created."),
            *_time("last_updated_timestamp", "When it was last changed."),
            _text("artifact_location", "Where its artifacts are."),
            Column("params", TEXTS, "Its params."),
            Column("tags", TEXTS, "Its tags."),
        ),
    ),
    SqlTable(
        "events",
        "The journal: what happened when, by whom, and whether it was accepted. Points that came "
        "without params or tags are not in the journal; what was purged is not in it any more.",
        (
            Column("position", "BIGINT", "Its place in the journal, counted from 1."),
            _text("type", "What happened, such as `run.created`: docs/events.md has them all."),
            Column("version", "INTEGER", "The version of its data."),
            _text("subject", "The id of the run, experiment or model that it is about."),
            _text("experiment_id", "The subject's experiment; null where it never came to be."),
            *_time("time", "When the server took it."),
            _text("actor", "Who sent it, or null where that is not known."),
            _text("origin", "Where it came from: address and user agent, or null."),
            _text("verdict", "`accepted` or `rejected`."),
            _text("error_code", "MLflow's error code, where it was rejected."),
            _text("error_message", "What its sender was told, where it was rejected."),
            _text("data", "Its data: JSON, so `data->>'name'` is one field of it."),
        ),
    ),
)

BY_NAME = {table.name: table for table in TABLES}


def timestamp(milliseconds: str) -> str:
    """The SQL of a TIMESTAMP from milliseconds since 1970; null where there is none."""
    return (
        f"CASE WHEN {milliseconds} BETWEEN -{MS_MAX} AND {MS_MAX}"
        f" THEN make_timestamp_ms({milliseconds}) END"
    )


def tables_markdown() -> str:
    """The tables' section of docs/sql.md."""
    lines: list[str] = [BEGIN, ""]
    for table in TABLES:
        lines += [f"### `{table.name}`", "", table.description, ""]
        lines += ["| column | type | unit | |", "|---|---|---|---|"]
        lines += [f"| `{c.name}` | {c.type} | {c.unit} | {c.description} |" for c in table.columns]
        lines.append("")
    return "\n".join([*lines, END])


def with_tables(page: str) -> str:
    """The page with its tables' section made anew. Raises ValueError where it has none."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no place for the tables: it lacks {BEGIN!r} or {END!r}")
    return before + tables_markdown() + after


if __name__ == "__main__":
    _page = Path(sys.argv[1])
    _page.write_text(with_tables(_page.read_text("utf-8")), "utf-8")
