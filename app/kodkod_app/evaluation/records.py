"""What is kept of each trial: one JSON line."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from kodkod_app.json_lines import JsonLines


class Trial(BaseModel):
    """One trial of one task."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    suite: str
    task: str
    category: str
    number: int
    """From 1."""
    seed: int
    definition: str = ""
    """Hash of the task as it was tried; see `Suite.definition_of`. Empty in records that have none."""
    passed: bool
    reasons: tuple[str, ...] = ()
    """What was not as it should be."""
    exit_status: str = "ended"
    is_fault: bool = False
    turns: int = 0
    calls: int = 0
    malformed_calls: int = 0
    prompt_tokens: int = 0
    reused_tokens: int = 0
    generated_tokens: int = 0
    seconds: float = 0.0

    @property
    def key(self) -> str:
        """Names it among all of a folder."""
        return trial_key(self.suite, self.task, self.number)


def trial_key(suite: str, task: str, number: int) -> str:
    """Names a trial."""
    return f"{suite}/{task}/{number}"


class TrialsKept(JsonLines[Trial]):
    """All trials of a folder."""

    def __init__(self, folder: Path) -> None:
        """Open `records.jsonl`, new or old.

        Raises:
            RecordsDamaged: a line other than a torn last one cannot be read.
        """
        super().__init__(folder / "records.jsonl", Trial, lambda trial: trial.key)
