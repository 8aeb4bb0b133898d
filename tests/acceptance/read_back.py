"""Reads back, with the unmodified mlflow package, what `train.py` logged.

    MLFLOW_TRACKING_URI=http://… python -m tests.acceptance.read_back <folder>

It takes the ids from `<folder>/logged.json` and writes what it read to `<folder>/read.json`, in
the shape in which `test_python_client.py` compares it with what was logged.
"""

import json
import sys
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.entities import Run, ViewType

client = mlflow.MlflowClient()


def run_of(run_id: str) -> dict[str, Any]:
    run: Run = client.get_run(run_id)
    return {
        "name": run.info.run_name,
        "status": run.info.status,
        "stage": run.info.lifecycle_stage,
        "ended": run.info.end_time is not None and run.info.end_time >= run.info.start_time,
        "params": run.data.params,
        "metrics": {key: str(value) for key, value in run.data.metrics.items()},
        "tags": {
            key: value for key, value in run.data.tags.items() if not key.startswith("mlflow.")
        },
        "parent": run.data.tags.get("mlflow.parentRunId"),
        "note": run.data.tags.get("mlflow.note.content"),
        "datasets": [
            {
                "name": used.dataset.name,
                "digest": used.dataset.digest,
                "tags": {tag.key: tag.value for tag in used.tags},
            }
            for used in run.inputs.dataset_inputs
        ],
        "model_outputs": [made.model_id for made in run.outputs.model_outputs],
    }


def history(run_id: str, key: str) -> list[list[float]]:
    return [[point.step, point.value] for point in client.get_metric_history(run_id, key)]


def files_of(run_id: str, path: str = "") -> dict[str, int | None]:
    found: dict[str, int | None] = {}
    for file in client.list_artifacts(run_id, path or None):
        if file.is_dir:
            found.update(files_of(run_id, file.path))
        else:
            found[file.path] = file.file_size
    return found


def grid_search(logged: dict[str, Any]) -> dict[str, Any]:
    run_id = logged["run_id"]
    children = client.search_runs(
        [logged["experiment_id"]], f"tags.mlflow.parentRunId = '{run_id}'", order_by=["start_time"]
    )
    made = mlflow.search_logged_models(
        [logged["experiment_id"]], f"source_run_id = '{run_id}'", output_format="list"
    )
    models = {
        model.name: mlflow.sklearn.load_model(f"models:/{model.model_id}")
        for model in made
        if model.source_run_id == run_id
    }
    test = pd.DataFrame(logged["test_data"], columns=logged["columns"])
    return {
        "run": run_of(run_id),
        "children": [
            {"params": child.data.params, "metrics": sorted(child.data.metrics)}
            for child in children
        ],
        "models": sorted(models),
        "predictions": {name: model.predict(test).tolist() for name, model in models.items()},
        "files": files_of(run_id),
        "cv_results": len(
            mlflow.artifacts.load_text(f"runs:/{run_id}/cv_results.csv").splitlines()
        ),
    }


def nested(logged: dict[str, Any]) -> dict[str, Any]:
    experiment = client.get_experiment(logged["experiment_id"])
    return {
        "runs": {name: run_of(logged[name]) for name in ("outer", "middle", "inner", "broken")},
        "curve": history(logged["inner"], "loss"),
        "infinite": [str(value) for _, value in history(logged["inner"], "inf")],
        "experiment_tags": experiment.tags,
        "found": [
            run.info.run_name
            for run in client.search_runs(
                [logged["experiment_id"]], "metrics.loss < 0.01", order_by=["metrics.loss"]
            )
        ],
    }


def artifacts(logged: dict[str, Any]) -> dict[str, Any]:
    run_id = logged["run_id"]
    uri = f"runs:/{run_id}"
    tree = Path(mlflow.artifacts.download_artifacts(f"{uri}/tree"))
    binary = Path(mlflow.artifacts.download_artifacts(f"{uri}/raw/bytes.bin"))
    figure = Path(mlflow.artifacts.download_artifacts(f"{uri}/plots/curve.png"))
    return {
        "files": files_of(run_id),
        "table": client.load_table(logged["experiment_id"], "tables/scores.json", [run_id]).to_dict(
            "list"
        ),
        "dict": mlflow.artifacts.load_dict(f"{uri}/config/a.json"),
        "text": mlflow.artifacts.load_text(f"{uri}/notes/text.txt"),
        "image": np.asarray(mlflow.artifacts.load_image(f"{uri}/plots/black.png")).shape,
        "same_bytes": binary.read_bytes() == Path(logged["binary"]).read_bytes(),
        "png": figure.read_bytes()[1:4].decode(),
        "tree": {
            file.relative_to(tree).as_posix(): file.read_text()
            for file in sorted(tree.rglob("*"))
            if file.is_file()
        },
    }


def inputs(logged: dict[str, Any]) -> dict[str, Any]:
    found = client.search_runs(
        [logged["experiment_id"]],
        f"dataset.name = '{logged['name']}' AND dataset.context = 'training'",
    )
    return {
        "run": run_of(logged["run_id"]),
        "other": run_of(logged["other"]),
        "found": [run.info.run_id for run in found],
    }


def asynchronous(logged: dict[str, Any]) -> dict[str, Any]:
    return {
        "run": run_of(logged["run_id"]),
        "a": history(logged["run_id"], "a"),
        "b": history(logged["run_id"], "b"),
    }


def models(logged: dict[str, Any]) -> dict[str, Any]:
    features = pd.DataFrame(logged["features"], columns=logged["columns"])
    read = {}
    for made in logged["models"]:
        model = client.get_logged_model(made["model_id"])
        read[made["model_id"]] = {
            "name": model.name,
            "status": str(model.status),
            "params": model.params,
            "tags": {key: value for key, value in model.tags.items() if key in ("kind", "stage")},
            "metrics": [
                [metric.key, metric.value, metric.dataset_name, metric.dataset_digest]
                for metric in model.metrics
            ],
            "source_run_id": model.source_run_id,
            "predictions": mlflow.sklearn.load_model(made["uri"]).predict(features).tolist(),
        }
    best = mlflow.search_logged_models(
        [logged["experiment_id"]],
        "metrics.accuracy > 0.5 AND params.C = '0.1'",
        order_by=[{"field_name": "metrics.accuracy", "ascending": False}],
        output_format="list",
    )
    return {"run": run_of(logged["run_id"]), "models": read, "best": [it.model_id for it in best]}


def deletions(logged: dict[str, Any]) -> dict[str, Any]:
    experiments = {
        experiment.experiment_id: [experiment.name, experiment.lifecycle_stage]
        for experiment in client.search_experiments(view_type=ViewType.ALL)
    }
    return {
        "stages": [run_of(run_id)["stage"] for run_id in logged["runs"]],
        "gone": experiments[logged["gone"]],
        "back": experiments[logged["back"]],
        "active": sorted(it.name for it in client.search_experiments()),
    }


def main(folder: Path) -> None:
    logged = json.loads((folder / "logged.json").read_text())
    read = {
        "grid_search": grid_search(logged["grid_search"]),
        "nested": nested(logged["nested"]),
        "artifacts": artifacts(logged["artifacts"]),
        "inputs": inputs(logged["inputs"]),
        "system_metrics": run_of(logged["system_metrics"]["run_id"]),
        "async": asynchronous(logged["async"]),
        "models": models(logged["models"]),
        "deletions": deletions(logged["deletions"]),
    }
    (folder / "read.json").write_text(json.dumps(read))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
