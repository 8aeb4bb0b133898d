"""What the benchmark ran on: the machine, and the versions of everything."""

from __future__ import annotations

import datetime
import os
import platform
import sqlite3
from importlib.metadata import version
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from infra.benchmarks.peers import VERSIONS


def _processor() -> str:
    """The processor's name, which Python knows on few systems."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def file_system(path: Path) -> str:
    """The type of the file system that a path is on. In memory, an fsync would cost nothing."""
    best = ("", "unknown")
    for part in psutil.disk_partitions(all=True):
        if path.is_relative_to(part.mountpoint) and len(part.mountpoint) >= len(best[0]):
            best = (part.mountpoint, part.fstype)
    return best[1]


def machine(work: Path) -> dict[str, str]:
    """The machine, as the table's head tells it."""
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "memory": f"{psutil.virtual_memory().total / 1e9:.0f} GB",
        "system": f"{platform.system()} {platform.release()}, {file_system(work)}",
    }


def versions() -> dict[str, str]:
    """The versions of what was compared, and of what Runfold is built on."""
    libraries = (
        "uvicorn",
        "uvloop",
        "msgspec",
        "duckdb",
        "numpy",
        "pysqlite3",
        "psycopg",
        "kafka-python",
    )
    return {
        "Runfold": version("runfold"),
        "MLflow": VERSIONS["mlflow"],
        "FastTrackML": VERSIONS["fasttrackml"],
        "Python": platform.python_version(),
        **{name: version(name) for name in libraries},
        "SQLite of Python": sqlite3.sqlite_version,
    }
