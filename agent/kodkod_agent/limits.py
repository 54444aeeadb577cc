"""How much a run has used, and how much it may."""

from __future__ import annotations

import time
from dataclasses import dataclass

from kodkod_agent.config import AgentConfig
from kodkod_agent.errors import LimitReached
from kodkod_agent.state import AgentState


class Stopwatch:
    """Seconds at work. It stands still while a person is asked, and goes on from what an earlier process counted."""

    def __init__(self) -> None:
        self._counted_s = 0.0
        self._since: float | None = None

    def start(self, counted_s: float) -> None:
        """Go on from `counted_s`."""
        self._counted_s, self._since = counted_s, time.monotonic()

    def stop(self) -> float:
        """Stand still; returns what was counted."""
        self._counted_s, self._since = self.seconds, None
        return self._counted_s

    @property
    def seconds(self) -> float:
        """Counted so far."""
        return self._counted_s + (0.0 if self._since is None else time.monotonic() - self._since)


@dataclass(frozen=True, slots=True)
class Remaining:
    """What a run may still use."""

    turns: int
    tokens: int
    """To be generated."""
    seconds: float


def remaining(config: AgentConfig, state: AgentState, seconds: float) -> Remaining:
    """What is left after `seconds` at work."""
    return Remaining(
        turns=config.max_turns - (state["step"] - state["first_step"]),
        tokens=config.max_tokens - state["generated_tokens"],
        seconds=config.timeout_s - seconds,
    )


def require_more(config: AgentConfig, state: AgentState, seconds: float) -> Remaining:
    """What is left, when it is enough for one more turn.

    Raises:
        LimitReached: it is not.
    """
    left = remaining(config, state, seconds)
    if left.turns <= 0:
        raise LimitReached(f"{config.max_turns} turns are used up; give more by agent.max_turns (--max-turns)")
    if left.tokens <= 0:
        raise LimitReached(
            f"{config.max_tokens:,} generated tokens are used up; give more by agent.max_tokens (--max-tokens)"
        )
    if left.seconds <= 0:
        raise out_of_time(config)
    return left


def out_of_time(config: AgentConfig) -> LimitReached:
    """The time is over."""
    return LimitReached(f"{config.timeout_s:g} seconds are used up; give more by agent.timeout_s (--timeout)")
