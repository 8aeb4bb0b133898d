"""The pages say what the code does: what is generated is current, what is shown has been run."""

import importlib
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from tests.servers import Server, send
from workers.cli import COMMANDS, WORKERS

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text("utf-8"), re.M | re.S)


def block_with(page: Path, language: str, words: str) -> str:
    [found] = [block for block in blocks(page, language) if words in block]
    return found


@pytest.mark.parametrize("script", ["api_coverage.py", "settings_table.py"])
def test_generated_tables_are_current(script: str) -> None:
    """A route or setting that was added, changed or removed is so in its table too."""
    made = subprocess.run(
        [sys.executable, ROOT / "infra/scripts" / script, "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stdout + made.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    """Each link to a file of the project leads to one."""
    assert [link for link in links_of(page) if not link.exists()] == []


def links_of(page: Path) -> list[Path]:
    """The files of the project that a page links to."""
    links = LINK.findall(page.read_text("utf-8"))
    return [(page.parent / link).resolve() for link in links if "://" not in link]


def test_every_page_is_reached_from_the_readme() -> None:
    """Nobody has to list the folder to find a page."""
    reached: set[Path] = set()
    left = [ROOT / "README.md"]
    while left:
        page = left.pop()
        if page not in reached and page.exists():
            reached.add(page)
            left += [link for link in links_of(page) if link.suffix == ".md"]
    assert set(PAGES) - reached == set()


def test_every_command_is_documented() -> None:
    """Each command that `runfold --help` shows is explained in the page on operations."""
    page = (ROOT / "docs/operations.md").read_text("utf-8")
    workers = {f"worker {name}": found for name, found in WORKERS.items()}
    for name, (module, function) in {**COMMANDS, **workers}.items():
        command = getattr(importlib.import_module(module), function)
        assert isinstance(command, click.Command)
        assert command.hidden or f"runfold {name}" in page, name


def test_the_changelog_has_room_for_what_comes() -> None:
    """There is a section for what is not released yet, above the released ones."""
    sections = re.findall(r"^## \[([^\]]+)\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)
    assert sections[0] == "Unreleased"


def test_a_backup_restores(tmp_path: Path, start_runfold: Callable[..., Server]) -> None:
    """The page's own commands copy a running server's log and files; a server on the copy gives
    the same answers."""
    page = ROOT / "docs/operations.md"
    server = start_runfold(tmp_path / "runfold-data")
    log_something(server)
    (tmp_path / ".venv").symlink_to(Path(sys.executable).parent.parent)
    restore = block_with(page, "sh", "mkdir restored").split(".venv/bin/runfold")[0]
    for script in (block_with(page, "sh", "mkdir -p backup"), restore):
        subprocess.run(["bash", "-euc", script], cwd=tmp_path, check=True)
    told = answers(server)
    server.stop()
    assert answers(start_runfold(tmp_path / "restored")) == told


def log_something(server: Server) -> None:
    """A run with points and a tag, and a file."""
    posts = {
        "runs/create": b'{"experiment_id": "0", "run_name": "kept", "start_time": 1}',
        "experiments/set-experiment-tag": b'{"experiment_id": "0", "key": "a", "value": "b"}',
    }
    for path, body in posts.items():
        made = send(
            server.url,
            "POST",
            f"/api/2.0/mlflow/{path}",
            body,
            {"Content-Type": "application/json"},
        )
        assert made.status == 200, made
    put = send(server.url, "PUT", "/api/2.0/mlflow-artifacts/artifacts/0/kept.txt", b"bytes")
    assert put.status == 200, put


def answers(server: Server) -> list[bytes]:
    """What the server says of everything that `log_something` logged."""
    reads = [
        ("POST", "/api/2.0/mlflow/runs/search", b'{"experiment_ids": ["0"]}'),
        ("GET", "/api/2.0/mlflow/experiments/get?experiment_id=0", None),
        ("GET", "/api/2.0/mlflow-artifacts/artifacts/0/kept.txt", None),
    ]
    found = [
        send(server.url, method, target, body, {"Content-Type": "application/json"})
        for method, target, body in reads
    ]
    assert {answer.status for answer in found} == {200}, found
    return [answer.body for answer in found]
