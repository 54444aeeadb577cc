"""What one step does, in plain integers: the runs of tokens to compute, and the blocks to copy before."""

from __future__ import annotations

from dataclasses import dataclass, field

from kodkod_engine.core.sequence import Sequence


@dataclass(frozen=True, slots=True)
class StepEntry:
    """Compute tokens [start, start + num_tokens) of one sequence."""

    sequence: Sequence
    start: int
    num_tokens: int
    samples: bool
    """The run reaches the last token: the next one is to be chosen from its logits."""


@dataclass(frozen=True, slots=True)
class BlockCopy:
    """Copy the first `num_tokens` slots of one block to another."""

    source_block: int
    target_block: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step. Decodes come first, then prefill runs, each in order of arrival."""

    entries: tuple[StepEntry, ...] = ()
    copies: tuple[BlockCopy, ...] = ()
    """To be executed in this order, before the forward."""
    failed: tuple[tuple[Sequence, str], ...] = ()
    """Sequences that can never fit, finished by now, each with a one-line cause."""


@dataclass(slots=True)
class PlanBuilder:
    """A plan in the making."""

    budget: int
    """Tokens that may still be given out."""
    entries: dict[str, StepEntry] = field(default_factory=dict)
    """By sequence id, in the order of the step."""
    copies: list[BlockCopy] = field(default_factory=list)
    failed: list[tuple[Sequence, str]] = field(default_factory=list)

    def add(self, sequence: Sequence, num_tokens: int) -> None:
        """Compute the next `num_tokens` tokens of the sequence."""
        start = sequence.num_computed
        samples = start + num_tokens == sequence.num_tokens
        self.entries[sequence.id] = StepEntry(sequence, start, num_tokens, samples)
        self.budget -= num_tokens

    def drop(self, sequence: Sequence) -> None:
        """Compute nothing of the sequence after all."""
        entry = self.entries.pop(sequence.id, None)
        if entry is not None:
            self.budget += entry.num_tokens

    def plan(self) -> StepPlan:
        """What has been gathered."""
        return StepPlan(tuple(self.entries.values()), tuple(self.copies), tuple(self.failed))
