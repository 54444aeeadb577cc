"""What the model thinks of edits that somebody named: of looking at the function, and of making the edit then.

It is asked in a conversation of its own that has the task, the failing tests, one view and one edit, and nothing else:
the form that a small model learns from. What was tried before does not bear on what it says. A long output of tests is
cut: behind more tokens than it ever read at once the model knows nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass

from kodkod_agent.progress import SUSPECTS, Progress, Suspect
from kodkod_agent.proposals import ScoredTurn, free_logprob
from kodkod_agent.ranking import RankedEdit
from kodkod_engine.api import Engine
from kodkod_engine.chat.ledger import TokenLedger
from kodkod_engine.chat.special_tokens import Tag
from kodkod_engine.chat.template import assistant_pieces, encode_pieces
from kodkod_engine.chat.tokenizer import Tokenizer
from kodkod_engine.messages import AssistantMessage, Message, ToolCall, ToolMessage, UserMessage
from kodkod_tools import registry
from kodkod_tools.base import ToolContext, ToolResult

VIEW_SHARE, EDIT_SHARE = 0.2, 0.2
"""Of the model's log-probabilities in the score of an edit: chosen on packages that are learnt from."""
LEAST_VIEW, LEAST_EDIT = -8.0, -15.0
"""What the model holds less probable counts as this: it is often sure without cause."""
MAX_OUTPUT_TOKENS = 900
"""Of the tests, as the model is told of them."""
_AT_ONCE = 8
"""Edits in a step of the engine: each of their tokens is a row of the vocabulary in memory."""


@dataclass(frozen=True, slots=True)
class JudgedEdit:
    """An edit with what both say of it."""

    edit: RankedEdit
    view: ScoredTurn
    turn: ScoredTurn
    """The edit, under that view."""

    @property
    def score(self) -> float:
        """Of both together; natural, up to a constant."""
        of_view = max(self.view.logprob, LEAST_VIEW)
        return self.edit.logprob + VIEW_SHARE * of_view + EDIT_SHARE * max(self.turn.logprob, LEAST_EDIT)


@dataclass(frozen=True, slots=True)
class Judge:
    """Asks the model. The conversations it is given stay as they are."""

    engine: Engine
    tokenizer: Tokenizer
    tools: ToolContext
    """On the files as they are."""

    async def judged(self, ledger: TokenLedger, progress: Progress, named: Sequence[RankedEdit]) -> list[JudgedEdit]:
        """The edits that some suspect shows, in no order.

        Args:
            ledger: of the run.
            progress: of the run.
            named: the edits.

        Raises:
            EngineError: the engine failed.
        """
        asked = ledger.rebuild(self.up_to_the_tests(ledger.view(), progress))
        found: list[JudgedEdit] = []
        left = list(named)
        for suspect in progress.suspects:
            own = [edit for edit in left if edit.is_in(suspect)]
            if own:
                found += await self._under_a_view(asked, suspect, own)
                left = [edit for edit in left if edit not in own]
        return found

    async def _under_a_view(self, asked: TokenLedger, suspect: Suspect, own: Sequence[RankedEdit]) -> list[JudgedEdit]:
        arguments = {"path": suspect.path, "start": suspect.first_line, "end": suspect.last_line}
        view = await self._scored(asked, ToolCall(id="view", name="view", arguments=arguments))
        under = await seen(asked, view, self.tools)
        found: list[JudgedEdit] = []
        for first in range(0, len(own), _AT_ONCE):
            some = own[first : first + _AT_ONCE]
            turns = await asyncio.gather(*(self._scored(under, _edit_call(edit)) for edit in some))
            found += [JudgedEdit(edit, view, turn) for edit, turn in zip(some, turns, strict=True)]
        return found

    async def _scored(self, ledger: TokenLedger, call: ToolCall) -> ScoredTurn:
        ids = encode_pieces(self.tokenizer, [*assistant_pieces(AssistantMessage(calls=(call,))), Tag.EOS])
        draft = ledger.fork(len(ledger))
        draft.begin_turn()
        return await free_logprob(self.engine, draft.token_ids, ids)

    def up_to_the_tests(self, messages: Sequence[Message], progress: Progress) -> list[Message]:
        """The task, and the run of the tests that named the suspects."""
        task = next(message for message in messages if isinstance(message, UserMessage))
        result = next(
            message
            for message in reversed(messages)
            if isinstance(message, ToolMessage) and message.text == progress.output
        )
        call = next(
            call
            for message in messages
            if isinstance(message, AssistantMessage)
            for call in message.calls
            if call.id == result.call_id
        )
        return [task, AssistantMessage(calls=(call,)), ToolMessage(call_id=call.id, text=self.cut(result.text))]

    def cut(self, output: str) -> str:
        """The beginning of what the tests said, and the suspects: as many lines of each as there is room for."""
        head, heading, tail = output.rpartition(SUSPECTS)
        suspects, gap, summary = tail.partition("\n\n")
        rows = suspects.split("\n")
        least = len(self.tokenizer.encode_text(heading + gap + summary))
        kept_rows = self._fitting(rows, MAX_OUTPUT_TOKENS - least)
        left = MAX_OUTPUT_TOKENS - least - len(self.tokenizer.encode_text("\n".join(kept_rows)))
        return "\n".join(self._fitting(head.split("\n"), left)) + heading + "\n".join(kept_rows) + gap + summary

    def _fitting(self, lines: Sequence[str], most: int) -> Sequence[str]:
        """The first lines that have no more tokens than this, and at least one."""
        total = 0
        for number, line in enumerate(lines):
            total += 1 + len(self.tokenizer.encode_text(line))
            if number and total > most:
                return lines[:number]
        return lines


async def seen(ledger: TokenLedger, turn: ScoredTurn, tools: ToolContext) -> TokenLedger:
    """The conversation with a turn that only looks, and what it saw."""
    draft, calls = written(ledger, turn)
    for call in calls:
        async with aclosing(registry.run_call(call, tools)) as items:
            async for item in items:
                if isinstance(item, ToolResult):
                    draft.append_tool_results([ToolMessage(call_id=call.id, text=item.for_model)])
    return draft


def written(ledger: TokenLedger, turn: ScoredTurn) -> tuple[TokenLedger, Sequence[ToolCall]]:
    """The conversation with a turn, and the turn's calls."""
    draft = ledger.fork(len(ledger))
    draft.begin_turn()
    draft.append_generated(turn.token_ids)
    return draft, draft.end_turn().calls


def _edit_call(edit: RankedEdit) -> ToolCall:
    arguments = {"path": edit.path, "line": edit.line, "old": edit.old, "new": edit.new}
    return ToolCall(id="edit", name="edit", arguments=arguments)
