"""The table macros of SQL queries: runs with a column a param, metric and tag, and thinned curves.

Both make their SQL from what they are called with and hand it to DuckDB's `query`, which takes one
SELECT: a macro's columns, and the number of points of `lttb`, must be known before it is run.
"""

from __future__ import annotations

from collections.abc import Collection

from projections.sql_tables import BY_NAME

_PIVOTED = {"params": "params", "latest_metrics": "metrics", "tags": "tags"}
"""The tables whose keys become columns, and what the columns' names begin with."""


def macros(names: Collection[str]) -> tuple[str, ...]:
    """The statements that make those of the macros that are among these names."""
    return (
        *(_RUN_TABLE if "run_table" in names else ()),
        *((_CURVES,) if "curves" in names else ()),
    )


_CURVES = """CREATE MACRO curves(metric, points := 200) AS TABLE FROM query(
'SELECT experiment_id, run_id, key, point.x::BIGINT AS step, point.y AS value FROM (
  SELECT experiment_id, run_id, key, unnest(thinned) AS point FROM (
    SELECT experiment_id, run_id, key,
      lttb(step::DOUBLE, value, ' || points::BIGINT || ' ORDER BY step, timestamp_ms) AS thinned
    FROM metrics WHERE isfinite(value) AND key = ''' || replace(metric, '''', '''''') || '''
    GROUP BY ALL))')"""


def _columns_of(table: str, prefix: str) -> str:
    """The SQL of each experiment's keys with the column that each becomes.

    DuckDB's column names don't tell large letters from small: the second of two such keys is told
    from the first by a number.
    """
    return (
        f"SELECT experiment_id, '{table}' AS source, key, '{prefix}.' || key ||"
        " CASE WHEN place > 1 THEN ' (' || place || ')' ELSE '' END AS name"
        " FROM (SELECT *, row_number() OVER (PARTITION BY experiment_id, lower(key) ORDER BY key)"
        f" AS place FROM (SELECT DISTINCT experiment_id, key FROM {table}))"
    )


def _pivot_of(table: str) -> str:
    """The SQL of the text of a pivot, over the keys of one experiment."""
    pairs = (
        "string_agg('''' || replace(key, '''', '''''') || ''' AS \"' ||"
        " replace(name, '\"', '\"\"') || '\"', ', ' ORDER BY lower(key), key)"
        f" FILTER (WHERE source = '{table}')"
    )
    return (
        f"coalesce(' LEFT JOIN (PIVOT (SELECT run_id, key, value FROM {table} WHERE experiment_id ="
        f" ''' || experiment_id || ''') ON key IN (' || {pairs} ||"
        " ') USING first(value) GROUP BY run_id) USING (run_id)', '')"
    )


_RUN_TABLE = (
    "SET VARIABLE run_tables = (SELECT map_from_entries(list((experiment_id, query))) FROM"
    " (SELECT experiment_id, 'SELECT * FROM (FROM runs WHERE experiment_id = ''' || experiment_id"
    " || ''')' || " + " || ".join(_pivot_of(table) for table in _PIVOTED) + " AS query"
    " FROM (SELECT DISTINCT experiment_id FROM runs) LEFT JOIN ("
    + " UNION ALL ".join(_columns_of(table, prefix) for table, prefix in _PIVOTED.items())
    + ") USING (experiment_id) GROUP BY experiment_id))",
    "CREATE MACRO run_table(experiment) AS TABLE FROM query(coalesce("
    "getvariable('run_tables')[experiment::VARCHAR], 'FROM runs WHERE false'))",
)

COLUMNS = BY_NAME["runs"].column_names()
"""What `run_table` has before the params, metrics and tags."""
