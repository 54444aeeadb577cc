"""The folder of a run: what was asked for, and tables of how attempts ended."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kodkod_agent.errors import cause_of
from kodkod_app.swebench.records import Attempt
from kodkod_app.swebench.rows import Row
from kodkod_app.whole_file import replace_text

_ASKED = "run.json"


class FolderFault(Exception):
    """A folder is not of a run, or of another one."""

    exit_code = 2


class Asked(BaseModel):
    """What a folder is of. Going on in it must ask for the same data and model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    """Name of the file; the hash is what counts."""
    dataset_sha256: str
    """Of the selected rows."""
    instances: tuple[str, ...]
    """All of them, attempted yet or not: what shares are of."""
    model: str
    name: str
    candidates: int = 1
    seed: int = 0
    temperature: float = 0.0
    max_turns: int
    max_tokens: int
    timeout_s: float
    sandbox: str
    workers: int
    device: str
    machine: dict[str, Any] = Field(default_factory=dict)
    version: str

    def differs(self, other: Asked) -> list[str]:
        """What must be the same and is not."""
        same = ("dataset_sha256", "instances", "model", "candidates", "seed", "temperature")
        return [name for name in same if getattr(self, name) != getattr(other, name)]


def fingerprint(rows: Sequence[Row]) -> str:
    """Of rows, whatever file they came from."""
    texts = (json.dumps(row.for_grader(), sort_keys=True, default=str) for row in rows)
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def claim(folder: Path, asked: Asked) -> None:
    """Make a folder the run's, or find that it is.

    Raises:
        FolderFault: it is another run's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _ASKED
    if path.exists() and (differing := asked.differs(read_asked(folder))):
        raise FolderFault(
            f"{folder} holds a run with another {' and '.join(differing)}; choose another folder with -o, or ask for "
            "the same to go on"
        )
    replace_text(path, asked.model_dump_json(indent=1) + "\n")  # half of it would make the folder no run's


def read_asked(folder: Path) -> Asked:
    """What a folder is of.

    Raises:
        FolderFault: it is no run's.
    """
    try:
        return Asked.model_validate_json((folder / _ASKED).read_bytes())
    except FileNotFoundError as fault:
        raise FolderFault(f"{folder} is no folder of `kodkod swebench` (it has no {_ASKED}); name another") from fault
    except (OSError, ValidationError) as fault:
        cause = cause_of(fault)
        raise FolderFault(f"{folder / _ASKED} cannot be read ({cause}); restore it, or begin a new folder") from fault


def write_statuses(attempts: Sequence[Attempt], folder: Path) -> dict[str, int]:
    """Write which attempts ended how; how many did."""
    by_status: dict[str, list[str]] = {}
    for attempt in attempts:
        by_status.setdefault(attempt.exit_status, []).append(attempt.key)
    text = json.dumps({status: sorted(keys) for status, keys in sorted(by_status.items())}, indent=1)
    (folder / "exit_statuses.json").write_text(f"{text}\n", encoding="utf-8")
    return dict(Counter(attempt.exit_status for attempt in attempts).most_common())


def told_statuses(counts: dict[str, int]) -> str:
    """The table, for people."""
    width = max(map(len, counts), default=0)
    return "\n".join(f"{status:<{width}}  {count}" for status, count in counts.items())
