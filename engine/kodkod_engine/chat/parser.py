"""What a model wrote: ids in, prose, reasoning and tool calls out, as they come."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from kodkod_engine.chat.call_reader import CallReader, declared_name, unknown_tool
from kodkod_engine.chat.events import CallFinished, CallStarted, ParserEvent, ReasoningDelta, TextDelta
from kodkod_engine.chat.function_calls import FunctionCallsFilter, NamedCall
from kodkod_engine.chat.lexer import Lexer
from kodkod_engine.chat.special_tokens import Piece, Tag
from kodkod_engine.chat.tokenizer import Tokenizer
from kodkod_engine.messages import AssistantMessage, ToolCall, ToolSpec


class OutputParser:
    """Parses one assistant turn: the ids after the generation prompt, up to EOS.

    Any chunking of the ids gives the same message, and the same events once neighbouring deltas are joined. Nothing
    a model writes raises: a call that cannot be read is a `ToolCall` with its `fault` set.
    """

    def __init__(self, tokenizer: Tokenizer, tools: Iterable[ToolSpec], *, first_call: int = 0) -> None:
        """`first_call` is the number of calls made before in the conversation; ids go on from it: `call_0`, …"""
        self._lexer = Lexer(tokenizer)
        self._tools = {tool.name: tool for tool in tools}
        self._next_call = first_call
        self._filter = FunctionCallsFilter()
        self._reader: CallReader | None = None
        self._thinking = False
        self._gap: str | None = None
        """White space since the last call, dropped when nothing but a call or the end follows; None elsewhere."""
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[ToolCall] = []

    def push(self, ids: Iterable[int]) -> list[ParserEvent]:
        """Take more ids; returns what became certain with them."""
        return [event for piece in self._lexer.push(ids) for event in self._read(piece)]

    def finish(self) -> list[ParserEvent]:
        """The turn is over; returns what was held back. A call left open is given with its fault."""
        events = [event for piece in self._lexer.flush() for event in self._read(piece)]
        return [*events, *self._close()]

    def message(self) -> AssistantMessage:
        """The turn as far as it was read; complete after `finish`."""
        return AssistantMessage(text="".join(self._text), reasoning="".join(self._reasoning), calls=tuple(self._calls))

    def _read(self, piece: Piece) -> Iterator[ParserEvent]:
        if piece is Tag.EOS:
            yield from self._close()
        elif self._reader is not None:
            yield from self._read_call(self._reader, piece)
        elif piece is Tag.TOOL_CALL:
            yield from self._close()
            self._reader = CallReader(self._call_id(), self._tools)
        elif self._thinking and piece is not Tag.THINK_END:
            self._reasoning.append(piece)
            yield ReasoningDelta(str(piece))
        elif self._thinking or piece is Tag.THINK:
            yield from self._flush_prose()
            self._thinking = not self._thinking
        else:
            yield from self._read_prose(piece)

    def _read_call(self, reader: CallReader, piece: Piece) -> Iterator[ParserEvent]:
        for event in reader.push(piece):
            self._keep(event)
            yield event
        if reader.done:
            self._reader, self._gap = None, ""

    def _read_prose(self, text: str) -> Iterator[ParserEvent]:
        for part in self._filter.push(str(text)):
            yield from self._show(part) if isinstance(part, str) else self._named_call(part)

    def _named_call(self, call: NamedCall) -> Iterator[ParserEvent]:
        name, arguments, raw = call
        name = declared_name(name, self._tools)
        fault = None
        if name not in self._tools:
            fault = unknown_tool(name)
        elif arguments is None:
            fault = "the arguments are not a JSON object; give each argument by its name"
        call_id = self._call_id()
        given = {} if fault else arguments or {}
        finished = CallFinished(ToolCall(id=call_id, name=name, arguments=given, raw=raw, fault=fault))
        self._keep(finished)
        self._gap = ""
        yield CallStarted(call_id, name)
        yield finished

    def _show(self, text: str) -> Iterator[ParserEvent]:
        if self._gap is not None:
            text = self._gap + text
            self._gap = text if text.isspace() else None
        if self._gap is None:
            self._text.append(text)
            yield TextDelta(text)

    def _flush_prose(self) -> Iterator[ParserEvent]:
        for text in self._filter.flush():
            yield from self._show(text)

    def _close(self) -> Iterator[ParserEvent]:
        """End whatever is open: reasoning, prose, or a call that was cut off."""
        self._thinking = False
        if self._reader is not None:
            for event in self._reader.finish():
                self._keep(event)
                yield event
            self._reader, self._gap = None, ""
        yield from self._flush_prose()

    def _keep(self, event: ParserEvent) -> None:
        if isinstance(event, CallFinished):
            self._calls.append(event.call)

    def _call_id(self) -> str:
        call_id = f"call_{self._next_call}"
        self._next_call += 1
        return call_id


def parse_turn(
    tokenizer: Tokenizer, ids: Iterable[int], tools: Iterable[ToolSpec], *, first_call: int = 0
) -> AssistantMessage:
    """The message a finished turn says."""
    parser = OutputParser(tokenizer, tools, first_call=first_call)
    parser.push(ids)
    parser.finish()
    return parser.message()
