"""Any release of the package index as one to break: a known one by its entry, another by what its archive shows.

And the environment its tests run in, where something other than the fork server is to run them.

cache/nano/packages/toolz-0.12.1/env     Python with pytest and what the tests need
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from kodkod_app.nano.packages import (
    Package,
    PackageFault,
    PackageSpec,
    Role,
    archives,
    known_packages,
    make_ready,
)

_PINNED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9.!+_-]*")
_UNLIKE = re.compile(r"[-_.]+")
_TEST_RUNNER = "pytest>=8,<9"
_TIMEOUT_S = 600.0
_TEST_FOLDERS = ("tests", "test", "testing", "_tests")
PLAIN_PYTEST = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
"""Has pytest load no plugin that happens to be installed."""


def release(pinned: str) -> Package:
    """A release, ready to be broken; quick the second time.

    Args:
        pinned: `NAME==VERSION`.

    Raises:
        PackageFault: it is not of this form, or cannot be had.
    """
    return make_ready(release_spec(pinned))


def release_spec(pinned: str) -> PackageSpec:
    """Its entry in `packages.toml`; for another release one that is made from its archive, which is fetched.

    Raises:
        PackageFault: see `release`; or no tests were found in the archive.
    """
    if not _PINNED.fullmatch(pinned):
        raise PackageFault(f"{pinned!r} names no release; write it as NAME==VERSION")
    known = next((spec for spec in known_packages() if spec.pinned == pinned), None)
    if known is not None:
        return known
    name, _, version = pinned.partition("==")
    # Where its tests are can be said when it is unpacked. What they need is not known: what the package needs is taken.
    draft = PackageSpec(
        name=name, version=version, sha256=_digest(name, version), licence="", role=Role.HELD_OUT, tests=(".",),
        requirements=(pinned,), with_dependencies=True,
    )  # fmt: skip
    tree = make_ready(draft).tree
    tests = tuple(_tests(tree))
    if not tests:
        raise PackageFault(f"no tests were found in the archive of {pinned}; choose another package")
    return draft.model_copy(update={"tests": tests, "source": "src" if (tree / "src").is_dir() else "."})


def environment(package: Package) -> Path:
    """A Python environment with pytest and what the package's tests need, made by pip at the first call.

    Raises:
        PackageFault: pip cannot make it.
    """
    folder, spec = package.folder / "env", package.spec
    if not (folder / ".ready").exists():
        shutil.rmtree(folder, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(folder)], spec)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check"]
        _run([*pip, "install", _TEST_RUNNER, *spec.requirements], spec)
        (folder / ".ready").touch()
    return folder


def variables_of_tests(spec: PackageSpec, tree: Path) -> Mapping[str, str]:
    """Has a tree's own modules found before installed ones."""
    return {"PYTHONPATH": str((tree / spec.source).resolve()), **PLAIN_PYTEST}


def _digest(name: str, version: str) -> str:
    """Of the release's source archive, by the index."""
    wanted = _alike(f"{name}-{version}.tar.gz")
    for file in archives(name):
        if _alike(file.url.rpartition("/")[2].partition("#")[0]) == wanted and "sha256" in file.hashes:
            return file.hashes["sha256"]
    raise PackageFault(f"the index has no source archive of {name}=={version}; choose another package")


def _alike(text: str) -> str:
    return _UNLIKE.sub("-", text).lower()


def _tests(tree: Path) -> Iterator[str]:
    """Folders of tests beside or inside the package; else test modules beside it."""
    tops = [tree, *sorted(path.parent for path in [*tree.glob("*/__init__.py"), *tree.glob("src/*/__init__.py")])]
    folders = [top / name for top in tops for name in _TEST_FOLDERS if top.name not in _TEST_FOLDERS]
    found = [folder for folder in folders if folder.is_dir() and any(folder.rglob("*test*.py"))]
    modules = [*tree.glob("test_*.py"), *tree.glob("*_test.py"), *tree.glob("tests.py")]
    yield from (str(path.relative_to(tree)) for path in found or sorted(modules))


def _run(command: Sequence[str], spec: PackageSpec) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["failed without a word"])[-1]
        raise PackageFault(f"no environment for the tests of {spec.pinned} can be made: {last}; check the network")
