"""What is kept of each fault: one JSON line, written when all about it is known."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from kodkod_app.json_lines import JsonLines


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


class Records(JsonLines[FaultRecord]):
    """The file of an evaluation."""

    def __init__(self, path: Path) -> None:
        """Open it, new or old.

        Raises:
            RecordsDamaged: a line other than a torn last one cannot be read.
        """
        super().__init__(path, FaultRecord, lambda record: record.fault.key)
