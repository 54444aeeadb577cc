"""What a drafter is: something that guesses how sequences go on."""

from __future__ import annotations

from collections.abc import Sequence as Run
from dataclasses import dataclass
from typing import Protocol

from kodkod_engine.api import GenerationRequest
from kodkod_engine.core.sequence import Sequence

MAX_DRAFT_TOKENS = 128
"""Of one sequence in one step."""


@dataclass(frozen=True, slots=True)
class DraftTask:
    """One sequence whose next tokens are wanted."""

    sequence: Sequence
    request: GenerationRequest
    max_tokens: int
    """At least 1. Slots for so many tokens after the sequence's last one are reserved."""
    prefix_ids: tuple[int, ...] = ()
    """Drafts that are settled already: what is wanted comes after them."""

    @property
    def generated_ids(self) -> list[int]:
        """The answer so far."""
        return self.sequence.token_ids[self.sequence.num_prompt_tokens :]


@dataclass(frozen=True, slots=True)
class Draft:
    """A guess. Nothing is promised: any ids of the vocabulary may stand here."""

    token_ids: tuple[int, ...] = ()
    confidences: tuple[float, ...] = ()
    """One per token, in [0, 1]: how sure the drafter is of it, given the tokens before. What that is worth in accepted
    tokens is measured (`calibration`); all that is asked here is that more means more."""

    def __post_init__(self) -> None:
        if len(self.token_ids) != len(self.confidences):
            raise ValueError(f"{len(self.token_ids)} drafted tokens with {len(self.confidences)} confidences")

    def cut(self, num_tokens: int) -> Draft:
        """The first tokens of it; none of them when that is less than one."""
        if len(self.token_ids) <= num_tokens:
            return self
        return Draft(self.token_ids[: max(0, num_tokens)], self.confidences[: max(0, num_tokens)])


NO_DRAFT = Draft()


class Drafter(Protocol):
    """Guesses for all streams of an engine, on the engine thread.

    Whatever a drafter does, answers stay the same. One that raises is switched off for the streams it failed on.
    """

    @property
    def name(self) -> str:
        """As counted and shown."""
        ...

    def draft(self, tasks: Run[DraftTask]) -> list[Draft]:
        """One guess per task, `max_tokens` long at most; empty where there is nothing to say.

        A drafter brings itself up to date from `task.sequence.token_ids`: it may not have been asked for many tokens.
        """
        ...

    def end(self, request_id: str) -> None:
        """A stream that may have been drafted for has ended. Called once or not at all."""
        ...
