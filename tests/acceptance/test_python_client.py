"""The unmodified mlflow package logs to Runfold; what it reads back is what it logged.

And all of it again after every view and the lake were deleted: equal byte for byte.
"""

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.reads import read_everything
from tests.servers import MLFLOW_QUIET, Server
from tests.stacks import Stack, new_stack, started

SCRIPT_SECONDS_MAX = 280

# The first test waits for the training and the reading back: 40 s, or minutes on a busy machine.
pytestmark = pytest.mark.timeout(600)


@dataclass(frozen=True)
class Session:
    """A server with what was logged to it, and what was read back."""

    server: Server
    stack: Stack
    folder: Path
    logged: dict[str, Any]
    read: dict[str, Any]


def run_script(module: str, server: Server, folder: Path) -> None:
    """Runs a module as a user's own process, whose server is this one."""
    done = subprocess.run(
        [sys.executable, "-m", module, str(folder)],
        env={**os.environ, **MLFLOW_QUIET, "MLFLOW_TRACKING_URI": server.url},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SCRIPT_SECONDS_MAX,
        check=False,
    )
    assert done.returncode == 0, f"{module} failed:\n{done.stderr[-4000:]}\n{server.tail()}"


@pytest.fixture(scope="module")
def session(
    stack_name: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Session]:
    """A server on each stack, trained against once and read from once."""
    base = tmp_path_factory.mktemp("python-client")
    folder = base / "client"
    with (
        new_stack(stack_name, base / "home", request) as stack,
        started(stack.server()) as server,
    ):
        run_script("tests.acceptance.train", server, folder)
        run_script("tests.acceptance.read_back", server, folder)
        logged = json.loads((folder / "logged.json").read_text())
        read = json.loads((folder / "read.json").read_text())
        yield Session(server, stack, folder, logged, read)


def test_autolog_of_a_grid_search(session: Session) -> None:
    """Parent and child runs, params, metrics, data sets, and models that predict the same."""
    logged, read = session.logged["grid_search"], session.read["grid_search"]
    run = read["run"]
    assert run["status"] == "FINISHED"
    assert run["ended"]
    for key, value in logged["best_params"].items():
        assert run["params"][f"best_{key}"] == value
    assert float(run["metrics"]["best_cv_score"]) == logged["best_score"]
    assert float(run["metrics"]["GridSearchCV_score_test"]) == logged["test_score"]
    assert len(read["children"]) == logged["children"]
    tried = {
        (child["params"]["max_depth"], child["params"]["n_estimators"])
        for child in read["children"]
    }
    assert tried == {("2", "5"), ("2", "10"), ("4", "5"), ("4", "10")}
    assert all("mean_test_score" in child["metrics"] for child in read["children"])
    assert [used["tags"]["mlflow.data.context"] for used in run["datasets"]] == ["train"]
    assert {"model", "best_estimator"} <= set(read["models"])
    assert all(predicted == logged["predictions"] for predicted in read["predictions"].values())
    assert "cv_results.csv" in read["files"]
    assert read["cv_results"] == 1 + logged["children"]


def test_nested_runs(session: Session) -> None:
    """Three levels with params, tags, a note, a curve, NaN and infinity; and a run that failed."""
    logged, read = session.logged["nested"], session.read["nested"]
    runs = read["runs"]
    assert [runs[name]["parent"] for name in ("outer", "middle", "inner")] == [
        None,
        logged["outer"],
        logged["middle"],
    ]
    assert runs["outer"]["params"] == {"depth": "0", "long": "x" * 5000, "unicode": "ünï 日本"}
    assert runs["outer"]["tags"] == {"level": "0"}
    assert runs["outer"]["note"] == "The outer run"
    assert runs["middle"]["tags"] == {"level": "1", "path": "a/b c"}
    assert [runs[name]["status"] for name in ("inner", "broken")] == ["FINISHED", "FAILED"]
    assert read["curve"] == [[step, value] for step, value in enumerate(logged["curve"])]
    assert runs["inner"]["metrics"]["loss"] == str(logged["curve"][-1])
    assert math.isnan(float(runs["inner"]["metrics"]["nan"]))
    assert read["infinite"] == [str(sys.float_info.max)]
    assert read["experiment_tags"]["team"] == "vision"
    assert read["experiment_tags"]["mlflow.note.content"] == "# Nested\nruns"
    assert read["found"] == ["inner"]


def test_artifacts(session: Session) -> None:
    """Figure, table, dict, text, image, bytes and folders come back as they went."""
    logged, read = session.logged["artifacts"], session.read["artifacts"]
    for name in ("table", "dict", "text", "tree"):
        assert read[name] == logged[name]
    assert read["same_bytes"]
    assert read["png"] == "PNG"
    assert read["image"] == [8, 8, 3]
    assert read["files"]["raw/bytes.bin"] == 256_000
    assert {"plots/curve.png", "config/b.yaml", "tree/deep/er/b c.txt"} <= set(read["files"])


def test_datasets(session: Session) -> None:
    """A data set is an input of two runs, with context and tags, and can be searched by."""
    logged, read = session.logged["inputs"], session.read["inputs"]
    named = {"name": logged["name"], "digest": logged["digest"]}
    assert read["run"]["datasets"] == [
        {**named, "tags": {"mlflow.data.context": "training", "split": "all"}}
    ]
    assert read["other"]["datasets"] == [{**named, "tags": {"mlflow.data.context": "eval"}}]
    assert float(read["run"]["metrics"]["rows"]) == logged["rows"]
    assert read["found"] == [logged["run_id"]]


def test_system_metrics(session: Session) -> None:
    """The client's monitor wrote the machine's numbers."""
    metrics = session.read["system_metrics"]["metrics"]
    assert "system/cpu_utilization_percentage" in metrics
    assert float(metrics["system/disk_available_megabytes"]) > 0


def test_asynchronous_logging(session: Session) -> None:
    """What the client's own threads sent is all there, once."""
    logged, read = session.logged["async"], session.read["async"]
    assert read["a"] == [[step, step * 0.5] for step in range(logged["steps"])]
    assert read["b"] == [[step, -float(step)] for step in range(logged["steps"])]
    assert len(read["run"]["params"]) == logged["params"]
    assert len(read["run"]["tags"]) == logged["tags"]


def test_logged_models(session: Session) -> None:
    """Models of a flavour: params, tags, a metric on a data set, search, and the model itself."""
    logged, read = session.logged["models"], session.read["models"]
    for number, made in enumerate(logged["models"]):
        model = read["models"][made["model_id"]]
        assert model["name"] == f"logistic-{number}"
        assert model["status"] == "READY"
        assert model["params"] == {"C": made["C"]}
        dataset = logged["dataset"]
        # The client also links the run's earlier metrics, without a data set, to a later model.
        on_dataset = [metric for metric in model["metrics"] if metric[2] is not None]
        assert on_dataset == [["accuracy", made["accuracy"], dataset["name"], dataset["digest"]]]
        assert model["source_run_id"] == logged["run_id"]
        assert model["predictions"] == made["predictions"]
    first, second = (made["model_id"] for made in logged["models"])
    assert read["models"][first]["tags"] == {"kind": "logistic", "stage": "best"}
    assert read["models"][second]["tags"] == {"kind": "logistic"}
    assert read["best"] == [first]
    assert sorted(read["run"]["model_outputs"]) == sorted([first, second])


def test_deletions(session: Session) -> None:
    """Deleted runs and experiments are told as deleted, restored ones as active."""
    read = session.read["deletions"]
    assert read["stages"] == ["deleted", "active", "active"]
    assert read["gone"] == ["gone", "deleted"]
    assert read["back"] == ["back again", "active"]
    assert "gone" not in read["active"]


def test_every_read_is_equal_after_a_rebuild(session: Session) -> None:
    """All views and the lake are deleted; each answer made from the log again is the same bytes."""
    before = read_everything(session.server.url)
    assert len(before) > 300
    session.server.stop()
    session.stack.delete_views()
    session.server.start()
    after = read_everything(session.server.url)
    assert list(after) == list(before)
    different = [read for read in before if before[read] != after[read]]
    assert not different, "\n".join(
        f"{read}\n  before {before[read][:500]!r}\n  after  {after[read][:500]!r}"
        for read in different[:5]
    )
    run_script("tests.acceptance.read_back", session.server, session.folder)
    assert json.loads((session.folder / "read.json").read_text()) == session.read
