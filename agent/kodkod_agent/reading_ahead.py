"""While the person thinks, the engine computes what their words will come after.

A conversation begins with some thousand tokens: tools, system text, the project's instructions. On a processor a large
model takes half a minute for them; done before the first word is said, they are in the cache when it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from kodkod_agent.resources import Resources
from kodkod_agent.state import AgentState
from kodkod_agent.telling import tell_standing
from kodkod_agent.trajectory import Event
from kodkod_engine.api import Engine, GenerationRequest, SamplingParams, Speculation, TokenStream
from kodkod_engine.errors import EngineError


class ReadingAhead:
    """A request that nobody reads, for what it leaves in the cache. It gives way to whatever is really asked."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._stream: TokenStream | None = None

    def begin(self, token_ids: Sequence[int]) -> None:
        """Have these ids computed. What the engine refuses is left to whoever asks for it in earnest."""
        self.stop()
        request = GenerationRequest(tuple(token_ids), SamplingParams(max_tokens=1), speculation=Speculation.NONE)
        with suppress(EngineError):
            self._stream = self._engine.generate(request)

    def stop(self) -> None:
        """Computing ends within a step; what is done stays in the cache."""
        if self._stream is not None:
            self._stream.cancel()
            self._stream = None


class _Unwritten:
    """A trajectory of what has not happened."""

    def append(self, event: Event, *, step: int) -> None:
        """Kept nowhere."""


def coming_ids(state: AgentState, res: Resources) -> tuple[int, ...]:
    """The conversation as it will stand before the person's next words, but for the facts of that moment."""
    ledger = res.ledger
    if ledger.turn_open or ledger.pending_calls:
        return ledger.token_ids  # a run was cut short here, and its end comes first
    ahead = replace(res, ledger=ledger.fork(len(ledger)), trajectory=_Unwritten(), emit=lambda _: None, news=tuple)
    tell_standing(state, ahead)
    return ahead.ledger.token_ids
