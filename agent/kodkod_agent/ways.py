"""The most promising ways to go on: an edit of what was seen, or a view and an edit under it.

A way's score is its log-probability as the model decodes it, among the calls that are offered; where plausible edits
were named (`ranking.py`), what was said of the edit is added to a part of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass

from kodkod_agent.guidance import Guide
from kodkod_agent.progress import read_progress
from kodkod_agent.proposals import ScoredTurn, SearchLimits, next_turns
from kodkod_agent.ranking import RankedEdit
from kodkod_engine.api import Engine
from kodkod_engine.chat.ledger import TokenLedger
from kodkod_engine.constraints.call_constraint import CallConstraint
from kodkod_engine.constraints.patterns import CallPattern
from kodkod_engine.messages import ToolCall, ToolMessage
from kodkod_tools import registry
from kodkod_tools.base import ToolContext, ToolResult

MODEL_SHARE = 0.05
"""Of the model's log-probability in the score of an edit that was named with a probability of its own: chosen on
packages that are learnt from, where the two together rank best."""
_MAX_VIEWS = 5
"""Under which edits are searched for."""
_LIMITS = SearchLimits(branches=48)

Row = tuple[str, str, str, str]
"""Path, line, old and new, as a call names them."""


@dataclass(frozen=True, slots=True)
class Way:
    """Turns that could come next."""

    turns: tuple[ScoredTurn, ...]
    """An edit alone, or a view and then an edit."""
    change: tuple[str, str, str]
    """Path, line, and what the line becomes: two edits may write the same."""
    score: float


@dataclass(frozen=True, slots=True)
class Ways:
    """Finds them. The conversation stays as it is."""

    engine: Engine
    guide: Guide
    tools: ToolContext
    """On the files as they are."""

    async def best(self, ledger: TokenLedger, count: int, *, parent_id: str | None = None) -> list[Way]:
        """So many, or fewer; each change once, the best first.

        Raises:
            EngineError: the engine failed.
        """
        progress = read_progress(ledger.view())
        patterns = await asyncio.to_thread(self.guide.patterns, ledger.view())
        named = {edit.as_row: edit for edit in await asyncio.to_thread(self.guide.ranked, progress) or ()}
        found: dict[tuple[str, str, str], Way] = {}
        for way in await self._edits(ledger, (), patterns, named, count, parent_id):
            found.setdefault(way.change, way)
        for view, hope in await self._views(ledger, patterns, named, parent_id):
            best = sorted((way.score for way in found.values()), reverse=True)
            if len(best) >= count and hope < best[count - 1]:
                break  # whatever is under it is worse still
            under = await self._seen(ledger, view)
            inner = await asyncio.to_thread(self.guide.patterns, under.view())
            for way in await self._edits(under, (view,), inner, named, count, None):
                if way.change not in found or way.score > found[way.change].score:
                    found[way.change] = way
        return sorted(found.values(), key=lambda way: -way.score)[:count]

    async def _views(
        self, ledger: TokenLedger, patterns: Sequence[CallPattern], named: dict[Row, RankedEdit], parent_id: str | None
    ) -> list[tuple[ScoredTurn, float]]:
        """With the most that an edit under each can score, the most hopeful first."""
        turns = await self._turns(ledger, "view", patterns, 2 * _MAX_VIEWS, parent_id)
        hopes = [(turn, self._hope(ledger, turn, named)) for turn in turns]
        return sorted(hopes, key=lambda entry: -entry[1])[:_MAX_VIEWS]

    def _hope(self, ledger: TokenLedger, view: ScoredTurn, named: dict[Row, RankedEdit]) -> float:
        if not named:
            return view.logprob
        call = _written(ledger, view)[1][0]
        path, first, last = (call.arguments.get(name) for name in ("path", "start", "end"))
        inside = [
            edit.logprob
            for edit in named.values()
            if edit.path == path and isinstance(first, int) and isinstance(last, int) and first <= edit.line <= last
        ]
        return max(inside, default=-100.0) + MODEL_SHARE * view.logprob

    async def _edits(
        self,
        ledger: TokenLedger,
        before: tuple[ScoredTurn, ...],
        patterns: Sequence[CallPattern],
        named: dict[Row, RankedEdit],
        count: int,
        parent_id: str | None,
    ) -> list[Way]:
        turns = await self._turns(ledger, "edit", patterns, len(named) or count, parent_id)
        return [self._way(ledger, (*before, turn), named) for turn in turns]

    def _way(self, ledger: TokenLedger, turns: tuple[ScoredTurn, ...], named: dict[Row, RankedEdit]) -> Way:
        call = _written(ledger, turns[-1])[1][0]
        decoded = sum(turn.logprob for turn in turns)
        edit = named.get(_row(call))
        score = decoded if edit is None else edit.logprob + MODEL_SHARE * decoded
        return Way(turns, self.changed(call), score)

    async def _turns(
        self,
        ledger: TokenLedger,
        name: str,
        patterns: Sequence[CallPattern],
        num_turns: int,
        parent_id: str | None,
    ) -> list[ScoredTurn]:
        """The most probable turns that call this tool."""
        wanted = [pattern for pattern in patterns if pattern.name == name]
        if not wanted:
            return []
        constraint = CallConstraint(self.guide.tokenizer, wanted)
        return await next_turns(self.engine, ledger, constraint, num_turns, _LIMITS, parent_id=parent_id)

    async def _seen(self, ledger: TokenLedger, turn: ScoredTurn) -> TokenLedger:
        """The conversation with a turn that only looks, and what it saw."""
        draft, calls = _written(ledger, turn)
        for call in calls:
            async with aclosing(registry.run_call(call, self.tools)) as items:
                async for item in items:
                    if isinstance(item, ToolResult):
                        draft.append_tool_results([ToolMessage(call_id=call.id, text=item.for_model)])
        return draft

    def changed(self, edit: ToolCall) -> tuple[str, str, str]:
        """What an edit makes of its line; see `Way.change`."""
        path, line, old, new = _row(edit)
        lines = (self.guide.files.text(path) or "").split("\n")
        at = int(line) - 1 if line.isdigit() else -1
        before = lines[at] if 0 <= at < len(lines) else old
        return path, line, before.replace(old, new)


def _row(edit: ToolCall) -> Row:
    path, line, old, new = (str(edit.arguments.get(name, "")) for name in ("path", "line", "old", "new"))
    return path, line, old, new


def _written(ledger: TokenLedger, turn: ScoredTurn) -> tuple[TokenLedger, Sequence[ToolCall]]:
    draft = ledger.fork(len(ledger))
    draft.begin_turn()
    draft.append_generated(turn.token_ids)
    return draft, draft.end_turn().calls
