"""Messages read from a ledger's ids."""

from __future__ import annotations

from collections.abc import Sequence

from kodkod_engine.chat.ledger_state import Declaration, Origin, Span, tools_at
from kodkod_engine.chat.parser import parse_turn
from kodkod_engine.chat.special_tokens import Tag
from kodkod_engine.chat.template import encode_pieces
from kodkod_engine.chat.tokenizer import Tokenizer
from kodkod_engine.messages import AssistantMessage, Message, SystemMessage, ToolMessage, ToolSpec, UserMessage


class LedgerView:
    """The messages of one append-only ledger. Entries that are complete are read once and kept."""

    def __init__(self, tokenizer: Tokenizer, tools: Sequence[ToolSpec], declarations: Sequence[Declaration]) -> None:
        """`declarations` may grow: each is there before the first turn that knows it."""
        self._tokenizer = tokenizer
        self._tools = tools
        self._declarations = declarations
        self._response_open = encode_pieces(tokenizer, [Tag.TOOL_RESPONSE])
        self._response_close = encode_pieces(tokenizer, [Tag.TOOL_RESPONSE_END])
        self._messages: list[Message] = []
        self._num_spans = 0
        """Spans that `_messages` covers."""
        self._num_calls = 0

    def messages(self, ids: Sequence[int], spans: Sequence[Span], *, turn_open: bool) -> list[Message]:
        """All messages. An open turn is shown as far as it goes, and not at all before its first token."""
        while self._num_spans < len(spans):
            end = _entry_end(spans, self._num_spans)
            entry = spans[self._num_spans : end]
            if end == len(spans) and turn_open:
                return [*self._messages, *([self._turn(ids, entry)] if len(entry) > 1 else [])]
            self._messages += self._entry(ids, entry)
            self._num_spans = end
        return list(self._messages)

    def _entry(self, ids: Sequence[int], entry: Sequence[Span]) -> list[Message]:
        span = entry[0]
        match span.origin:
            case Origin.TOOLS:
                return []
            case Origin.SYSTEM:
                return [SystemMessage(text=self._text(ids, span))]
            case Origin.USER | Origin.NOTICE | Origin.LATE_TOOLS:
                return [UserMessage(text=self._text(ids, span))]
            case Origin.TOOL_RESULT:
                return [self._tool_result(ids, span)]
            case _:
                turn = self._turn(ids, entry)
                self._num_calls += len(turn.calls)
                return [turn]

    def _text(self, ids: Sequence[int], span: Span) -> str:
        return self._tokenizer.decode(ids[span.start + 1 : span.end], skip_special=False)

    def _tool_result(self, ids: Sequence[int], span: Span) -> ToolMessage:
        tags = len(self._response_open) + (ids[span.start] == self._tokenizer.special.user_id)
        inside = ids[span.start + tags : span.end - len(self._response_close)]
        return ToolMessage(call_id=self._next_call_id(), text=self._tokenizer.decode(inside, skip_special=False))

    def _turn(self, ids: Sequence[int], entry: Sequence[Span]) -> AssistantMessage:
        written = ids[entry[0].end : entry[-1].end]
        tools = tools_at(self._tools, self._declarations, entry[0].start)
        return parse_turn(self._tokenizer, written, tools, first_call=self._num_calls)

    def _next_call_id(self) -> str:
        """Results are matched to the calls of the last turn by order; one too many has no call."""
        results = 0
        for message in reversed(self._messages):
            if isinstance(message, AssistantMessage):
                return message.calls[results].id if results < len(message.calls) else ""
            results += isinstance(message, ToolMessage)
        return ""


def _entry_end(spans: Sequence[Span], start: int) -> int:
    """Index after the entry that begins at `start`: a turn has several spans, everything else one."""
    end = start + 1
    if spans[start].origin is Origin.PROMPT:
        while end < len(spans) and (spans[end].origin.is_written or spans[end].origin is Origin.CLOSING):
            end += 1
    return end
