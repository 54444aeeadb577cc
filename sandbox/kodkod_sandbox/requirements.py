"""What a project's Python files ask to be installed. All are read as text; none is run."""

from __future__ import annotations

import ast
import configparser
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from kodkod_sandbox.errors import ImageError

T = TypeVar("T", dict[str, Any], list[Any])

_TEST_EXTRAS = ("dev", "develop", "test", "tests", "testing")
_METADATA = ("pyproject.toml", "setup.cfg", "setup.py")
_REFERENCE = re.compile(r"\s*(?:-r|-c|--requirement|--constraint)[\s=]*(\S+)")
_LOCAL = re.compile(r"\s*(?:(?:-e|--editable)(?![\s=]*\S+://)|\.|/|file:)")
"""A line that installs from a folder: the project itself, which is run from the work tree instead."""


def requirement_files(work_tree: Path) -> list[Path]:
    """The files that may say something, those that lead outside the work tree left out."""
    found = [*(work_tree / name for name in _METADATA), *sorted(work_tree.glob("requirements*.txt"))]
    return [path for path in found if _is_inside(path, work_tree)]


def listed_requirements(work_tree: Path) -> dict[str, str]:
    """The text of each `requirements*.txt` and of the files they refer to, by path in the work tree."""
    found: dict[str, str] = {}
    for path in requirement_files(work_tree):
        if path.suffix == ".txt":
            found.update(_with_references(path, work_tree, found))
    return found


def _with_references(path: Path, work_tree: Path, known: dict[str, str]) -> dict[str, str]:
    name = os.path.relpath(path, work_tree)
    if name in known or not _is_inside(path, work_tree):
        return known
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    known = {**known, name: "".join(f"{line}\n" for line in lines if not _LOCAL.match(line))}
    for line in lines:
        if reference := _REFERENCE.match(line):
            known = _with_references(path.parent / reference[1], work_tree, known)
    return known


def _is_inside(path: Path, work_tree: Path) -> bool:
    return path.is_file() and path.resolve().is_relative_to(work_tree.resolve())


def declared_requirements(work_tree: Path) -> list[str]:
    """What the project's metadata asks for, with the extras its tests need; sorted.

    Raises:
        ImageError: a file cannot be read.
    """
    readers = {"pyproject.toml": _of_pyproject, "setup.cfg": _of_setup_cfg, "setup.py": _of_setup_py}
    lines: set[str] = set()
    for path in requirement_files(work_tree):
        if reader := readers.get(path.name):
            try:
                lines.update(line.strip() for line in reader(path.read_text(encoding="utf-8", errors="replace")))
            except (configparser.Error, SyntaxError, ValueError) as cause:
                raise ImageError(f"{path} cannot be read: {cause}") from cause
            except (RecursionError, MemoryError) as cause:  # the parsers' own, of thousands of brackets
                raise ImageError(f"{path} cannot be read: it is nested too deep") from cause
    return sorted(lines - {""})


def _of_pyproject(text: str) -> Iterator[str]:
    settings = tomllib.loads(text)
    project, groups = _part(settings, "project", dict), _part(settings, "dependency-groups", dict)
    extras = _part(project, "optional-dependencies", dict)
    listed = [_part(project, "dependencies", list)]
    listed += [_part(table, name, list) for name in _TEST_EXTRAS for table in (extras, groups)]
    yield from (line for lines in listed for line in lines if isinstance(line, str))  # a table includes another group


def _part(table: Mapping[str, Any], name: str, kind: type[T]) -> T:
    """What stands under a name; empty where nothing does.

    Raises:
        ValueError: it is of another kind.
    """
    found = table.get(name, kind())
    if not isinstance(found, kind):
        raise ValueError(f"{name} is no {'table' if kind is dict else 'list'}")  # noqa: TRY004  # a fault of the file
    return found


def _of_setup_cfg(text: str) -> Iterator[str]:
    settings = configparser.ConfigParser(interpolation=None)
    settings.read_string(text)
    yield from settings.get("options", "install_requires", fallback="").splitlines()
    for name in _TEST_EXTRAS:
        yield from settings.get("options.extras_require", name, fallback="").splitlines()


def _of_setup_py(text: str) -> Iterator[str]:
    """The `install_requires` of a call of `setup`, where it is a plain list of strings."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.keyword) and node.arg == "install_requires" and isinstance(node.value, ast.List):
            values = [item.value for item in node.value.elts if isinstance(item, ast.Constant)]
            yield from (value for value in values if isinstance(value, str))
            return
