"""What is kept of each fault: one JSON line, written when all about it is known."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PlantedFault(_Record):
    """What was broken, and what shows it."""

    key: str
    """Names it among all of an evaluation; the same package, seed and number give the same."""
    package: str
    """NAME==VERSION."""
    kind: str
    path: str
    line: int
    old: str
    """Text of the sound source."""
    new: str
    """Text that took its place."""
    failing_tests: tuple[str, ...]


class AgentResult(_Record):
    """What the agent made of it."""

    resolved: bool
    """The failing tests pass, and no other test of their files fails that did not before."""
    resolved_first: bool
    """By the first candidate: without candidates, it would be resolved as well."""
    status: str
    reason: str
    ended_by_itself: bool
    """Not by a limit, a fault or an interruption; every candidate that was not stopped for another's success."""
    candidates: int
    winner: int | None
    tried_edits: int
    """Changed trees that were tested."""
    test_runs: int
    """All of them, those before the first change and after the last among them."""
    calls: int
    malformed_calls: int
    generated_tokens: int
    prompt_tokens: int
    reused_tokens: int
    seconds: float
    diff: str


class ControlResult(_Record):
    """What came of a control."""

    resolved: bool
    tried_edits: int
    edits: int
    """There were to choose from."""


class FaultRecord(_Record):
    """One line."""

    fault: PlantedFault
    agent: AgentResult
    no_change: ControlResult
    blind: ControlResult


class RecordsDamaged(Exception):
    """A line of the records cannot be read."""

    exit_code = 1


class Records:
    """The file. Appended to by one process at a time; what a killed one left torn is cut off."""

    def __init__(self, path: Path) -> None:
        """Open it, new or old.

        Raises:
            RecordsDamaged: a line other than a torn last one cannot be read.
        """
        self._path = path
        path.touch()
        data = path.read_bytes()
        os.truncate(path, data.rfind(b"\n") + 1)
        self._records = {record.fault.key: record for record in self._read()}

    def _read(self) -> Iterator[FaultRecord]:
        for number, line in enumerate(self._path.read_bytes().splitlines(), 1):
            try:
                yield FaultRecord.model_validate_json(line)
            except ValidationError as fault:
                cause = str(fault).splitlines()[0]
                raise RecordsDamaged(
                    f"{self._path}, line {number} cannot be read ({cause}); remove the line, or choose another folder"
                ) from fault

    def add(self, record: FaultRecord) -> None:
        """Write one; it outlives this process when this returns."""
        with self._path.open("ab") as file:
            file.write(record.model_dump_json().encode("utf-8") + b"\n")
        self._records[record.fault.key] = record

    def __contains__(self, key: object) -> bool:
        return key in self._records

    def __iter__(self) -> Iterator[FaultRecord]:
        return iter(sorted(self._records.values(), key=lambda record: record.fault.key))

    def __len__(self) -> int:
        return len(self._records)
