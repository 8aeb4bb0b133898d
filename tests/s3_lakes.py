"""A lake in S3 for tests: what is put there, and what a machine has copies of."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from projections.lake import EXPORTS, SEGMENTS, Lake
from tests.backends import S3Place
from tests.lake_cases import LakeCase, Point
from workers.sealer import SealerSettings

PATH = f"{SEGMENTS}/experiment_id=1/metrics/one.parquet"
KEPT = SealerSettings(merge_segments=99, retired_s=0.0)


def case_with_two_runs(place: S3Place, folder: Path) -> Iterator[LakeCase]:
    """A log and views in this folder, with the runs `a` and `b`; closed at the end."""
    made = LakeCase(folder, lake=place.lake(folder / "cache"))
    for run_id in ("a", "b"):
        made.create_run(run_id)
    yield made
    made.close()


def points(count: int, start: int = 0) -> list[Point]:
    return [("loss", step, step, step / 8) for step in range(start, start + count)]


def put(lake: Lake, path: str, content: bytes) -> None:
    """Writes a file and keeps it."""
    file = lake.folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    lake.keep(path)


def forget(lake: Lake) -> None:
    """Leaves the machine without any copy."""
    for store in (SEGMENTS, EXPORTS):
        shutil.rmtree(lake.folder / store, ignore_errors=True)


def copies(lake: Lake) -> dict[str, int]:
    """The sizes of the machine's copies."""
    found = [path for store in (SEGMENTS, EXPORTS) for path, _ in Lake.found(lake, store)]
    return {path: (lake.folder / path).stat().st_size for path in found}


def segments_in(place: S3Place) -> list[str]:
    return sorted(key for key in place.objects() if key.startswith(SEGMENTS))
