"""One record of a run on a device: written after every row, within a time budget, faults kept beside figures."""

from __future__ import annotations

import gc
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

import torch
from measure import commit, machine

Rows: TypeAlias = Iterator[dict[str, Any]]
FILE = "gpu.json"
TRACE_LINES = 12
ROOT = Path(__file__).resolve().parents[2]


class DeviceLost(Exception):
    """The device answers nothing more in this process."""


class Record:
    """What has been measured so far; a later process goes on with the file of an earlier one."""

    def __init__(self, folder: Path, seconds: float, header: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / FILE
        self._ends = time.monotonic() + seconds
        if self.path.exists():
            self.values: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
        else:
            now = datetime.now(UTC)
            facts = {"date": f"{now:%Y-%m-%dT%H:%M:%SZ}", "commit": _commit(), "machine": machine()}
            self.values = {**facts, **header, "parts": {}, "faults": {}, "seconds": {}, "skipped": []}

    @property
    def seconds_left(self) -> float:
        """Of the budget."""
        return self._ends - time.monotonic()

    def measure(self, name: str, rows: Callable[[], Rows], needs_s: float) -> None:
        """One part: its rows as they come, or why there are none.

        Raises:
            DeviceLost: after its fault nothing more can be measured in this process.
        """
        if name in self.values["seconds"]:
            return
        if self.seconds_left < needs_s:
            self.values["skipped"].append(name)
            self.write()
            return
        started = time.monotonic()
        self.values["seconds"][name] = None  # begun: a process that dies here does not try it again
        self.write()
        try:
            for row in rows():
                self.values["parts"].setdefault(name, []).append(row)
                print(f"{name}: {_short(row)}", flush=True)
                self.write()
                if self.seconds_left < 0:
                    self._fault(name, "cut off: the time is used up")
                    break
        except Exception as fault:  # noqa: BLE001  # whatever broke, the next part is tried
            self._fault(name, "".join(traceback.format_exception(fault)).splitlines())
        self.values["seconds"][name] = round(time.monotonic() - started, 2)
        self.write()
        _clean()

    def _fault(self, name: str, lines: list[str] | str) -> None:
        lines = [_anywhere(line) for line in ([lines] if isinstance(lines, str) else lines)]
        kept = lines if len(lines) <= 2 * TRACE_LINES else [*lines[:TRACE_LINES], "...", *lines[-TRACE_LINES:]]
        self.values["faults"][name] = kept
        print(f"{name}: FAULT\n" + "\n".join(kept), flush=True)

    def write(self) -> None:
        """Put it in place of what was there."""
        beside = self.path.with_suffix(".part")
        beside.write_text(json.dumps(self.values, indent=1) + "\n", encoding="utf-8")
        beside.replace(self.path)


def _anywhere(line: str) -> str:
    """Without the folders of the machine that says it."""
    return line.replace(f"{ROOT}/", "").replace(f"{sys.prefix}/", "")


def _commit() -> str:
    """As far as it is known where the script runs: there may be a copy of the files and no git."""
    try:
        return commit()
    except OSError:
        return ""


def _short(row: dict[str, Any]) -> str:
    return ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()
    )


def _clean() -> None:
    """Let go of what a part held; find out whether the device still answers."""
    gc.collect()
    if not torch.cuda.is_available():
        return
    try:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    except RuntimeError as fault:
        raise DeviceLost(str(fault).splitlines()[0]) from fault
