"""What a run came to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import JsonValue

from kodkod_agent.state import Status


@dataclass(frozen=True, slots=True)
class CandidateReport:
    """One way to go on that was tried, beside others."""

    number: int
    """From 1, the run itself."""
    session_id: str
    status: Status
    reason: str
    summary: str
    change: str
    """The last edit it wrote, in one line."""
    diff: str
    """What it left changed, in its own copy of the work tree."""
    turns: int = 0
    calls: int = 0
    malformed_calls: int = 0
    """That could not be read, or name no tool."""
    test_runs: int = 0
    generated_tokens: int = 0
    prompt_tokens: int = 0
    reused_tokens: int = 0
    seconds: float = 0.0
    logprob: float | None = None
    """Of the turns it was begun with, together; None where they were drawn."""


@dataclass(frozen=True, slots=True)
class RunReport:
    """The end of a run, for a person, a script or an evaluation."""

    session_id: str
    status: Status
    reason: str
    """One line: why it ended so."""
    summary: str
    """The model's last word."""
    diff: str
    """Unified diff of the work tree since the run began. It is read from the files: no model writes it."""
    tests_before: Mapping[str, JsonValue] = field(default_factory=dict)
    """Facts of the test tool before the first turn; empty when they were not run."""
    tests_after: Mapping[str, JsonValue] = field(default_factory=dict)
    turns: int = 0
    generated_tokens: int = 0
    prompt_tokens: int = 0
    """Over all turns."""
    reused_tokens: int = 0
    """Prompt tokens that cost nothing, for they were in the cache."""
    constrained_tokens: int = 0
    """Generated tokens at which not everything was allowed."""
    doubted_tokens: int = 0
    """Those of them at which the model wanted something else: it gave `AgentConfig.doubt_below` or less to the rest."""
    loosened: tuple[str, ...] = ()
    """Arguments that could not be held to what they should be, and why."""
    seconds: float = 0.0
    """At work; waiting for a person does not count."""
    test_runs: int = 0
    """By the model and by the agent, those of all candidates among them."""
    candidates: tuple[CandidateReport, ...] = ()
    """All that ended by themselves, the run itself first; empty when nothing but the run was tried."""
    winner: int | None = None
    """Number of the candidate whose changes are in the work tree, when it is another than the run itself."""

    @property
    def new_tokens(self) -> int:
        """Tokens that had to be computed: prompt tokens not in the cache, and generated ones."""
        return self.prompt_tokens - self.reused_tokens + self.generated_tokens

    @property
    def exit_code(self) -> int:
        """What a command ends with."""
        return self.status.exit_code
