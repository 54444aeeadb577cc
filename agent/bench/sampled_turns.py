"""The turns that were sampled: kept line by line in a work folder, and counted."""

from __future__ import annotations

import os
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from call_checks import CheckedCall, counts, shares
from pydantic import BaseModel, ValidationError


class Turn(BaseModel):
    """One line of the work folder."""

    number: int
    calls: list[CheckedCall]
    """Whole ones."""
    cut: bool
    """The token limit ended it inside a call."""
    tokens: int
    constrained: int
    forced: int
    drafted: int
    loosened: list[str] = []
    text: str = ""
    """What was written, where a call lacks a property or something other than calls was written."""


class Clock(BaseModel):
    """Another kind of line: how long this run has been at work."""

    began: str
    calls: int
    wall_s: float
    cpu_s: float


@dataclass
class Work:
    """The lines of one model."""

    path: Path
    turns: dict[int, Turn] = field(default_factory=dict)
    clocks: dict[str, Clock] = field(default_factory=dict)
    num_calls: int = 0
    """Whole ones: counted as they come, for it is asked before every turn."""

    def __post_init__(self) -> None:
        """Read what is there; a torn last line is cut off."""
        self.path.touch()
        data = self.path.read_bytes()
        os.truncate(self.path, data.rfind(b"\n") + 1)
        for line in data.split(b"\n")[:-1]:
            self._take(line)

    def _take(self, line: bytes) -> None:
        try:
            turn = Turn.model_validate_json(line)
            before = self.turns.get(turn.number)
            self.num_calls += len(turn.calls) - (0 if before is None else len(before.calls))
            self.turns[turn.number] = turn
        except ValidationError:
            clock = Clock.model_validate_json(line)
            self.clocks[clock.began] = clock

    def add(self, line: Turn | Clock) -> None:
        """Write one; it outlives this process."""
        data = line.model_dump_json(exclude_defaults=True).encode() + b"\n"
        with self.path.open("ab") as file:
            file.write(data)
        self._take(data)


def work_of(name: str, folder: Path) -> Work:
    """What is there of one model."""
    return Work(folder / f"{name}.jsonl")


def figures(work: Work) -> dict[str, Any]:
    """All that is said of one model."""
    turns = list(work.turns.values())
    calls = [call for turn in turns for call in turn.calls]
    clocks = list(work.clocks.values())
    timed, wall_s = sum(clock.calls for clock in clocks), sum(clock.wall_s for clock in clocks)
    tokens = sum(turn.tokens for turn in turns)
    single = [turn.tokens for turn in turns if len(turn.calls) == 1 and not turn.cut]
    return {
        "calls": len(calls),
        "turns": len(turns),
        "turns_of_several_calls": sum(len(turn.calls) > 1 for turn in turns),
        "calls_cut_by_the_token_limit": sum(turn.cut for turn in turns),
        "properties": shares(calls),
        "turns_with_anything_but_calls_or_a_fault": sum(bool(turn.text) for turn in turns),
        "arguments_that_were_not_held": counts([line for turn in turns for line in turn.loosened]),
        "by_tool": counts([call.tool for call in calls]),
        "what_tools_said_when_they_were_done": {
            tool: counts([call.outcome for call in calls if call.tool == tool and call.outcome])
            for tool in sorted({call.tool for call in calls if call.outcome})
        },
        "tokens": tokens,
        "mean_tokens_of_a_turn_of_one_whole_call": round(statistics.mean(single), 1) if single else None,
        "constrained_share": round(sum(turn.constrained for turn in turns) / max(1, tokens), 4),
        "forced_share": round(sum(turn.forced for turn in turns) / max(1, tokens), 4),
        "turns_with_drafts": sum(turn.drafted > 0 for turn in turns),
        "calls_per_second": round(timed / wall_s, 2) if wall_s else None,
        "cpu_ms_per_call": round(1e3 * sum(clock.cpu_s for clock in clocks) / timed, 2) if timed else None,
        "unsound": [call.model_dump() for call in calls if not call.is_sound][:50],
        "texts_of_unsound_turns": [turn.text for turn in turns if turn.text][:50],
    }
