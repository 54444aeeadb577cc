"""A turn that is one call out of some, for a model that is told what makes sense."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from kodkod_engine.chat.special_tokens import Tag
from kodkod_engine.chat.tokenizer import Tokenizer
from kodkod_engine.constraints.automaton import State, Trails
from kodkod_engine.constraints.patterns import CallPattern
from kodkod_engine.constraints.syntax import CallSyntax


class CallConstraint:
    """Exactly one call of those allowed, then the end of the turn. See `api.Constraint`.

    May be used by any number of requests at once, from any thread. It belongs to one moment of one conversation: ask
    for a new one before each turn.
    """

    def __init__(self, tokenizer: Tokenizer, patterns: Iterable[CallPattern]) -> None:
        """Build the beginning; the rest is built when it is reached.

        Raises:
            ValueError: no call is allowed, or the vocabulary lacks one of the tags that calls are written with.
        """
        syntax = CallSyntax(tokenizer, ["\n", Tag.EOS])
        start = State([place for pattern in patterns for place in syntax.call(pattern, lambda *_: [], Tag.TOOL_CALL)])
        if not start.allowed:
            raise ValueError("no call is allowed; allow at least one")
        self._trails = Trails(start)
        self.eos_id: int = tokenizer.eos_id
        """The last id of every turn."""

    def allowed_ids(self, generated_ids: Sequence[int]) -> Collection[int]:
        """Ids that may follow; none after EOS, or after ids that were not allowed themselves."""
        allowed = self._trails.state(generated_ids).allowed
        return () if allowed is None else allowed
