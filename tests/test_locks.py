"""The locks name what pyproject.toml asks for, and every machine and every set gets the same."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
REMEDY = "run infra/scripts/lock"


def locked(name: str) -> dict[str, set[str]]:
    """The versions of each package in a lock; more than one where Python's version decides."""
    found: dict[str, set[str]] = {}
    text = (ROOT / "infra/locks" / f"{name}.txt").read_text("utf-8")
    for package, version in re.findall(r"^([\w.-]+)==([^\s;\\]+)", text, re.M):
        found.setdefault(canonicalize_name(package), set()).add(version)
    return found


def unmet(requirements: list[str], lock: dict[str, set[str]]) -> list[str]:
    """The requirements that a lock does not name, or names in a version that does not do."""
    missing = []
    for text in requirements:
        wanted = Requirement(text)
        versions = lock.get(canonicalize_name(wanted.name), set())
        if not versions or not all(wanted.specifier.contains(version) for version in versions):
            missing.append(text)
    return missing


def test_the_locks_are_current() -> None:
    """Each requirement of pyproject.toml is in its lock, in a version that it allows.

    The image's lock has those of every extra but the tests', whose own has all.
    """
    needed = [*PROJECT["project"]["dependencies"], *PROJECT["build-system"]["requires"]]
    extras = dict(PROJECT["project"]["optional-dependencies"])
    tests = extras.pop("test")
    in_image = [*needed, *(requirement for extra in extras.values() for requirement in extra)]
    assert unmet(needed, locked("server")) == [], REMEDY
    assert unmet(in_image, locked("image")) == [], REMEDY
    assert unmet([*in_image, *tests], locked("test")) == [], REMEDY


def test_a_lock_that_is_behind_is_seen() -> None:
    """A missing package and a version that is not allowed any more are named."""
    lock = {"click": {"8.2.0"}, "numpy": {"2.1.0", "2.5.0"}}
    assert unmet(["click>=8.2", "numpy>=2.1"], lock) == []
    assert unmet(["click>=9", "numpy>=2.2", "duckdb"], lock) == ["click>=9", "numpy>=2.2", "duckdb"]


def test_one_environment_serves_both() -> None:
    """The tests' lock holds everything that the others hold, in the same versions."""
    tests = locked("test")
    for other in ("server", "image"):
        differing = {
            name: versions
            for name, versions in locked(other).items()
            if tests.get(name) != versions
        }
        assert differing == {}, REMEDY


def test_every_package_has_hashes_and_none_an_address() -> None:
    """pip can check each file, and where it comes from is left to the machine."""
    for name in ("server", "image", "test"):
        text = (ROOT / "infra/locks" / f"{name}.txt").read_text("utf-8")
        entries = [entry for entry in re.split(r"^(?=\S)", text, flags=re.M) if "==" in entry]
        assert [entry for entry in entries if "--hash=sha256:" not in entry] == []
        assert "://" not in text
