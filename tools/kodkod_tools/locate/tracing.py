"""What a pytest run needs so that it records the lines of each test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

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


def tracing(folder: Path, root: Path, python_path: str = "") -> Tracing:
    """Put the plugin into `folder`; the run then leaves `TRACE_FILE` there (see `plugin`).

    `folder` and `root` (the project, absolute) have the same path where the tests run. `python_path` is the PYTHONPATH
    the run has anyway.

    Raises:
        OSError: the folder cannot be written.
    """
    text = resources.files("kodkod_tools.locate").joinpath("plugin.py").read_text(encoding="utf-8")
    plugin = folder / f"{_PLUGIN}.py"
    plugin.write_text(text, encoding="utf-8")
    plugin.chmod(0o644)  # the tests may run as another user
    environment = {
        "KODKOD_TRACE_FILE": str(folder / TRACE_FILE),
        "KODKOD_TRACE_ROOT": str(root),
        "KODKOD_TRACE_MAX_BYTES": str(MAX_TRACE_BYTES),
        "PYTHONPATH": ":".join(filter(None, (str(folder), python_path))),
    }
    return Tracing(("-p", _PLUGIN), environment)
