"""events: what the log holds, readable, with the verdicts."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from events.codec import Series, make_block
from events.event import JOURNAL, UNDIVIDED
from events.metrics import POINTS_LOGGED
from events.runs import RUN_BATCH_LOGGED, RUN_DELETED, Param, RunBatchLogged, RunDeleted
from projections.purges import Choice
from tests.homes import Home, open_home
from workers.cli import main
from workers.events_command import Printer, Selection, printable, run_events
from workers.gc import run_gc

A, B = "a" * 32, "b" * 32


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """Two experiments with a run each, and a model."""
    opened = open_home(tmp_path / "home")
    opened.experiment("1", "one")
    opened.run(A, "1", "a")
    opened.experiment("2", "two")
    opened.run(B, "2", "b")
    opened.model("m-b", "2", "mb")
    opened.fold()
    yield opened
    opened.close()


def run(home: Home, *arguments: str) -> str:
    """What the command prints."""
    result = CliRunner().invoke(main, ["events", "--home", str(home.folder), *arguments])
    assert result.exit_code == 0, result.output
    return result.output


def printed(home: Home, *arguments: str) -> list[dict[str, Any]]:
    """What the command prints as JSON."""
    lines = run(home, "--format", "json", *arguments).splitlines()
    return [json.loads(line) for line in lines]


def test_every_event_is_printed_once_in_order_of_time(home: Home) -> None:
    """Both lanes together, each in the order of its positions."""
    found = printed(home)
    assert [event["time"] for event in found] == sorted(event["time"] for event in found)
    for partition in UNDIVIDED:
        positions = [event["position"] for event in found if event["lane"] == partition.lane]
        assert positions == list(range(1, home.log.head(partition) + 1))


def test_a_run_a_model_an_experiment(home: Home) -> None:
    """Of a run or model its own events; of an experiment also those of its runs and models."""
    assert {event["subject"] for event in printed(home, "--run-id", A)} == {A}
    assert {event["lane"] for event in printed(home, "--run-id", A)} == {"journal", "points"}
    models = printed(home, "--model-id", "m-b")
    assert [event["type"] for event in models] == ["logged_model.created", "logged_model.tags_set"]
    found = printed(home, "--experiment-id", "2")
    assert {event["subject"] for event in found} == {"2", B, "m-b"}
    assert len(found) == 10


def test_a_lane_and_a_position(home: Home) -> None:
    """--after leaves out what is known already."""
    head = home.log.head(JOURNAL)
    found = printed(home, "--lane", "journal", "--after", str(head - 2))
    assert [event["position"] for event in found] == [head - 1, head]
    result = CliRunner().invoke(main, ["events", "--home", str(home.folder), "--after", "1"])
    assert result.exit_code == 2
    assert "--lane" in result.output


def test_the_verdict_of_a_rejected_event_is_told(home: Home) -> None:
    """With its code and message, in both formats; the others were accepted."""
    found = printed(home, "--run-id", A, "--lane", "journal")
    assert [event["verdict"] for event in found].count("rejected") == 1
    (refused,) = [event for event in found if event["verdict"] == "rejected"]
    assert refused["error_code"] == "INVALID_PARAMETER_VALUE"
    assert "already logged" in refused["message"]
    assert "rejected: INVALID_PARAMETER_VALUE: Changing param values" in run(home, "--run-id", A)


def test_points_are_decoded_and_thinned(home: Home) -> None:
    """Of 300 points four are shown with how many more there are; --full shows all."""
    text = run(home, "--run-id", A, "--lane", "points")
    assert "a-long, model_id m-aaaa" in text
    assert "0.0 at step 0, " in text
    assert "… 296 more …, 42.714285714285715 at step 299" in text
    (_, event) = printed(home, "--run-id", A, "--lane", "points", "--full")
    assert event["data"]["count"] == len(event["data"]["series"][0]["points"]) == 300


def test_values_that_json_has_no_numbers_for(home: Home) -> None:
    """NaN and the infinities are text."""
    values = (float("nan"), float("inf"))
    points = [(Series("m"), step, step, value) for step, value in enumerate(values)]
    home.append(POINTS_LOGGED, A, make_block(points))
    event = printed(home, "--run-id", A, "--lane", "points")[-1]
    shown = [point["value"] for point in event["data"]["series"][0]["points"]]
    assert shown == ["NaN", "Infinity"]


def test_a_scrubbed_event_says_so(home: Home) -> None:
    """After a purge the events are still listed, without their data."""
    home.append(RUN_DELETED, A, RunDeleted())
    run_gc(home.gc, Choice())
    text = run(home, "--run-id", A)
    assert "(its data was scrubbed by gc)" in text
    assert "a-param" not in text
    found = printed(home, "--experiment-id", "1")
    assert {event["subject"] for event in found} == {"1", A}


def test_nothing_that_a_client_sent_commands_the_terminal(home: Home) -> None:
    """Control characters are shown as escapes."""
    home.append(RUN_BATCH_LOGGED, A, RunBatchLogged([Param("\x1b[2J", "\x9b31m\u202e")]))
    text = run(home, "--run-id", A)
    assert "\x1b" not in text
    assert "\x9b" not in text
    assert "\u202e" not in text
    assert printable("a\x1bb\n") == r"a\x1bb\n"


def test_without_views_there_are_no_verdicts(tmp_path: Path) -> None:
    """A log alone can be read."""
    home = open_home(tmp_path / "home")
    home.experiment("1", "one")
    (event,) = printed(home)
    assert "verdict" not in event
    home.close()


def test_no_events_are_told_as_such(home: Home) -> None:
    """An unknown id is not an error, but not silence either."""
    assert "no such events" in run(home, "--run-id", "nope")


def test_what_comes_is_followed_with_its_verdict(home: Home) -> None:
    """--follow goes on with new events of the run and waits a moment for what they were found."""
    lines: list[str] = []
    stop = threading.Event()
    printer = Printer(home.views, lines.append, as_json=True)
    selection = Selection(lanes=("journal",), after=home.log.head(JOURNAL), experiment_id="1")
    thread = threading.Thread(
        target=run_events,
        args=(home.log, selection, printer),
        kwargs={"follow": True, "stop": stop.is_set},
    )
    thread.start()
    home.run("c" * 32, "1", "c")
    home.run("d" * 32, "2", "d")
    home.append(RUN_BATCH_LOGGED, A, RunBatchLogged([Param("p0", "another")]))
    home.fold()
    deadline = time.monotonic() + 10
    while len(lines) < 6 and time.monotonic() < deadline:
        time.sleep(0.02)
    stop.set()
    thread.join()
    found = [json.loads(line) for line in lines]
    assert [event["subject"] for event in found] == ["c" * 32] * 5 + [A]
    assert found[-1]["verdict"] == "rejected"


def test_control_c_ends_cleanly(home: Home) -> None:
    """Ctrl-C while following: no traceback, exit code 0."""
    command = [sys.executable, "-m", "workers.cli", "events", "--home", str(home.folder), "-f"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background job, as these tests may be, ignores Ctrl-C, and so would its child.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    assert "experiment.created" in process.stdout.readline()
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (0, "")
