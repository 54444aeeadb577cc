"""What the status line counts: context, reuse, prefill and decode, from the engine's counters and the turn's bill."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kodkod_engine.api import EngineStats, Usage

_MIN_MEASURED_TOKENS = 32
"""A shorter prompt tells more of what every step costs than of the pace."""


@dataclass(frozen=True, slots=True)
class Prefill:
    """How far the prompt is computed."""

    done_tokens: int
    total_tokens: int
    left_s: float | None
    """None while there is nothing to tell it by."""
    is_ahead: bool = False
    """Nothing has been asked yet."""


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
    prompt_tokens_per_s: float = 0.0
    """As measured in the turns before; 0 while none has been."""
    _base: EngineStats | None = None
    """As the turn, or what is read ahead of one, found the engine."""
    _began_s: float = 0.0
    _is_warm: bool = False
    """What is in the context was computed here, so the next prompt is new from its end on."""
    _expected_tokens: int = 0
    """To be computed, as long as the engine has not told how many it reuses."""
    _progress: tuple[int, float] | None = None
    """Prompt tokens done, and when that was first seen."""
    _decode_began: tuple[float, int] | None = None
    _is_running: bool = field(default=False)

    @property
    def acceptance(self) -> float | None:
        """Share of the drafted tokens that the model confirmed; None where nothing was drafted."""
        return self.accepted_tokens / self.drafted_tokens if self.drafted_tokens else None

    def open(self, context_tokens: int, max_context_tokens: int, max_step_tokens: int) -> None:
        """A session is open; nothing of it has been computed yet."""
        self.context_tokens, self.max_context_tokens = context_tokens, max_context_tokens
        self.max_step_tokens, self._is_warm = max_step_tokens, False
        self.reused_tokens = self.new_tokens = 0
        self.tokens_per_s = 0.0

    def begin_turn(self, context_tokens: int, now_s: float, counters: EngineStats) -> None:
        """The model is asked, with a prompt of so many tokens."""
        self._expected_tokens = max(1, context_tokens - (self.context_tokens if self._is_warm else 0))
        self.context_tokens = context_tokens
        self.reused_tokens = self.new_tokens = 0
        self.tokens_per_s = 0.0
        self._base = counters
        self._began_s, self._decode_began, self._is_running = now_s, None, True
        self.prefill = self._progress = None

    def shorten(self, context_tokens: int) -> None:
        """The conversation has no more than so many tokens left, and most of them are to be computed anew."""
        self.context_tokens, self._is_warm = context_tokens, False

    def look(self, now_s: float, counters: EngineStats) -> None:
        """Read the counters while a run goes on; between its turns there is nothing to tell."""
        if self._base is None or not self._is_running:
            self.prefill = None
            return
        base = self._base
        # What was read ahead, and had to end its step first, may have left a token.
        written = counters.generated_tokens - base.generated_tokens - base.running
        if written > 0:
            self._look_at_decode(now_s, written)
        elif counters.steps > base.steps:
            self._look_at_prefill(now_s, *self._read(base, counters))
        elif self.prompt_tokens_per_s:
            self._look_at_prefill(now_s, 0, self._expected_tokens)

    def look_ahead(self, counters: EngineStats) -> None:
        """Read the counters while no turn runs: the engine may be reading what the next one comes after."""
        if not counters.running + counters.waiting:
            self.prefill = self._base = None
            return
        self._base = self._base or counters
        done, total = self._read(self._base, counters)
        self.prefill = Prefill(done, total, None, is_ahead=True) if done < total else None

    def _read(self, base: EngineStats, counters: EngineStats) -> tuple[int, int]:
        """Prompt tokens done since then, and all there are to do."""
        total = max(1, self.context_tokens - (counters.reused_tokens - base.reused_tokens))
        return min(total, (counters.steps - base.steps) * self.max_step_tokens), total

    def _look_at_decode(self, now_s: float, written: int) -> None:
        self.prefill = None
        if self._decode_began is None:
            self._decode_began = (now_s, written)
            return
        began_s, before = self._decode_began
        if now_s > began_s:
            self.tokens_per_s = (written - before) / (now_s - began_s)

    def _look_at_prefill(self, now_s: float, done: int, total: int) -> None:
        """Time left by the pace of this turn; before its first step by that of the turns before."""
        if self._progress is None or done > self._progress[0]:
            self._progress = done, now_s if done else self._began_s
        done, since_s = self._progress
        pace = done / (since_s - self._began_s) if done and since_s > self._began_s else self.prompt_tokens_per_s
        left_s = max(0.0, (total - done) / pace - (now_s - since_s)) if pace else None
        self.prefill = Prefill(done, total, left_s)

    def end_turn(self, bill: Usage) -> None:
        """The turn's bill, which replaces what was read on the way."""
        self.stop()
        if bill.prompt_tokens:
            self.reused_tokens, self.new_tokens = bill.reused_tokens, bill.prompt_tokens - bill.reused_tokens
            self.context_tokens = bill.prompt_tokens + bill.generated_tokens
            self._is_warm = True
        if self.new_tokens >= _MIN_MEASURED_TOKENS and bill.prefill_s > 0:
            self.prompt_tokens_per_s = self.new_tokens / bill.prefill_s
        if bill.decode_s > 0 and bill.generated_tokens > 1:
            self.tokens_per_s = bill.generated_tokens / bill.decode_s
        self.drafted_tokens, self.accepted_tokens = bill.drafted_tokens, bill.accepted_tokens
        self.speed_up, self.doubted_tokens = bill.speed_up, bill.doubted_tokens

    def stop(self) -> None:
        """The run is over, however."""
        self.prefill, self._base, self._is_running = None, None, False
