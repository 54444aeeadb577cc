"""Token automata: places, the states they make up, and the way through them.

A state is the set of *places* that the ids so far may have led to. States are made when they are first reached and kept
under the ids that lead there, so that a step costs one look-up and any number of streams and forks share them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from kodkod_engine.constraints.token_mask import union

_MAX_TRAILS = 8
"""Sequences whose states are remembered: the streams and drafts that share one constraint."""


class Place(Protocol):
    """Somewhere in a turn."""

    def allowed(self) -> Collection[int] | None:
        """Ids that may follow; None when anything may."""
        ...

    def after(self, token_id: int) -> Iterable[Place]:
        """The places behind an id that is allowed; none behind the last."""
        ...


class State:
    """What is allowed after some ids, and the states behind each."""

    def __init__(self, places: Sequence[Place]) -> None:
        self._places = places
        self._allowed_at = [place.allowed() for place in places]
        self._next: dict[int, State] = {}
        known = [ids for ids in self._allowed_at if ids is not None]
        self.allowed: Collection[int] | None = None
        if len(known) == len(places):
            self.allowed = union(known) if known else frozenset()

    def after(self, token_id: int) -> State:
        """The state behind an id; nothing is allowed behind one that was not."""
        state = self._next.get(token_id)
        if state is None:
            reached = [
                behind
                for place, allowed in zip(self._places, self._allowed_at, strict=True)
                if allowed is None or token_id in allowed
                for behind in place.after(token_id)
            ]
            if reached == self._places:
                return self
            # Two threads may both get here; their states are equal, and either may stay.
            state = self._next[token_id] = State(reached)
        return state


@dataclass(frozen=True, slots=True, eq=False)
class Literal:
    """Within ids that leave no choice."""

    ids: tuple[int, ...]
    index: int
    then: Callable[[], Iterable[Place]]

    def allowed(self) -> Collection[int]:
        """See `Place`."""
        return (self.ids[self.index],)

    def after(self, token_id: int) -> Iterable[Place]:
        """See `Place`."""
        del token_id
        index = self.index + 1
        return [Literal(self.ids, index, self.then)] if index < len(self.ids) else self.then()


class Trails:
    """From ids to states, in time that does not grow with them: sequences asked about lately go on where they were."""

    def __init__(self, start: State) -> None:
        self._start = start
        self._trails: list[_Trail] = []
        self._lock = threading.Lock()

    def state(self, ids: Sequence[int]) -> State:
        """The state behind some ids, from the start."""
        wanted = list(ids)
        with self._lock:
            trail = self._nearest(wanted)
            for token_id in wanted[len(trail.ids) :]:
                trail.states.append(trail.states[-1].after(token_id))
                trail.ids.append(token_id)
            return trail.states[len(wanted)]

    def _nearest(self, wanted: list[int]) -> _Trail:
        """A trail of which the wanted ids are the beginning or the continuation; moved to the front."""
        best, shared = _Trail([], [self._start]), 0
        for trail in self._trails:
            common = trail.common(wanted)
            if common > shared or (common == shared and not best.ids):
                best, shared = trail, common
        if shared < min(len(wanted), len(best.ids)):
            best = _Trail(best.ids[:shared], best.states[: shared + 1])
        self._trails = [best, *(trail for trail in self._trails if trail is not best)][:_MAX_TRAILS]
        return best


@dataclass(slots=True)
class _Trail:
    ids: list[int]
    states: list[State]
    """One more than ids."""

    def common(self, ids: list[int]) -> int:
        """How many ids both begin with. Comparing stretches at once is a hundred times as fast as one by one."""
        low, high = 0, min(len(ids), len(self.ids))
        if ids[:high] == self.ids[:high]:
            return high
        while low < high - 1:
            middle = (low + high) // 2
            low, high = (middle, high) if ids[low:middle] == self.ids[low:middle] else (low, middle)
        return low
