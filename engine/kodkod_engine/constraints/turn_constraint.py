"""A turn of a model that is left to itself: prose and reasoning are free, and every call in it is well formed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from kodkod_engine.chat.tokenizer import Tokenizer
from kodkod_engine.constraints.acceptors import ValueState
from kodkod_engine.constraints.automaton import Place, State, Trails
from kodkod_engine.constraints.free_text import AnyState, AnyText
from kodkod_engine.constraints.patterns import Argument, CallPattern
from kodkod_engine.constraints.syntax import CallSyntax, Given

Made: TypeAlias = tuple[str, Mapping[str, str]]
"""A call that was written: the tool's name, and the texts of its arguments by key."""


class TurnConstraint:
    """Any text, and any number of calls out of some. See `api.Constraint`.

    Armed by the token that opens a call. Where an argument cannot be held to what it should be, because its acceptor
    fails or no token goes on, any text is allowed there instead, and `loosened` says so.

    May be used by any number of requests at once, from any thread. What calls may say follows from the world as it was
    when the constraint was made, or when an argument was reached first: ask for a new one before each turn.
    """

    def __init__(self, tokenizer: Tokenizer, patterns: Callable[[tuple[Made, ...]], Iterable[CallPattern]]) -> None:
        """Build the beginning; the rest is built when it is reached.

        Args:
            tokenizer: the model's.
            patterns: the calls that may come after those that the turn holds already; at least one.

        Raises:
            ValueError: the vocabulary lacks one of the tags that calls are written with.
        """
        self._tokenizer = tokenizer
        self._patterns = patterns
        self.syntax = CallSyntax(tokenizer, begin=self._begin)
        self._loosened: dict[str, None] = {}
        self._trails = Trails(State([_Prose(self, ())]))

    @property
    def loosened(self) -> tuple[str, ...]:
        """What could not be held to, one line each, in the order in which it was met: by drafts too."""
        return tuple(self._loosened)

    def loosened_by(self, generated_ids: Sequence[int]) -> tuple[str, ...]:
        """What of it was met on the way of these ids, and not by drafts that were not taken."""
        if not self._loosened:
            return ()
        alone = TurnConstraint(self._tokenizer, self._patterns)
        alone.allowed_ids(generated_ids)
        return alone.loosened

    def allowed_ids(self, generated_ids: Sequence[int]) -> Collection[int] | None:
        """Ids that may follow; None outside of calls; none after ids that were not allowed themselves."""
        return self._trails.state(generated_ids).allowed

    def calls(self, made: tuple[Made, ...]) -> list[Place]:
        """The places behind the token that opens a call, after some that were made."""

        def then(name: str, given: Given) -> list[Place]:
            return [_Prose(self, (*made, (name, dict(given))))]

        return [place for pattern in self._patterns(made) for place in self.syntax.call(pattern, then)]

    def _begin(self, name: str, argument: Argument) -> ValueState:
        return self.held(f"{name}.{argument.key}", argument.value.start)

    def held(self, where: str, reach: Callable[[], ValueState]) -> ValueState:
        """The state that a step leads to; any text from here on when it fails, or leads where no token goes on."""
        try:
            state = reach()
            if isinstance(state, AnyState):
                return state
            allowed = state.allowed
            if allowed or state.may_end:
                return _Held(self, where, state, allowed)
            cause = "no token of the vocabulary goes on"
        except (OSError, ValueError) as fault:
            cause = " ".join(str(fault).split())
        self._loosened.setdefault(f"{where}: {cause}; any text was allowed")
        return AnyText(self._tokenizer).start()


@dataclass(frozen=True, slots=True)
class _Held:
    """See `ValueState`: another's, watched at each step."""

    turn: TurnConstraint
    where: str
    state: ValueState
    allowed: Collection[int]

    @property
    def may_end(self) -> bool:
        return self.state.may_end

    def after(self, token_id: int) -> ValueState:
        return self.turn.held(self.where, lambda: self.state.after(token_id))


@dataclass(frozen=True, slots=True)
class _Prose:
    """Outside of calls."""

    turn: TurnConstraint
    made: tuple[Made, ...]

    def allowed(self) -> None:
        return None

    def after(self, token_id: int) -> Iterable[Place]:
        return self.turn.calls(self.made) if token_id == self.turn.syntax.call_id else [self]
