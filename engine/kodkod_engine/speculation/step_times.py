"""What speculation is told of a step once it is over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StepTimes:
    """What a step was and what it took, or a visit of several."""

    num_tokens: int
    """Of the step, or of each."""
    context: int
    emitted: Mapping[str, int]
    """Tokens that each stream got, where it got any."""
    seconds: float
    """From the planning to the last token's emission, drafting included."""
    num_steps: int = 1
