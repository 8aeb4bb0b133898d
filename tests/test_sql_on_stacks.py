"""SQL over every run, wherever log and views are kept."""

import json
import os
import subprocess

from tests.faults.wire import Wire
from tests.servers import BIN, Server, send
from tests.stacks import Stack

STATEMENT = (
    "SELECT l.key, l.value::VARCHAR AS latest, (SELECT list(m.value::VARCHAR ORDER BY step)"
    " FROM metrics m WHERE m.run_id = l.run_id AND m.key = l.key) AS points, p.value AS param"
    " FROM latest_metrics l JOIN params p USING (run_id) JOIN runs r USING (run_id)"
    " WHERE r.run_name = 'asked by SQL' ORDER BY l.key"
)
ROWS = [
    ["finite", "1.7976931348623157e+308", ["0.1", "1.7976931348623157e+308"], "é 'x'"],
    ["least", "-inf", ["-inf"], "é 'x'"],
    ["most", "inf", ["nan", "inf"], "é 'x'"],
    ["none", "nan", ["inf", "nan"], "é 'x'"],
]
POINTS = {
    "finite": ["0.1", "1.7976931348623157e308"],
    "least": ["-Infinity"],
    "most": ["NaN", "Infinity"],
    "none": ["Infinity", "NaN"],
}


def test_sql_sees_what_was_just_logged(shared_stack: Stack, stack_server: Server) -> None:
    """By HTTP and by the command alike: params, points and latest values, also what is not finite,
    of a run that was logged a moment ago."""
    wire = Wire(stack_server.url)
    run_id = wire.run(wire.experiment("sql"), "asked by SQL")
    metrics = [
        {"key": key, "value": value if value[-1].isalpha() else float(value), "timestamp": 1}
        | {"step": step}
        for key, values in POINTS.items()
        for step, value in enumerate(values)
    ]
    wire.done("runs/log-batch", {"run_id": run_id, "metrics": metrics})
    wire.done("runs/log-parameter", {"run_id": run_id, "key": "p", "value": "é 'x'"})
    wire.close()
    body = json.dumps({"statement": STATEMENT}).encode()
    headers = {"Content-Type": "application/json"}
    told = send(stack_server.url, "POST", "/api/2.0/runfold/sql", body, headers)
    assert told.status == 200, told.body
    assert json.loads(told.body)["rows"] == ROWS
    place = ["--home", str(shared_stack.home), *shared_stack.flags]
    done = subprocess.run(
        [BIN / "runfold", "sql", *place, "--format", "ndjson", STATEMENT],
        env={**os.environ, **shared_stack.environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [list(json.loads(line).values()) for line in done.stdout.splitlines()] == ROWS
