"""How long a run may go on, how often it may err, and what it may put before the model."""

from __future__ import annotations

import os

from pydantic import BaseModel, ConfigDict, Field


class AgentConfig(BaseModel):
    """Settings of one session's runs."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    max_turns: int = Field(default=100, ge=1)
    """Turns of the model in one run."""
    max_tokens: int = Field(default=200_000, ge=1)
    """Tokens generated in one run."""
    timeout_s: float = Field(default=3_600.0, gt=0)
    """Time of one run at work; waiting for a person's answer does not count."""

    max_turn_tokens: int = Field(default=4_096, ge=16)
    """Tokens generated in one turn."""
    temperature: float = Field(default=0.0, ge=0)
    """0 is greedy."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Keep the smallest set of tokens whose mass reaches p."""
    seed: int = 0
    """Each turn draws with the seed plus its own number."""

    constraints: bool = True
    """Hold calls to what is declared and to the work tree as it is; off: a model that is not guided writes freely."""
    doubt_below: float = Field(default=0.1, ge=0, le=1)
    """Tell of tokens at which the model gave less than this to all that a call may be."""

    attended: bool = False
    """A person reads along: a turn without a call is an answer, and ends the run."""
    max_nudges: int = Field(default=2, ge=0)
    """Turns without a call that are answered by a reminder, when nobody reads along."""
    max_malformed_calls: int = Field(default=5, ge=1)
    """Malformed or unknown calls in a row before the run ends."""
    max_loop_warnings: int = Field(default=2, ge=0)
    """Times the model is told that it goes round in circles, before the run ends."""
    max_tries: int = Field(default=8, ge=1)
    """Edits a guided model may try in one conversation, each taken back when the tests fail."""

    max_stop_objections: int = Field(default=3, ge=0)
    """Times in a run that the model is sent on when a hook objects to its end."""
    verify: bool = True
    """Run the tests before a run may end as done."""
    baseline_tests: bool = True
    """Run them before the first turn too, when nobody reads along: what failed before is not the run's doing."""
    max_verifications: int = Field(default=3, ge=1)
    """Tries to finish with tests that fail."""
    test_targets: tuple[str, ...] = ()
    """Which tests tell that the task is done; empty: all that are found."""
    run_tests: bool | None = None
    """Whether the project has tests to run; None looks for them."""

    max_result_share: float = Field(default=0.25, gt=0, le=0.5)
    """Most of the context one tool result may take."""
    rebuild_share: float = Field(default=0.5, gt=0, lt=1)
    """Most of the context the conversation may take after a rebuild."""
    max_rebuilds: int = Field(default=20, ge=0)
    """Rebuilds in one run."""
    summary_tokens: int = Field(default=1_024, ge=16)
    """Longest summary at a rebuild."""
    tell_facts: bool = True
    """Tell the model the date, git's status, changes of the mode, and when a budget is nearly used up."""
    read_ahead: bool = True
    """While the person thinks, in the app and in editors: compute what their words come after."""
    max_tools_share: float = Field(default=0.1, ge=0, le=0.5)
    """Most of the context that the declarations of MCP servers' tools may take."""
    max_skills_chars: int = Field(default=8_000, ge=0)
    """Most that the list of skills may take."""
    max_instruction_chars: int = Field(default=16_000, ge=0)
    """Most that is read of one AGENTS.md."""
    checkpoints_kept: int = Field(default=16, ge=2)
    """Checkpoints of the graph that stay; older ones serve nobody, for a fork starts from the session's own record."""


class CandidatesConfig(BaseModel):
    """How many ways to go on are tried where a run's change does not pass."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    count: int = Field(default=1, ge=1)
    """Candidates in all, the run itself among them."""
    at_once: int = Field(default=0, ge=0)
    """Most that work side by side; 0: two, or one where there is one processor."""

    @property
    def num_at_once(self) -> int:
        """As it is meant."""
        return self.at_once or min(2, os.cpu_count() or 1)
