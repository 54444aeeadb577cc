"""Published packages made ready to be broken: the source archive unpacked, and an environment for its tests.

cache/repair/toolz-0.12.1/tree     the unpacked archive
cache/repair/toolz-0.12.1/env      Python with pytest and what the package requires
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from kodkod_app import paths
from kodkod_app.nano.packages import Role
from kodkod_app.nano.packages import known_packages as released
from kodkod_app.one_at_a_time import one_at_a_time

_PINNED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9.!+_-]*")
PLAIN_PYTEST = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
_TEST_RUNNER = "pytest>=8,<9"
_TIMEOUT_S = 600.0
READY = ".ready"
"""Marks a folder that is whole."""
_TEST_FOLDERS = ("tests", "test", "testing", "_tests")
_NO_CODE = {*_TEST_FOLDERS, "docs", "doc", "examples", "benchmarks", "build", "dist", "tools", "scripts"}


class PackageFault(Exception):
    """A package cannot be had, or is none that can be evaluated on."""

    exit_code = 1


class PackageSpec(BaseModel):
    """One release."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    version: str
    licence: str = ""
    requirements: tuple[str, ...] = Field(default=())
    """What its tests need besides pytest."""

    @classmethod
    def parse(cls, text: str) -> PackageSpec:
        """From `NAME==VERSION`; a known release has its own entry.

        Raises:
            PackageFault: it is not of this form.
        """
        if not _PINNED.fullmatch(text):
            raise PackageFault(f"{text!r} names no release; write it as NAME==VERSION")
        name, _, version = text.partition("==")
        known = next((spec for spec in known_packages() if (spec.name, spec.version) == (name, version)), None)
        return known or cls(name=name, version=version)

    @property
    def pinned(self) -> str:
        """`NAME==VERSION`."""
        return f"{self.name}=={self.version}"


@dataclass(frozen=True, slots=True)
class Package:
    """A release that is ready."""

    spec: PackageSpec
    tree: Path
    """As published; not for changing."""
    environment: Path
    """Python for its tests."""
    modules: tuple[str, ...]
    """Its own code, tests left out; relative to the tree."""

    @property
    def source_folder(self) -> str:
        """Where its modules are imported from, relative to the tree."""
        return "src" if (self.tree / "src").is_dir() else ""


def known_packages() -> tuple[PackageSpec, ...]:
    """Those that are evaluated on by default."""
    return tuple(
        PackageSpec(name=spec.name, version=spec.version, licence=spec.licence, requirements=spec.requirements)
        for spec in released(Role.HELD_OUT)
    )


def chosen_packages(named: Sequence[str], known: Sequence[PackageSpec]) -> tuple[PackageSpec, ...]:
    """Those that were named, or all that are known."""
    return tuple(PackageSpec.parse(name) for name in dict.fromkeys(named)) or tuple(known)


def test_variables(tree: Path) -> Mapping[str, str]:
    """Has a tree's own modules found before installed ones, and pytest load no plugin that happens to be installed."""
    folder = tree / "src"
    return {"PYTHONPATH": str(folder if folder.is_dir() else tree), **PLAIN_PYTEST}


def make_ready(spec: PackageSpec) -> Package:
    """Fetch what is not there yet, by pip; quick the second time.

    Raises:
        PackageFault: pip cannot get it, it has no source archive, or no code of its own was found in it.
    """
    folder = paths.cache_folder() / "repair" / f"{spec.name}-{spec.version}"
    with one_at_a_time(folder):
        for name, make in (("tree", _make_tree), ("env", _make_environment)):
            if not (folder / name / READY).exists():
                shutil.rmtree(folder / name, ignore_errors=True)
                make(spec, folder / name)
                (folder / name / READY).touch()
    tree = folder / "tree" / "source"
    modules = tuple(sorted(_modules(tree)))
    if not modules:
        raise PackageFault(f"no Python code was found in {spec.pinned}; choose another package")
    return Package(spec, tree, folder / "env", modules)


def _make_tree(spec: PackageSpec, folder: Path) -> None:
    folder.mkdir()
    with tempfile.TemporaryDirectory(prefix="kodkod-sdist-") as name:
        _pip(sys.executable, "download", "--no-deps", "--no-binary", ":all:", "--dest", name, spec.pinned)
        archive = next((path for path in Path(name).iterdir() if path.name.endswith(".tar.gz")), None)
        if archive is None:
            raise PackageFault(f"{spec.pinned} has no source archive; choose another package")
        with tarfile.open(archive) as opened:
            opened.extractall(folder, filter="data")
    unpacked = next(path for path in folder.iterdir() if path.is_dir())
    unpacked.rename(folder / "source")


def _make_environment(spec: PackageSpec, folder: Path) -> None:
    _run([sys.executable, "-m", "venv", str(folder)])
    # The package too, for its requirements and its metadata; the broken tree's own modules are found before it.
    _pip(str(folder / "bin" / "python"), "install", _TEST_RUNNER, *spec.requirements, spec.pinned)


def _pip(python: str, *arguments: str) -> None:
    _run([python, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments])


def _run(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", check=False, timeout=_TIMEOUT_S
        )
    except subprocess.TimeoutExpired as fault:
        raise PackageFault(f"{' '.join(command[1:4])}: took more than {_TIMEOUT_S:g} s; check the network") from fault
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["failed without a word"])[-1]
        raise PackageFault(f"{' '.join(command[1:4])}: {last}; check the network and the name")


def _modules(tree: Path) -> list[str]:
    top = tree / "src" if (tree / "src").is_dir() else tree
    packages = [path.parent for path in top.glob("*/__init__.py") if path.parent.name not in _NO_CODE]
    files = [file for package in packages for file in package.rglob("*.py")]
    files += [file for file in top.glob("*.py") if file.name not in ("setup.py", "conftest.py", "noxfile.py")]
    return [str(file.relative_to(tree)) for file in files if _is_code(file.relative_to(top))]


def _is_code(path: Path) -> bool:
    is_test = path.name.startswith("test_") or path.name.endswith("_test.py") or path.name == "conftest.py"
    return not is_test and not set(path.parts[:-1]) & set(_TEST_FOLDERS)
