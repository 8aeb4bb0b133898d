"""The table macros of SQL queries: runs with a column a param, metric and tag, and thinned curves.

Both make their SQL from what they are called with and hand it to DuckDB's `query`, which takes one
SELECT: a macro's columns, and the number of points of `lttb`, must be known before it is run.
"""

from __future__ import annotations

from collections.abc import Sequence

from projections.sql_rows import quoted

PIVOTED = {"params": "params", "latest_metrics": "metrics", "tags": "tags"}
"""The tables whose keys become columns, and what the columns' names begin with."""


CURVES = """CREATE MACRO curves(metric, points := 200) AS TABLE FROM query(
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


QUERIES = (
    "SELECT experiment_id, 'SELECT * FROM (FROM runs WHERE experiment_id = ''' || experiment_id"
    " || ''')' || " + " || ".join(_pivot_of(table) for table in PIVOTED) + " AS query"
    " FROM (SELECT DISTINCT experiment_id FROM runs) LEFT JOIN ("
    + " UNION ALL ".join(_columns_of(table, prefix) for table, prefix in PIVOTED.items())
    + ") USING (experiment_id) GROUP BY experiment_id"
)
"""Asked of the tables it gives, for each experiment, the query that makes a row of each run."""


def run_table(queries: Sequence[tuple[str, str]]) -> str:
    """The macro over what QUERIES has found. Its text holds the queries, for DuckDB has to know
    what `query` is given before anything is read."""
    pairs = ", ".join(f"{quoted(one)}: {quoted(query)}" for one, query in queries)
    known = f"MAP {{{pairs}}}[experiment::VARCHAR]" if pairs else "NULL"
    return (
        "CREATE MACRO run_table(experiment) AS TABLE FROM query("
        f"coalesce({known}, 'FROM runs WHERE false'))"
    )
