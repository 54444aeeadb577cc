"""A deviation models of this family show now and then: calls as a JSON array in `<function_calls>` tags, in prose."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kodkod_engine.chat.arguments import read_list
from kodkod_engine.chat.call_reader import named_object
from kodkod_engine.chat.stop_strings import partial_length

_OPEN = "<function_calls>"
_CLOSE = "</function_calls>"

NamedCall = tuple[str, dict[str, Any] | None, str]
"""Tool name, arguments (None when they cannot be read), and the text of the whole block."""


class FunctionCallsFilter:
    """Takes such blocks out of streamed prose. A block that does not hold calls stays prose, to the letter."""

    def __init__(self) -> None:
        self._held = ""

    def push(self, text: str) -> Iterator[str | NamedCall]:
        """Take more prose; gives what is certain: prose to show, and calls."""
        self._held += text
        while True:
            before, opened, inside = self._held.partition(_OPEN)
            if not opened:
                cut = len(self._held) - partial_length(self._held, (_OPEN,))
                before, self._held = self._held[:cut], self._held[cut:]
                yield from _prose(before)
                return
            yield from _prose(before)
            self._held = opened + inside
            body, closed, after = inside.partition(_CLOSE)
            if body.strip() and not body.lstrip().startswith(("[", "{")):
                # No block, whatever comes: another one may begin inside.
                yield from _prose(opened)
                self._held = inside
                continue
            if not closed:
                return
            yield from _calls(body) or _prose(opened + body + closed)
            self._held = after

    def flush(self) -> Iterator[str]:
        """What is held back. A block that was never closed is prose."""
        held, self._held = self._held, ""
        yield from _prose(held)


def _prose(text: str) -> Iterator[str]:
    if text:
        yield text


def _calls(body: str) -> list[NamedCall]:
    entries = [named_object(entry) for entry in read_list(body) or []]
    return [(name, arguments, body) for name, arguments in entries] if all(name for name, _ in entries) else []
