"""What is kept of each attempt at an instance: one JSON line, written when all about it is known."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from kodkod_app.json_lines import JsonLines


class Attempt(BaseModel):
    """One attempt: one instance in one run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    instance_id: str
    run: int
    """From 1."""
    seed: int
    model_patch: str
    """Empty where nothing was changed, or there was a fault."""
    exit_status: str
    """`Submitted`, `Unverified`, `LimitsExceeded`, `Interrupted`, or the class of the fault."""
    reason: str
    is_fault: bool = False
    """Nothing was tried to its end: no environment, no box, no engine."""
    candidates: int = 0
    winner: int | None = None
    turns: int = 0
    calls: int = 0
    malformed_calls: int = 0
    test_runs: int = 0
    generated_tokens: int = 0
    prompt_tokens: int = 0
    reused_tokens: int = 0
    seconds: float = 0.0
    """On the clock, from laying out the files to the last test."""
    stream_s: float = 0.0
    """In which the engine worked on this attempt's turns, those that shared a step counted for each."""
    busy_s: float = 0.0
    """In which the engine worked at all since the attempt recorded before this one: they add up to the run's."""
    device: str = "cpu"
    resumed: bool = False
    """It was cut short by the end of a process, and gone on with."""

    @property
    def key(self) -> str:
        """Names it among all of a folder."""
        return attempt_key(self.instance_id, self.run)


def attempt_key(instance_id: str, run: int) -> str:
    """Names an attempt; also its folder."""
    return f"{instance_id}.run-{run}"


class Attempts(JsonLines[Attempt]):
    """All attempts of a folder."""

    def __init__(self, folder: Path) -> None:
        """Open `records.jsonl`, new or old.

        Raises:
            RecordsDamaged: a line other than a torn last one cannot be read.
        """
        super().__init__(folder / "records.jsonl", Attempt, lambda attempt: attempt.key)

    def of_run(self, run: int) -> list[Attempt]:
        """The attempts of one run, by instance."""
        return [attempt for attempt in self if attempt.run == run]

    @property
    def runs(self) -> list[int]:
        """Numbers of the runs there are."""
        return sorted({attempt.run for attempt in self})
