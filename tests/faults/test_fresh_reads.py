"""A read sees every write that was acknowledged before it began."""

from tests.faults.conftest import Connect
from tests.faults.wire import Wire
from tests.servers import Server

ROUNDS = 1_000
ROUNDS_ELSEWHERE = 300
"""Over a server of another kind, where each takes longer."""
ROUNDS_PER_RUN = 100


def write(wire: Wire, run_id: str, number: int) -> None:
    """Logs a point and a tag: in turn as one batch, and as two calls on the two lanes."""
    point = {"key": "m", "value": number / 4, "timestamp": number, "step": number}
    tag = {"key": "n", "value": str(number)}
    if number % 2:
        wire.done("runs/log-batch", {"run_id": run_id, "metrics": [point], "tags": [tag]})
    else:
        wire.done("runs/set-tag", {"run_id": run_id, **tag})
        wire.done("runs/log-metric", {"run_id": run_id, **point})


def stale_reads(wire: Wire, experiment_id: str, run_id: str, number: int, first: int) -> list[str]:
    """Which of the three ways to read does not show the write of this number."""
    stale = []
    data = wire.run_data(run_id)
    if (data["tags"].get("n"), data["metrics"].get("m")) != (str(number), number / 4):
        stale.append(f"runs/get after write {number}: {data}")
    found = wire.done(
        "runs/search",
        {
            "experiment_ids": [experiment_id],
            "filter": f"tags.n = '{number}' AND metrics.m = {number / 4}",
        },
    )
    if [run["info"]["run_id"] for run in found.get("runs", [])] != [run_id]:
        stale.append(f"runs/search after write {number}: {found}")
    steps = sorted(step for step, _ in wire.history(run_id, "m"))
    if steps != list(range(first, number + 1)):
        stale.append(f"get-history after write {number}: {steps}")
    return stale


def test_reads_right_after_a_write(stack_server: Server, stack_name: str, connect: Connect) -> None:
    """runs/get, runs/search and get-history, each on another connection, are never stale."""
    writer, reader = connect(stack_server), connect(stack_server)
    experiment_id = writer.experiment("fresh reads")
    stale: list[str] = []
    run_id, first = "", 0
    for number in range(ROUNDS if stack_name == "sqlite" else ROUNDS_ELSEWHERE):
        if number % ROUNDS_PER_RUN == 0:
            run_id, first = writer.run(experiment_id, f"run {number}"), number
        write(writer, run_id, number)
        stale += stale_reads(reader, experiment_id, run_id, number, first)
    assert stale == []
