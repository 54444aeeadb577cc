"""What a pytest run needs so that it records the lines of each test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from kodkod_tools.paths import Place
from kodkod_tools.scratch import write_scratch

_PLUGIN = "kodkod_locate"
"""The plugin's name beside the tests: one no project has."""
TRACE_FILE = "trace.json"
MAX_TRACE_BYTES = 16 * 1024**2


@dataclass(frozen=True, slots=True)
class Tracing:
    """Beside the plain run."""

    options: tuple[str, ...]
    """Of pytest."""
    environment: Mapping[str, str]


def tracing(place: Place, root: Path, python_path: str = "") -> Tracing:
    """Put the plugin into a scratch folder; the run then leaves `TRACE_FILE` there (see `plugin`).

    It and `root` (the project, absolute) have the same path where the tests run. `python_path` is the PYTHONPATH
    the run has anyway.

    Raises:
        OSError: the folder cannot be written.
    """
    write_scratch(place, f"{_PLUGIN}.py", resources.files("kodkod_tools.locate").joinpath("plugin.py").read_bytes())
    folder = place.absolute
    environment = {
        "_KODKOD_TRACE_FILE": str(folder / TRACE_FILE),
        "_KODKOD_TRACE_ROOT": str(root),
        "_KODKOD_TRACE_MAX_BYTES": str(MAX_TRACE_BYTES),
        "PYTHONPATH": ":".join(filter(None, (str(folder), python_path))),
    }
    return Tracing(("-p", _PLUGIN), environment)
