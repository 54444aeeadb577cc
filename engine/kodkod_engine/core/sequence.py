"""One request inside the engine: its tokens, how far they are computed, and the blocks they lie in."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class SequenceStatus(StrEnum):
    """Where a sequence is between its arrival and its end."""

    WAITING = "waiting"
    """Not started, or preempted. Holds no blocks."""
    RUNNING = "running"
    FINISHED = "finished"
    """Done, cancelled or failed. Holds no blocks."""


@dataclass(slots=True, eq=False)
class Sequence:
    """Tokens in order, of which the first `num_computed` have their KV in `block_ids`.

    Scheduler and block manager change it; the runner reads it. Token i lies in slot
    `block_ids[i // block_size] * block_size + i % block_size`.
    """

    id: str
    token_ids: list[int]
    """The prompt, then what was generated. Drafts are not among them."""
    num_prompt_tokens: int
    max_total_tokens: int
    """Prompt and answer together may not be longer."""
    num_computed: int = 0
    num_slots: int = 0
    """Slots [0, num_slots) may be written; those from num_computed on belong to this sequence alone."""
    block_ids: list[int] = field(default_factory=list)
    status: SequenceStatus = SequenceStatus.WAITING
    reused_tokens: int = 0
    """Prompt tokens whose KV was there when the sequence first ran."""
    preemptions: int = 0
    looked_up: int = -1
    """The number of its preemptions when a store was last asked for it."""
    arrival: int = 0
    """Rank among all sequences ever added; the smaller one is the older."""

    @property
    def num_tokens(self) -> int:
        """Prompt and generated so far."""
        return len(self.token_ids)

    @property
    def num_generated(self) -> int:
        """Tokens after the prompt."""
        return self.num_tokens - self.num_prompt_tokens

    @property
    def num_uncomputed(self) -> int:
        """Tokens that the model has still to see."""
        return self.num_tokens - self.num_computed

    @property
    def is_decoding(self) -> bool:
        """The last token alone is uncomputed."""
        return self.num_uncomputed == 1

    def check_invariants(self, block_size: int) -> None:
        """Assert what holds between two steps."""
        assert 1 <= self.num_prompt_tokens <= self.num_tokens <= self.max_total_tokens, f"{self.id}: token counts"
        assert 0 <= self.num_computed <= self.num_tokens, f"{self.id}: computed more than there is"
        assert self.num_computed <= self.num_slots, f"{self.id}: computed tokens without slots"
        assert len(self.block_ids) == -(-self.num_slots // block_size), f"{self.id}: blocks do not fit the slots"
        assert len(set(self.block_ids)) == len(self.block_ids), f"{self.id}: a block twice"
        assert 0 <= self.reused_tokens <= self.num_prompt_tokens, f"{self.id}: reused more than the prompt"
        assert self.status is SequenceStatus.RUNNING or not self.block_ids, f"{self.id}: holds blocks while idle"
