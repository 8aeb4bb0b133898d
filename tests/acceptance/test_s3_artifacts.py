"""The unmodified mlflow package keeps artifacts in S3: in parts, past the server or through it."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.backends import S3Place
from tests.servers import BIN, MLFLOW_QUIET, runfold

SIZES = {
    "MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE": str(6 * 1024**2),
    "MLFLOW_MULTIPART_UPLOAD_CHUNK_SIZE": str(5 * 1024**2),
    "MLFLOW_MULTIPART_DOWNLOAD_CHUNK_SIZE": str(5 * 1024**2),
}


def run_client(url: str, folder: Path, environment: Mapping[str, str]) -> Any:
    """What the client's session found."""
    folder.mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    done = subprocess.run(
        [sys.executable, "-m", "tests.acceptance.large_artifacts", str(folder)],
        env={**kept, **MLFLOW_QUIET, **SIZES, **environment, "MLFLOW_TRACKING_URI": url},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads((folder / "done.json").read_text())


@pytest.mark.parametrize("direct", [True, False], ids=["in parts", "through the server"])
def test_the_client_keeps_artifacts_in_s3(s3_place: S3Place, tmp_path: Path, direct: bool) -> None:
    """A large file is logged, listed, downloaded and, after gc, gone from the bucket. Parts go to
    the bucket itself where the server offers it, which the client finds out by itself."""
    flags = ["--artifacts-destination", s3_place.uri]
    if not direct:
        flags.append("--no-presigned-urls")
    home = tmp_path / "home"
    server = runfold(home, *flags, environment=s3_place.environment).start()
    try:
        found = run_client(server.url, tmp_path / "client", {})
        assert found["same"] == {"large.bin": True, "small.txt": True}
        assert found["root"] == ["model", "small.txt"]
        assert found["model"] == {"model/large.bin": 12 * 1024**2}
        below = f"0/{found['run_id']}/artifacts"
        blobs = s3_place.blobs()
        info = blobs.stat(f"{below}/model/large.bin")
        assert info is not None
        # Clients send parts of 5 MB, the server ones of 8 MB.
        assert info.etag.endswith("-3" if direct else "-2")
        gc = subprocess.run(
            [BIN / "runfold", "gc", "--home", home, *flags[:2]],
            env={**os.environ, **s3_place.environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert gc.returncode == 0, gc.stdout + gc.stderr
        assert "2 artifact files deleted" in gc.stdout
        assert blobs.list("0") == []
    finally:
        server.stop()
