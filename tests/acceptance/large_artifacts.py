"""Logs a large and a small artifact with the unmodified mlflow package, and reads them back.

    MLFLOW_TRACKING_URI=http://… python -m tests.acceptance.large_artifacts <folder>

The run's id and what was found go to `<folder>/done.json`.
"""

import hashlib
import json
import os
import sys
from pathlib import Path

import mlflow
from mlflow import MlflowClient


def main(folder: Path) -> None:
    """Everything that a session does with artifacts."""
    client = MlflowClient()
    large, small = folder / "large.bin", folder / "small.txt"
    large.write_bytes(os.urandom(12 * 1024 * 1024))
    small.write_text("small")
    run_id = client.create_run("0").info.run_id
    client.log_artifact(run_id, str(large), "model")
    client.log_artifact(run_id, str(small))
    found = {
        "run_id": run_id,
        "root": [file.path for file in client.list_artifacts(run_id)],
        "model": {file.path: file.file_size for file in client.list_artifacts(run_id, "model")},
    }
    back = Path(mlflow.artifacts.download_artifacts(run_id=run_id, dst_path=str(folder / "back")))
    same = {
        name: digest(back / path) == digest(folder / name)
        for name, path in (("large.bin", "model/large.bin"), ("small.txt", "small.txt"))
    }
    client.delete_run(run_id)
    (folder / "done.json").write_text(json.dumps({**found, "same": same}))


def digest(file: Path) -> str:
    """What tells whether two files are the same."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
