"""One tool call, read as it is written.

    <longcat_tool_call>NAME
    <longcat_arg_key>KEY</longcat_arg_key>
    <longcat_arg_value>VALUE</longcat_arg_value>
    </longcat_tool_call>

The syntax has no escaping, so a value may itself contain tags. It ends at the first closing value tag that only white
space separates from another key tag or from the end of the call. Older and deviating forms are understood too: a JSON
object with `name` and `arguments`, a JSON object for all arguments, `functions.NAME`, `functions.NAME({key: "x"})`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from kodkod_engine.chat.arguments import declared_properties, read_argument, read_object
from kodkod_engine.chat.events import ArgumentDelta, CallFinished, CallStarted, ParserEvent
from kodkod_engine.chat.special_tokens import Piece, Tag
from kodkod_engine.messages import ToolCall, ToolSpec

_EXPRESSION = re.compile(r"([\w.-]+)\s*\((.*)\)\s*;?", re.DOTALL)
_CUT_OFF = "the call was cut off: no closing tag; write it again, shorter if need be"


class CallReader:
    """Reads the pieces after an opening call tag until `done`.

    Tags are told by identity: text that spells one is equal to it, and is text all the same.
    """

    def __init__(self, call_id: str, tools: Mapping[str, ToolSpec]) -> None:
        self.done = False
        """The closing tag was read and `CallFinished` given; no more pieces are taken."""
        self._call_id = call_id
        self._tools = tools
        self._raw: list[str] = []
        self._name: str | None = None
        self._loose = ""
        """Text outside keys and values; before the name is known, the start of the call."""
        self._key = ""
        self._value: list[str] = []
        self._after = ""
        """A closing value tag and white space, until what follows tells whether they end the value."""
        self._pairs: list[tuple[str, str]] = []
        self._orphan_key: str | None = None
        self._read = self._read_name

    def push(self, piece: Piece) -> Iterator[ParserEvent]:
        """Take one piece."""
        yield from self._read(piece)
        if not self.done:
            self._raw.append(piece)

    def finish(self) -> Iterator[ParserEvent]:
        """The output ended inside the call."""
        if self._after:
            self._end_value()
        elif self._key:
            self._orphan_key = self._key
        yield from self._end(complete=False)

    def _read_name(self, piece: Piece) -> Iterator[ParserEvent]:
        if piece is Tag.ARG_KEY:
            yield from self._start(self._loose)
            self._read = self._read_key
        elif piece is Tag.TOOL_CALL_END:
            if "(" not in self._loose:
                yield from self._start(self._loose)
            yield from self._end()
        else:
            self._loose = (self._loose + piece).lstrip()
            line, newline, rest = self._loose.partition("\n")
            if self._loose.startswith(("{", "[")) or (newline and "(" in line):
                self._read = self._read_body
            elif newline:
                yield from self._start(line)
                self._loose = rest
                self._read = self._read_between

    def _read_body(self, piece: Piece) -> Iterator[ParserEvent]:
        if piece is Tag.TOOL_CALL_END:
            yield from self._end()
        else:
            self._loose += piece

    def _read_between(self, piece: Piece) -> Iterator[ParserEvent]:
        if piece is Tag.ARG_KEY:
            self._read = self._read_key
        else:
            yield from self._read_body(piece)

    def _read_key(self, piece: Piece) -> Iterator[ParserEvent]:
        if piece is Tag.TOOL_CALL_END:
            self._orphan_key = self._key
            yield from self._end()
        elif piece is Tag.ARG_VALUE:
            self._read = self._read_value
        elif piece is Tag.ARG_KEY_END:
            self._read = self._read_after_key
        else:
            self._key += piece

    def _read_after_key(self, piece: Piece) -> Iterator[ParserEvent]:
        if piece is Tag.TOOL_CALL_END or piece is Tag.ARG_VALUE:
            yield from self._read_key(piece)
        else:
            self._loose += piece

    def _read_value(self, piece: Piece) -> Iterator[ParserEvent]:
        if piece is Tag.ARG_VALUE_END:
            self._after = piece.value
            self._read = self._read_after_value
        else:
            self._value.append(piece)
            yield ArgumentDelta(self._call_id, self._key.strip(), str(piece))

    def _read_after_value(self, piece: Piece) -> Iterator[ParserEvent]:
        if piece is Tag.ARG_KEY or piece is Tag.TOOL_CALL_END:
            self._end_value()
            self._read = self._read_between
            yield from self._read(piece)
        elif piece.isspace():
            self._after += piece
        else:
            inside, self._after = self._after, ""
            self._read = self._read_value
            yield from self._read(inside)
            yield from self._read(piece)

    def _end_value(self) -> None:
        self._pairs.append((self._key, "".join(self._value)))
        self._key, self._value, self._after = "", [], ""

    def _start(self, name: str) -> Iterator[ParserEvent]:
        self._name = declared_name(name.strip(), self._tools)
        self._loose = ""
        yield CallStarted(self._call_id, self._name)

    def _end(self, *, complete: bool = True) -> Iterator[ParserEvent]:
        started = self._name is not None
        call = self._call(complete)
        if not started:
            yield CallStarted(self._call_id, call.name)
        self.done = True
        yield CallFinished(call)

    def _call(self, complete: bool) -> ToolCall:
        name, arguments, fault = self._understood()
        if not complete:
            fault = _CUT_OFF
        elif fault is not None:
            arguments = {}
        return ToolCall(id=self._call_id, name=name, arguments=arguments, raw="".join(self._raw), fault=fault)

    def _understood(self) -> tuple[str, dict[str, Any], str | None]:
        """Name, arguments, and what is wrong with them."""
        name, arguments = self._name, None
        if name is None:
            name, arguments = named_body(self._loose)
            name = declared_name(name, self._tools)
        elif not self._pairs:
            arguments = self._whole_body()
        if not name:
            return name, {}, "the call has no tool name; begin it with the name of a declared tool"
        if (tool := self._tools.get(name)) is None:
            return name, {}, unknown_tool(name)
        if arguments is not None:
            return name, arguments, None
        return name, *self._read_pairs(tool)

    def _whole_body(self) -> dict[str, Any] | None:
        """All arguments as one JSON object, after the name or after one key tag."""
        text = self._loose if self._orphan_key is None else self._orphan_key
        return read_object(text)

    def _read_pairs(self, tool: ToolSpec) -> tuple[dict[str, Any], str | None]:
        arguments: dict[str, Any] = {}
        declared = declared_properties(tool.parameters)
        for written, text in self._pairs:
            key = written if written in declared else written.strip()
            if key in arguments:
                return {}, f"argument {key!r} is given twice; give each argument once"
            arguments[key] = read_argument(text, key, tool.parameters)
        if self._orphan_key is not None:
            return arguments, f"argument {self._orphan_key.strip()[:80]!r} has no value; write one after its key"
        if stray := self._loose.replace("\\n", "").strip():
            return arguments, f"text outside the arguments: {stray[:80]!r}; write only keys and values"
        return arguments, None


def declared_name(name: str, tools: Mapping[str, ToolSpec]) -> str:
    """The name without a `functions.` prefix, unless a tool is declared with it."""
    return name if name in tools else name.removeprefix("functions.")


def unknown_tool(name: str) -> str:
    """The fault of a call to a tool that was not declared."""
    return f"unknown tool {name[:80]!r}; call one of the declared tools"


def named_body(text: str) -> tuple[str, dict[str, Any] | None]:
    """Name and arguments of a call that is written as one text, without argument tags.

    JSON with `name` and `arguments`, or `NAME(…)`, or the name alone; the arguments are None when none can be read.
    """
    text = text.strip()
    if text.startswith(("{", "[")):
        return named_object(read_object(text))
    if match := _EXPRESSION.fullmatch(text):
        return match[1], read_object(match[2]) if match[2].strip() else {}
    return text, None


def named_object(body: Any) -> tuple[str, dict[str, Any] | None]:
    """Name and arguments of a call in the older JSON form; an empty name when it is not one."""
    if not isinstance(body, dict) or not isinstance(name := body.get("name"), str):
        return "", None
    arguments = body.get("arguments", body.get("parameters", {}))
    if isinstance(arguments, str):
        arguments = read_object(arguments)
    return name, arguments if isinstance(arguments, dict) else None
