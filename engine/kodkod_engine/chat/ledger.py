"""The token ledger: a conversation as the token ids that are in the model's context, with their origin.

The ids are the truth; messages are a view of them. What is appended is rendered once, and what the model generated
stays as the very ids it generated. Nothing is ever rendered again, so a turn costs its new tokens alone, and nothing
already there changes: history is edited by a new branch (`fork`, `rebuild`), never in place.

    ledger = TokenLedger.open(tokenizer, tools, system="…")
    ledger.append_user("…")
    ledger.begin_turn()
    ledger.append_generated(ids)      # as often as chunks come
    message = ledger.end_turn()
    ledger.append_tool_results(results)

Facts that change (the date, git status, what is left of a budget) are appended as notices; they never enter the head.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Self
from uuid import uuid4

from kodkod_engine.chat.declare_block import tools_pieces
from kodkod_engine.chat.ledger_state import (
    BranchKind,
    BranchPoint,
    Declaration,
    LedgerFault,
    LedgerState,
    Origin,
    Span,
    tools_at,
)
from kodkod_engine.chat.marked_ids import MarkedIds
from kodkod_engine.chat.parser import OutputParser
from kodkod_engine.chat.template import (
    assistant_pieces,
    encode_pieces,
    late_tools_text,
    message_pieces,
    render,
)
from kodkod_engine.chat.tokenizer import Tokenizer
from kodkod_engine.chat.view import LedgerView
from kodkod_engine.messages import (
    AssistantMessage,
    Message,
    SystemMessage,
    ToolCall,
    ToolMessage,
    ToolSpec,
    UserMessage,
)

_ORIGINS = {SystemMessage: Origin.SYSTEM, UserMessage: Origin.USER, ToolMessage: Origin.TOOL_RESULT}


class TokenLedger:
    """One branch of a conversation. Append-only; not safe to change from two threads at once.

    Every method that changes it raises `LedgerFault` before anything is changed, or succeeds.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        tools: Iterable[ToolSpec] = (),
        *,
        branch_id: str | None = None,
        branched_from: BranchPoint | None = None,
    ) -> None:
        """An empty ledger; `open` is how a conversation begins."""
        self.tools: tuple[ToolSpec, ...] = tuple(sorted(tools, key=lambda tool: tool.name))
        """Those of the head, fixed for the whole conversation, in the order in which they are declared."""
        self.branch_id = branch_id or uuid4().hex
        self.branched_from = branched_from
        """Where this branch left its parent; None for the first one."""
        self._tokenizer = tokenizer
        self._marked = MarkedIds()
        self._turn_open = False
        self._declarations: list[Declaration] = []
        self._view = LedgerView(tokenizer, self.tools, self._declarations)

    @classmethod
    def open(
        cls,
        tokenizer: Tokenizer,
        tools: Iterable[ToolSpec] = (),
        system: str | None = None,
        *,
        declare: bool = True,
        branch_id: str | None = None,
    ) -> Self:
        """Begin a conversation: the tools are declared, then the system text, if any, is given.

        Tools that are not declared are understood all the same, for a model that knows them from its training.
        """
        ledger = cls(tokenizer, tools, branch_id=branch_id)
        if declare:
            ledger._marked.append(Origin.TOOLS, encode_pieces(tokenizer, tools_pieces(ledger.tools, tokenizer.words)))
        if system is not None:
            ledger._append_message(SystemMessage(text=system), Origin.SYSTEM)
        return ledger

    def __len__(self) -> int:
        return len(self._marked)

    @property
    def token_ids(self) -> tuple[int, ...]:
        """All ids, ready for a `GenerationRequest`."""
        return self._marked.as_tuple()

    @property
    def spans(self) -> tuple[Span, ...]:
        """Where each id came from: spans without gaps, in order."""
        return tuple(self._marked.spans)

    @property
    def declarations(self) -> tuple[Declaration, ...]:
        """What was declared at the tail, in order."""
        return tuple(self._declarations)

    @property
    def known_tools(self) -> tuple[ToolSpec, ...]:
        """The tools the next turn knows: the head's, and what was declared since."""
        return tools_at(self.tools, self._declarations, len(self))

    @property
    def turn_open(self) -> bool:
        """Whether the model is to write next: after `begin_turn`, until EOS or `end_turn`."""
        return self._turn_open

    @property
    def pending_calls(self) -> tuple[ToolCall, ...]:
        """Calls of the last assistant turn that have no result yet, in call order; none while a turn is open."""
        if self._turn_open:
            return ()
        answered = 0
        for message in reversed(self.view()):
            if isinstance(message, AssistantMessage):
                return message.calls[answered:]
            answered += isinstance(message, ToolMessage)
        return ()

    def append_user(self, text: str) -> Span:
        """What the person said. `text` is data: no tag in it is taken for a control token."""
        self._require_closed()
        return self._append_message(UserMessage(text=text), Origin.USER)

    def append_notice(self, text: str) -> Span:
        """A fact of the moment, from the program. The model reads it as a user entry; only the origin differs."""
        self._require_closed()
        return self._append_message(UserMessage(text=text), Origin.NOTICE)

    def declare(self, tools: Sequence[ToolSpec], withdrawn: Sequence[str] = (), *, introduction: str) -> Span:
        """Tell of tools that came late, are no longer as they were declared, or went. All that stands before stays.

        Args:
            tools: new or changed; one of a known name takes its place.
            withdrawn: names of known ones. A later call of theirs is one of an unknown tool.
            introduction: what the model reads before them. Like every name and description it is data.
        """
        self._require_closed()
        text = late_tools_text(introduction, tools, withdrawn)
        span = self._append_message(UserMessage(text=text), Origin.LATE_TOOLS)
        self._declarations.append(Declaration(at=span.end, tools=tuple(tools), withdrawn=tuple(withdrawn)))
        return span

    def append_tool_results(self, results: Sequence[ToolMessage]) -> tuple[Span, ...]:
        """What the tools answered, for the first of the pending calls or all of them, in any order.

        The model matches results to calls by order alone, so they are appended in call order.

        Raises:
            LedgerFault: two results for one call, a call that is not pending, or one left out before another.
        """
        self._require_closed()
        by_id = {result.call_id: result for result in results}
        due = [call.id for call in self.pending_calls[: len(results)]]
        if len(by_id) != len(results) or by_id.keys() != set(due):
            given = ", ".join(result.call_id for result in results)
            raise LedgerFault(
                f"results for {given} do not answer the next pending calls ({', '.join(due) or 'none'}); "
                "give one result per call, none left out before another"
            )
        return tuple(self._append_message(by_id[call_id], Origin.TOOL_RESULT) for call_id in due)

    def begin_turn(self) -> Span:
        """Append the generation prompt: the model writes next."""
        self._require_closed()
        self._turn_open = True
        return self._marked.append(Origin.PROMPT, [self._tokenizer.special.assistant_id])

    def append_generated(self, ids: Sequence[int], *, forced: bool = False) -> None:
        """What the model wrote, to the very id. EOS ends the turn.

        Args:
            ids: in order; may be empty.
            forced: a grammar left no choice, so the ids cost no decode step.
        """
        self._require_open()
        eos_id = self._tokenizer.special.eos_id
        if eos_id in ids[:-1]:
            raise LedgerFault("generated ids go on after the end of the turn; stop generating at the EOS id")
        if any(token_id < 0 for token_id in ids):
            raise LedgerFault("a generated id is negative; ids are in [0, vocab_size)")
        self._marked.append(Origin.FORCED if forced else Origin.GENERATED, ids)
        self._turn_open = not ids or ids[-1] != eos_id

    def end_turn(self) -> AssistantMessage:
        """End the turn, with an EOS of our own if the model wrote none, and return what it said."""
        if self._turn_open:
            self._marked.append(Origin.CLOSING, [self._tokenizer.special.eos_id])
            self._turn_open = False
        last = self.view()[-1:]
        if not last or not isinstance(last[0], AssistantMessage):
            raise LedgerFault("no turn was begun; call begin_turn() first")
        return last[0]

    def parser(self) -> OutputParser:
        """A parser for the open turn. Its calls have the ids that `end_turn` and `view` give them."""
        self._require_open()
        num_calls = sum(len(message.calls) for message in self._closed_turns())
        return OutputParser(self._tokenizer, self.known_tools, first_call=num_calls)

    def fork(self, at: int, *, branch_id: str | None = None) -> TokenLedger:
        """A new branch with the first `at` tokens of this one; this one stays as it is.

        A cut inside what the model generated leaves the turn open, to be written differently from there.

        Raises:
            LedgerFault: the cut is inside an entry that was not generated, or before the end of the declared tools.
        """
        cut, least = self._marked.span_across(at), self._marked.head_length(Origin.TOOLS)
        if not least <= at <= len(self) or (cut and not cut.origin.is_generated):
            raise LedgerFault(
                f"cannot fork at token {at}: cut between entries or inside generated tokens, "
                f"from {least} to {len(self)}"
            )
        return self._branch("fork", at, self._marked.first(at), branch_id)

    def rebuild(self, messages: Sequence[Message], *, branch_id: str | None = None) -> TokenLedger:
        """A new branch that starts over: the same tools and system text, then the given messages (a summary, say).

        This is the one place where an assistant message is rendered from its parsed form.
        """
        head = self._marked.first(self._marked.head_length(Origin.TOOLS, Origin.SYSTEM))
        ledger = self._branch("rebuild", len(self), head, branch_id)
        for message in messages:
            if isinstance(message, AssistantMessage):
                ledger._append_rendered_turn(message)
            else:
                ledger._append_message(message, _ORIGINS[type(message)])
        return ledger

    def view(self) -> list[Message]:
        """The conversation as messages, read from the ids. Notices appear as user messages."""
        return self._view.messages(self._marked.ids, self._marked.spans, turn_open=self._turn_open)

    def renders_back(self) -> bool:
        """Whether rendering the view gives these very ids: true unless the model wrote something unusual.

        A closed turn that was cut off, or written in other tokens than its text encodes to, does not render back. That
        is no fault, and the reason why generated ids are kept.
        """
        waiting = self._marked.last_origin is Origin.PROMPT and self._turn_open
        declared = self.tools if self._marked.head_length(Origin.TOOLS) else ()
        ids = render(self._tokenizer, self.view(), declared, generation_prompt=waiting)
        if self._turn_open and not waiting:
            ids.pop()
        return ids == self._marked.ids

    def state(self) -> LedgerState:
        """What a session file keeps."""
        return LedgerState(
            branch_id=self.branch_id,
            branched_from=self.branched_from,
            tokenizer=self._tokenizer.fingerprint,
            tools=self.tools,
            spans=self.spans,
            token_ids=self.token_ids,
            declarations=self.declarations,
        )

    @classmethod
    def from_state(cls, tokenizer: Tokenizer, state: LedgerState) -> Self:
        """The ledger a session file holds.

        Raises:
            LedgerFault: it was written with another tokenizer, so that its ids mean something else.
        """
        if state.tokenizer != tokenizer.fingerprint:
            raise LedgerFault(
                "the session was written with another tokenizer; open it with the checkpoint it began with"
            )
        ledger = cls(tokenizer, state.tools, branch_id=state.branch_id, branched_from=state.branched_from)
        ledger._take(MarkedIds(state.token_ids, state.spans), state.declarations)
        return ledger

    def _append_message(self, message: Message, origin: Origin) -> Span:
        after_tool = self._marked.last_origin is Origin.TOOL_RESULT
        return self._marked.append(
            origin, encode_pieces(self._tokenizer, message_pieces(message, after_tool=after_tool))
        )

    def _append_rendered_turn(self, message: AssistantMessage) -> None:
        special = self._tokenizer.special
        self._marked.append(Origin.PROMPT, [special.assistant_id])
        self._marked.append(Origin.RENDERED, encode_pieces(self._tokenizer, assistant_pieces(message)))
        self._marked.append(Origin.CLOSING, [special.eos_id])

    def _branch(self, kind: BranchKind, at: int, kept: MarkedIds, branch_id: str | None) -> TokenLedger:
        point = BranchPoint(kind=kind, parent_id=self.branch_id, at=at)
        ledger = TokenLedger(self._tokenizer, self.tools, branch_id=branch_id, branched_from=point)
        ledger._take(kept, self._declarations)
        return ledger

    def _take(self, marked: MarkedIds, declarations: Iterable[Declaration]) -> None:
        self._marked = marked
        self._declarations += (declaration for declaration in declarations if declaration.at <= len(marked))
        before = next((span.origin for span in reversed(marked.spans) if not span.origin.is_written), None)
        self._turn_open = before is Origin.PROMPT and marked.ids[-1] != self._tokenizer.special.eos_id

    def _closed_turns(self) -> list[AssistantMessage]:
        turns = [message for message in self.view() if isinstance(message, AssistantMessage)]
        generating = self._turn_open and self._marked.last_origin is not Origin.PROMPT
        return turns[:-1] if generating else turns

    def _require_closed(self) -> None:
        if self._turn_open:
            raise LedgerFault("the model's turn is open; call end_turn() first")

    def _require_open(self) -> None:
        if not self._turn_open:
            raise LedgerFault("no turn is open; call begin_turn() first")
