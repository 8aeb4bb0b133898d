"""Many clients at once: one winner where there can be only one, and nobody's work lost."""

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from tests.faults.conftest import Connect
from tests.faults.wire import Reply, Wire
from tests.servers import Server

RACERS = 50
LOGGERS = 64
BATCHES = 20
POINTS = 20


def race(server: Server, racers: int, call: Callable[[Wire, int], Reply]) -> list[Reply]:
    """Lets every racer call at the same moment, each over a connection of its own."""
    gate = threading.Barrier(racers)

    def one(number: int) -> Reply:
        wire = Wire(server.url)
        wire.get("experiments/get", experiment_id="0")  # The connection stands before the start.
        gate.wait()
        try:
            return call(wire, number)
        finally:
            wire.close()

    with ThreadPoolExecutor(racers) as pool:
        return list(pool.map(one, range(racers)))


def test_fifty_values_for_one_param(stack_server: Server, connect: Connect) -> None:
    """One of fifty is told 200 and its value stands; the others are told that it can't change."""
    wire = connect(stack_server)
    run_id = wire.run(wire.experiment("param race"), "raced")

    def call(racer: Wire, number: int) -> Reply:
        return racer.post(
            "runs/log-parameter", {"run_id": run_id, "key": "p", "value": str(number)}
        )

    replies = race(stack_server, RACERS, call)
    assert Counter(reply.status for reply in replies) == {200: 1, 400: RACERS - 1}
    assert Counter(reply.code for reply in replies)["INVALID_PARAMETER_VALUE"] == RACERS - 1
    winner = next(number for number, reply in enumerate(replies) if reply.status == 200)
    assert wire.run_data(run_id)["params"] == {"p": str(winner)}


def test_fifty_experiments_of_one_name(stack_server: Server, connect: Connect) -> None:
    """One of fifty makes the experiment; the others are told that the name is taken."""

    def call(racer: Wire, _number: int) -> Reply:
        return racer.post("experiments/create", {"name": "name race"})

    replies = race(stack_server, RACERS, call)
    assert Counter(reply.status for reply in replies) == {200: 1, 400: RACERS - 1}
    assert Counter(reply.code for reply in replies)["RESOURCE_ALREADY_EXISTS"] == RACERS - 1
    [made] = [reply.data["experiment_id"] for reply in replies if reply.status == 200]
    found = connect(stack_server).get("experiments/get-by-name", experiment_name="name race")
    assert found.data["experiment"]["experiment_id"] == made


def batch_of(run_id: str, logger: int, number: int) -> dict[str, object]:
    """A batch that no other logger sends: its points, one param and one tag."""
    name = f"{logger}-{number}"
    points = [
        {"key": f"m{logger}", "value": step / 8, "timestamp": 1, "step": number * POINTS + step}
        for step in range(POINTS)
    ]
    return {
        "run_id": run_id,
        "metrics": points,
        "params": [{"key": f"p{name}", "value": name}] if number % 2 else [],
        "tags": [{"key": f"t{name}", "value": name}] if number % 2 else [],
    }


def test_many_clients_log_to_one_run(stack_server: Server, connect: Connect) -> None:
    """Sixty-four clients log batches to one run: each is told 200, all is there, nothing twice."""
    wire = connect(stack_server)
    run_id = wire.run(wire.experiment("one run"), "shared")

    def call(client: Wire, logger: int) -> Reply:
        replies = [
            client.post("runs/log-batch", batch_of(run_id, logger, number))
            for number in range(BATCHES)
        ]
        return next((reply for reply in replies if reply.status != 200), replies[-1])

    replies = race(stack_server, LOGGERS, call)
    assert {reply.status for reply in replies} == {200}, replies
    names = {f"{logger}-{number}" for logger in range(LOGGERS) for number in range(1, BATCHES, 2)}
    data = wire.run_data(run_id)
    assert data["params"] == {f"p{name}": name for name in names}
    assert {key: data["tags"].get(key) for key in (f"t{name}" for name in names)} == {
        f"t{name}": name for name in names
    }
    expected = [(step, (step % POINTS) / 8) for step in range(BATCHES * POINTS)]
    for logger in range(LOGGERS):
        assert sorted(wire.history(run_id, f"m{logger}")) == expected
