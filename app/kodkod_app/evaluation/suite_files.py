"""Suites on disk: those that come along, files, task directories of Harbor, categories of BFCL."""

from __future__ import annotations

import runpy
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from kodkod_app import paths
from kodkod_app.evaluation.suite import Suite, SuiteFault


def bundled_suites() -> dict[str, Path]:
    """Those that come along, by name."""
    folder = Path(str(resources.files("kodkod_app.evaluation").joinpath("suites")))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_suites(names: Sequence[str]) -> list[Suite]:
    """Suites that are tried together; see `load_suite`.

    Raises:
        SuiteFault: one cannot be had, or two have one name, so that their trials could not be told apart.
    """
    suites = [load_suite(name) for name in names]
    seen: set[str] = set()
    for suite in suites:
        if suite.suite in seen:
            raise SuiteFault(f"two suites are named {suite.suite!r}; name each once")
        seen.add(suite.suite)
    return suites


def load_suite(name: str) -> Suite:
    """A suite by its name, the path of its file, or of a task directory of Harbor; `bfcl:CATEGORY` is one of BFCL's.

    Raises:
        SuiteFault: there is none, or its file says what it cannot.
    """
    from kodkod_app.adapters.bfcl import PREFIX, load_category
    from kodkod_app.evaluation.harbor_tasks import harbor_suite

    if name.startswith(PREFIX):
        return load_category(name.removeprefix(PREFIX))
    path = bundled_suites().get(name) or paths.expanded(name)
    return harbor_suite(path) if path.is_dir() else _load_file(path, name)


def _load_file(path: Path, name: str) -> Suite:
    try:
        said = _read(path)
    except FileNotFoundError as fault:
        known = ", ".join(bundled_suites())
        raise SuiteFault(f"there is no suite {name}; name one of {known}, or a .yaml or .py file") from fault
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as fault:
        raise SuiteFault(f"{path} cannot be read ({' '.join(str(fault).split())}); correct it") from fault
    except (Exception, SystemExit) as fault:  # a file in Python may do anything
        cause = " ".join(f"{type(fault).__name__}: {fault}".split())
        raise SuiteFault(f"{path} cannot be run ({cause}); correct it") from fault
    try:
        return Suite.model_validate({**said, "folder": path.resolve().parent})
    except (ValidationError, TypeError) as fault:
        raise SuiteFault(f"{path}: {_first(fault)}; correct it") from fault


def _read(path: Path) -> Any:
    if path.suffix == ".py":
        if not path.is_file():
            raise FileNotFoundError(path)
        return runpy.run_path(str(path)).get("SUITE")
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _first(fault: Exception) -> str:
    if not isinstance(fault, ValidationError):
        return "it holds no suite"
    entry = fault.errors(include_url=False)[0]
    place = ".".join(str(part) for part in entry["loc"])
    cause = entry["msg"].removeprefix("Value error, ")
    return f"{place}: {cause}" if place else cause
