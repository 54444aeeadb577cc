"""The most promising ways to go on: an edit of what was seen, or a view and an edit under it.

Where plausible edits are named (`ranking.py`), what is said of them and what the model thinks of them (`judging.py`)
are added up. Elsewhere a way's score is its log-probability as the model decodes it, among the calls that are offered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from kodkod_agent.guidance import Guide
from kodkod_agent.judging import Judge, JudgedEdit, seen, written
from kodkod_agent.progress import Progress, read_progress
from kodkod_agent.proposals import ScoredTurn, SearchLimits, next_turns
from kodkod_engine.api import Engine
from kodkod_engine.chat.ledger import TokenLedger
from kodkod_engine.constraints.call_constraint import CallConstraint
from kodkod_engine.constraints.patterns import CallPattern
from kodkod_engine.messages import ToolCall
from kodkod_tools.base import ToolContext

_MAX_VIEWS = 5
"""Under which edits are searched for."""
_LIMITS = SearchLimits(branches=48)


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
        named = await asyncio.to_thread(self.guide.named, progress)
        if named:
            judge = Judge(self.engine, self.guide.tokenizer, self.tools)
            ways = [self._judged(one, progress) for one in await judge.judged(ledger, progress, named)]
        else:
            ways = await self._searched(ledger, count, parent_id)
        found: dict[tuple[str, str, str], Way] = {}
        for way in sorted(ways, key=lambda way: -way.score):
            found.setdefault(way.change, way)
        return list(found.values())[:count]

    def _judged(self, one: JudgedEdit, progress: Progress) -> Way:
        edit = one.edit
        is_hidden = progress.line(edit.path, edit.line) is None
        turns = (one.view, one.turn) if is_hidden else (one.turn,)
        return Way(turns, self._change(edit.path, str(edit.line), edit.old, edit.new), one.score)

    async def _searched(self, ledger: TokenLedger, count: int, parent_id: str | None) -> list[Way]:
        """Of an edit of what was seen, and of edits under the most probable views."""
        patterns = await asyncio.to_thread(self.guide.patterns, ledger.view())
        found = await self._edits(ledger, (), patterns, count, parent_id)
        views = await self._turns(ledger, "view", patterns, 2 * _MAX_VIEWS, parent_id)
        for view in views[:_MAX_VIEWS]:
            best = sorted((way.score for way in found), reverse=True)
            if len(best) >= count and view.logprob < best[count - 1]:
                break  # whatever is under it is worse still
            under = await seen(ledger, view, self.tools)
            inner = await asyncio.to_thread(self.guide.patterns, under.view())
            found += await self._edits(under, (view,), inner, count, None)
        return found

    async def _edits(
        self,
        ledger: TokenLedger,
        before: tuple[ScoredTurn, ...],
        patterns: Sequence[CallPattern],
        count: int,
        parent_id: str | None,
    ) -> list[Way]:
        turns = await self._turns(ledger, "edit", patterns, count, parent_id)
        return [self._way(ledger, (*before, turn)) for turn in turns]

    def _way(self, ledger: TokenLedger, turns: tuple[ScoredTurn, ...]) -> Way:
        call = written(ledger, turns[-1])[1][0]
        return Way(turns, self.changed(call), sum(turn.logprob for turn in turns))

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

    def changed(self, edit: ToolCall) -> tuple[str, str, str]:
        """What an edit makes of its line; see `Way.change`."""
        path, line, old, new = (str(edit.arguments.get(name, "")) for name in ("path", "line", "old", "new"))
        return self._change(path, line, old, new)

    def _change(self, path: str, line: str, old: str, new: str) -> tuple[str, str, str]:
        lines = (self.guide.files.text(path) or "").split("\n")
        at = int(line) - 1 if line.isdigit() else -1
        before = lines[at] if 0 <= at < len(lines) else old
        return path, line, before.replace(old, new)
