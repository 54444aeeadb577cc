"""Which Python environment a project's tests run in, for boxes that show this machine's own files.

The first of these that is one: the folder the person names, `$VIRTUAL_ENV`, `.venv` or `venv` in the project, and the
environment kodkod itself runs in when pytest is installed there.

A project may bring its own `.venv`, so what an environment says of itself is believed only so far: a base interpreter
is shown in the box when it looks like one, and never a folder that holds the person's home.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from kodkod_app import paths
from kodkod_tools.small_files import read_small

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SYSTEM = tuple(map(Path, ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/nix/store", "/gnu/store")))
"""What every box shows anyway."""
_OF_PROJECT = (".venv", "venv")
_CONFIG = "pyvenv.cfg"
_MAX_CONFIG_BYTES = 64 * 1024
_OURS = {"PYTEST_ADDOPTS": "-p no:langsmith_plugin"}
"""For the environment kodkod runs in: a plugin that comes with langgraph, 0.9 s a run, is none of a project's."""


class EnvironmentFault(Exception):
    """The folder that was named is no Python environment."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class PythonEnvironment:
    """An environment, and what a box must show of it."""

    folder: Path
    """`bin/python` is below it."""
    origin: str
    """Who named it, for the person."""
    read_only_paths: tuple[Path, ...] = ()
    for_pytest: Mapping[str, str] = field(default_factory=dict)
    """Variables that pytest reads there."""

    @property
    def variables(self) -> dict[str, str]:
        """What makes it the one that `python` means."""
        return {"PATH": f"{self.folder}/bin:{SYSTEM_PATH}", "VIRTUAL_ENV": str(self.folder), **self.for_pytest}


def find_environment(work_tree: Path, given: Path | None, variables: Mapping[str, str]) -> PythonEnvironment | None:
    """The environment for a project's tests; None when there is none.

    Args:
        work_tree: absolute and resolved.
        given: the folder the person named.
        variables: of this process.

    Raises:
        EnvironmentFault: `given` is none, or holds the person's home.
    """
    if given is not None:
        folder = paths.expanded(given).absolute()
        if not _is_environment(folder):
            raise EnvironmentFault(f"{folder} is no Python environment (it has no bin/python); name another by --env")
        return _described(folder, "named by --env", work_tree)
    for folder, origin in _of_project(work_tree, variables):
        if _is_environment(folder):
            return _described(folder, origin, work_tree)
    if importlib.util.find_spec("pytest") is not None and _is_environment(Path(sys.prefix)):
        return replace(_described(Path(sys.prefix), "the one kodkod runs in", work_tree), for_pytest=_OURS)
    return None


def _of_project(work_tree: Path, variables: Mapping[str, str]) -> Iterator[tuple[Path, str]]:
    if active := variables.get("VIRTUAL_ENV"):
        yield Path(active).absolute(), "from $VIRTUAL_ENV"
    for name in _OF_PROJECT:
        yield work_tree / name, "the project's own"


def _is_environment(folder: Path) -> bool:
    try:
        is_one = (folder / _CONFIG).is_file() or _is_interpreter(folder)
        return is_one and (folder / "bin" / "python").is_file() and not _holds_home(folder.resolve())
    except (OSError, ValueError):  # a name that no disk takes
        return False


def _described(folder: Path, origin: str, work_tree: Path) -> PythonEnvironment:
    shown = dict.fromkeys(path for path in _needed(folder) if _must_be_shown(path, work_tree))
    return PythonEnvironment(folder, origin, tuple(shown))


def _needed(folder: Path) -> Iterator[Path]:
    """The environment and its base interpreter, each by its name and by where that leads."""
    yield folder
    yield folder.resolve()
    for prefix in (_home(folder).parent, (folder / "bin" / "python").resolve().parent.parent):
        if _is_interpreter(prefix):
            yield prefix
            yield prefix.resolve()


def _home(folder: Path) -> Path:
    """The folder of the interpreter an environment was made with, by its `pyvenv.cfg`; its own `bin` without one."""
    try:
        lines = read_small(folder / _CONFIG, _MAX_CONFIG_BYTES).decode("utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        lines = []
    pairs = (line.partition("=") for line in lines)
    named = next((value.strip() for key, _, value in pairs if key.strip() == "home"), "")
    return Path(named) if Path(named).is_absolute() else folder / "bin"


def _is_interpreter(prefix: Path) -> bool:
    return any(True for _ in prefix.glob("lib*/python3*/os.py")) and not _holds_home(prefix.resolve())


def _must_be_shown(path: Path, work_tree: Path) -> bool:
    return not any(path.is_relative_to(known) for known in (work_tree, *_SYSTEM))


def _holds_home(folder: Path) -> bool:
    return Path.home().resolve().is_relative_to(folder)
