"""Edits worth trying, ordered before the model is asked: what a guided model chooses among.

A small model knows little of which edits make sense, and what it does know it can say of few. So somebody else, who
need know nothing of language, names the plausible ones with a probability each. The model's own probabilities are
counted in, and the call is the model's: every id of it is decoded, among those that spell one of these edits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from kodkod_agent.progress import Suspect


@dataclass(frozen=True, slots=True)
class RankedEdit:
    """One line of a file changed: `old`, which stands once on it, becomes `new`."""

    path: str
    line: int
    old: str
    new: str
    logprob: float
    """Natural, of this edit among all that were found."""

    @property
    def as_row(self) -> tuple[str, str, str, str]:
        """As a call names it."""
        return self.path, str(self.line), self.old, self.new

    def is_in(self, suspect: Suspect) -> bool:
        """Whether a view of this suspect shows the line."""
        return self.path == suspect.path and suspect.first_line <= self.line <= suspect.last_line


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of a fault."""

    suspects: Sequence[Suspect]
    """The most suspicious first."""
    output: str
    """Of the failing tests, as the test tool told it."""
    texts: Mapping[str, str]
    """Of the suspects' files, by path."""


class EditRanker(Protocol):
    """Knows plausible edits. Pure: equal evidence gives equal edits. Called from a thread."""

    def ranked(self, evidence: Evidence, most: int) -> Sequence[RankedEdit]:
        """The most probable first; none where nothing is known."""
        ...
