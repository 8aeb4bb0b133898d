"""Training code as a user has it: the unmodified mlflow package, scikit-learn, its real data.

Run as a process of its own, for autolog changes the libraries that it watches:

    MLFLOW_TRACKING_URI=http://… python -m tests.acceptance.train <folder>

It writes what it logged to `<folder>/logged.json`; `read_back.py` reads the same back.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import matplotlib
import mlflow
import numpy as np
import pandas as pd
from sklearn.datasets import load_diabetes, load_iris
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, train_test_split

matplotlib.use("Agg")

from matplotlib import pyplot as plt

SYSTEM_METRICS_SECONDS = 1.6
CURVE = [1.0 / (step + 1) for step in range(200)]


def grid_search() -> dict[str, Any]:
    """A grid search over a forest, watched by autolog: a parent run, children, the best model."""
    mlflow.set_experiment("grid search")
    mlflow.sklearn.autolog(max_tuning_runs=4, log_input_examples=True)
    data = load_diabetes(as_frame=True)
    train, test, train_y, test_y = train_test_split(data.data, data.target, random_state=0)
    grid = {"max_depth": [2, 4], "n_estimators": [5, 10]}
    search = GridSearchCV(RandomForestRegressor(random_state=0), grid, cv=3)
    with mlflow.start_run(run_name="forest") as run:
        search.fit(train, train_y)
        score = search.score(test, test_y)
    mlflow.sklearn.autolog(disable=True)
    return {
        "run_id": run.info.run_id,
        "experiment_id": run.info.experiment_id,
        "best_params": {key: str(value) for key, value in search.best_params_.items()},
        "best_score": float(search.best_score_),
        "test_score": float(score),
        "children": 4,
        "predictions": search.predict(test).tolist(),
        "test_data": test.to_numpy().tolist(),
        "columns": list(test.columns),
    }


def nested_runs() -> dict[str, Any]:
    """Three levels of runs, with params, tags, metrics with steps, and a failed one."""
    mlflow.set_experiment("nested")
    mlflow.set_experiment_tags({"team": "vision", "mlflow.note.content": "# Nested\nruns"})
    with mlflow.start_run(
        run_name="outer", tags={"level": "0"}, description="The outer run"
    ) as outer:
        mlflow.log_params({"depth": 0, "long": "x" * 5000, "unicode": "ünï 日本"})
        with mlflow.start_run(run_name="middle", nested=True) as middle:
            mlflow.set_tags({"level": "1", "path": "a/b c"})
            with mlflow.start_run(run_name="inner", nested=True) as inner:
                for step, value in enumerate(CURVE):
                    mlflow.log_metric("loss", value, step=step)
                mlflow.log_metrics({"acc": 0.5, "nan": float("nan"), "inf": float("inf")}, step=3)
    try:
        with mlflow.start_run(run_name="broken") as broken:
            raise RuntimeError("as a user's code fails")
    except RuntimeError:
        failed = broken.info.run_id
    return {
        "experiment_id": outer.info.experiment_id,
        "outer": outer.info.run_id,
        "middle": middle.info.run_id,
        "inner": inner.info.run_id,
        "broken": failed,
        "curve": CURVE,
    }


def artifacts(folder: Path) -> dict[str, Any]:
    """A figure, a table, a dict, texts, a binary file, a folder."""
    mlflow.set_experiment("artifacts")
    binary = folder / "bytes.bin"
    binary.write_bytes(bytes(range(256)) * 1000)
    tree = folder / "tree"
    (tree / "deep" / "er").mkdir(parents=True)
    (tree / "a.txt").write_text("a")
    (tree / "deep" / "er" / "b c.txt").write_text("ünï")
    (tree / "empty.txt").write_text("")
    table = {"text": ["a", "b"], "score": [0.25, 0.75]}
    with mlflow.start_run(run_name="files") as run:
        figure, axes = plt.subplots()
        axes.plot(CURVE)
        mlflow.log_figure(figure, "plots/curve.png")
        plt.close(figure)
        mlflow.log_table(table, "tables/scores.json")
        mlflow.log_table({"text": ["c"], "score": [1.0]}, "tables/scores.json")
        mlflow.log_dict({"a": [1, 2, {"b": None}]}, "config/a.json")
        mlflow.log_dict({"a": 1}, "config/b.yaml")
        mlflow.log_text("line 1\nline 2\n", "notes/text.txt")
        mlflow.log_image(np.zeros((8, 8, 3), dtype=np.uint8), artifact_file="plots/black.png")
        mlflow.log_artifact(str(binary), "raw")
        mlflow.log_artifacts(str(tree), "tree")
    return {
        "run_id": run.info.run_id,
        "experiment_id": run.info.experiment_id,
        "table": {"text": ["a", "b", "c"], "score": [0.25, 0.75, 1.0]},
        "dict": {"a": [1, 2, {"b": None}]},
        "text": "line 1\nline 2\n",
        "binary": str(binary),
        "tree": {"a.txt": "a", "deep/er/b c.txt": "ünï", "empty.txt": ""},
    }


def inputs() -> dict[str, Any]:
    """A pandas data set as an input of two runs, with contexts and tags."""
    mlflow.set_experiment("inputs")
    frame = load_iris(as_frame=True).frame
    dataset = mlflow.data.from_pandas(frame, name="iris", targets="target")
    with mlflow.start_run(run_name="train") as run:
        mlflow.log_input(dataset, context="training", tags={"split": "all"})
        mlflow.log_metric("rows", len(frame), dataset=dataset)
    with mlflow.start_run(run_name="evaluate") as other:
        mlflow.log_input(dataset, context="eval")
    return {
        "run_id": run.info.run_id,
        "other": other.info.run_id,
        "experiment_id": run.info.experiment_id,
        "name": dataset.name,
        "digest": dataset.digest,
        "rows": len(frame),
    }


def system_metrics() -> dict[str, Any]:
    """System metrics, sampled by a thread of the client."""
    mlflow.set_experiment("system metrics")
    mlflow.enable_system_metrics_logging()
    mlflow.set_system_metrics_sampling_interval(0.2)
    mlflow.set_system_metrics_samples_before_logging(1)
    with mlflow.start_run(run_name="watched") as run:
        time.sleep(SYSTEM_METRICS_SECONDS)
    mlflow.disable_system_metrics_logging()
    return {"run_id": run.info.run_id}


def asynchronous() -> dict[str, Any]:
    """Metrics, params, tags and a figure that the client's own threads send."""
    mlflow.set_experiment("async")
    with mlflow.start_run(run_name="async") as run:
        for step in range(300):
            mlflow.log_metrics({"a": step * 0.5, "b": -float(step)}, step=step, synchronous=False)
        mlflow.log_params({f"p{number}": number for number in range(50)}, synchronous=False)
        mlflow.set_tags({f"t{number}": f"v{number}" for number in range(20)}, synchronous=False)
        mlflow.log_param("last", "1", synchronous=False).wait()
        mlflow.flush_async_logging()
    return {"run_id": run.info.run_id, "steps": 300, "params": 51, "tags": 20}


def logged_models() -> dict[str, Any]:
    """Models logged with a flavour, with params, tags and metrics on a data set."""
    mlflow.set_experiment("models")
    frame = load_iris(as_frame=True).frame
    features, target = frame.drop(columns="target"), frame["target"]
    dataset = mlflow.data.from_pandas(frame.head(60), name="iris-head", targets="target")
    made: list[dict[str, Any]] = []
    with mlflow.start_run(run_name="models") as run:
        for strength in (0.1, 1.0):
            model = LogisticRegression(C=strength, max_iter=500).fit(features, target)
            info = mlflow.sklearn.log_model(
                model,
                name=f"logistic-{len(made)}",
                params={"C": strength},
                tags={"kind": "logistic"},
                input_example=features.head(2),
                pip_requirements=["scikit-learn"],  # working them out takes 10 s a model
            )
            accuracy = float(model.score(features, target))
            mlflow.log_metric("accuracy", accuracy, model_id=info.model_id, dataset=dataset)
            made.append(
                {
                    "model_id": info.model_id,
                    "uri": info.model_uri,
                    "accuracy": accuracy,
                    "C": str(strength),
                    "predictions": model.predict(features).tolist(),
                }
            )
    mlflow.set_logged_model_tags(made[0]["model_id"], {"stage": "best"})
    return {
        "run_id": run.info.run_id,
        "experiment_id": run.info.experiment_id,
        "models": made,
        "features": features.to_numpy().tolist(),
        "columns": list(features.columns),
        "dataset": {"name": dataset.name, "digest": dataset.digest},
    }


def deletions() -> dict[str, Any]:
    """Runs and an experiment that were deleted, and some restored."""
    mlflow.set_experiment("deletions")
    runs = []
    for number in range(3):
        with mlflow.start_run(run_name=f"run {number}") as run:
            mlflow.log_metric("number", number)
        runs.append(run.info.run_id)
    client = mlflow.MlflowClient()
    client.delete_run(runs[0])
    client.delete_run(runs[1])
    client.restore_run(runs[1])
    gone = client.create_experiment("gone")
    client.create_run(gone)
    client.delete_experiment(gone)
    back = client.create_experiment("back")
    client.delete_experiment(back)
    client.restore_experiment(back)
    client.rename_experiment(back, "back again")
    return {"runs": runs, "gone": gone, "back": back}


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pd.options.mode.copy_on_write = True
    logged = {
        "grid_search": grid_search(),
        "nested": nested_runs(),
        "artifacts": artifacts(folder),
        "inputs": inputs(),
        "system_metrics": system_metrics(),
        "async": asynchronous(),
        "models": logged_models(),
        "deletions": deletions(),
    }
    (folder / "logged.json").write_text(json.dumps(logged))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
