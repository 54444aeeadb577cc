"""What the status line counts: context, reuse, prefill and decode, from the engine's counters and the turn's bill."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kodkod_engine.api import EngineStats, Usage


@dataclass(frozen=True, slots=True)
class Prefill:
    """How far the prompt is computed."""

    done_tokens: int
    total_tokens: int
    left_s: float | None
    """None while there is nothing to tell it by."""


@dataclass(slots=True)
class Meter:
    """Counts of the turn that runs, or of the last one."""

    max_context_tokens: int = 0
    max_step_tokens: int = 0
    context_tokens: int = 0
    reused_tokens: int = 0
    new_tokens: int = 0
    """Prompt tokens that had to be computed."""
    tokens_per_s: float = 0.0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    speed_up: float = 1.0
    """Of decoding, by the drafts."""
    doubted_tokens: int = 0
    """That the model was led to by a constraint, and held improbable."""
    prefill: Prefill | None = None
    """None when no prompt is being computed."""
    _base: tuple[int, int, int] | None = None
    _began_s: float = 0.0
    _decode_began: tuple[float, int] | None = None
    _is_running: bool = field(default=False)

    @property
    def acceptance(self) -> float | None:
        """Share of the drafted tokens that the model confirmed; None where nothing was drafted."""
        return self.accepted_tokens / self.drafted_tokens if self.drafted_tokens else None

    def begin_turn(self, context_tokens: int, now_s: float, counters: EngineStats) -> None:
        """The model is asked, with a prompt of so many tokens."""
        self.context_tokens = context_tokens
        self.reused_tokens = self.new_tokens = 0
        self.tokens_per_s = 0.0
        self._base = (counters.steps, counters.reused_tokens, counters.generated_tokens)
        self._began_s, self._decode_began, self._is_running = now_s, None, True
        self.prefill = None

    def look(self, now_s: float, counters: EngineStats) -> None:
        """Read the counters while the turn runs."""
        if self._base is None or not self._is_running:
            return
        steps, reused, generated = self._base
        written = counters.generated_tokens - generated
        if written > 0:
            self._look_at_decode(now_s, written)
        elif counters.steps > steps:
            self._look_at_prefill(now_s, counters.steps - steps, counters.reused_tokens - reused)

    def _look_at_decode(self, now_s: float, written: int) -> None:
        self.prefill = None
        if self._decode_began is None:
            self._decode_began = (now_s, written)
            return
        began_s, before = self._decode_began
        if now_s > began_s:
            self.tokens_per_s = (written - before) / (now_s - began_s)

    def _look_at_prefill(self, now_s: float, steps: int, reused: int) -> None:
        total = max(1, self.context_tokens - reused)
        done = min(total, steps * self.max_step_tokens)
        spent_s = now_s - self._began_s
        self.prefill = Prefill(done, total, spent_s * (total - done) / done if done and spent_s > 0 else None)

    def end_turn(self, bill: Usage) -> None:
        """The turn's bill, which replaces what was read on the way."""
        self.prefill, self._is_running = None, False
        if bill.prompt_tokens:
            self.reused_tokens, self.new_tokens = bill.reused_tokens, bill.prompt_tokens - bill.reused_tokens
            self.context_tokens = bill.prompt_tokens + bill.generated_tokens
        if bill.decode_s > 0 and bill.generated_tokens > 1:
            self.tokens_per_s = bill.generated_tokens / bill.decode_s
        self.drafted_tokens, self.accepted_tokens = bill.drafted_tokens, bill.accepted_tokens
        self.speed_up, self.doubted_tokens = bill.speed_up, bill.doubted_tokens

    def stop(self) -> None:
        """The run is over, however."""
        self.prefill, self._is_running = None, False
