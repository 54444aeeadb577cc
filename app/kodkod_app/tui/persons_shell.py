"""What the person runs in the box, with `!`: shown while it runs, and told to the model with what is said next."""

from __future__ import annotations

import asyncio
import codecs
import time
from typing import TYPE_CHECKING

from kodkod_app.tui import updates as u
from kodkod_app.tui.feed import Feed

if TYPE_CHECKING:
    from kodkod_sandbox.base import ExecResult, Sandbox

_MAX_SHOWN_TO_MODEL_CHARS = 4_000
_NEVER_RAN = 125
"""Exit code of a command that its box failed, as Docker has it."""


class PersonsShell:
    """What was run since the model was told last."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._notes: list[str] = []

    def with_what_was_run(self, text: str) -> str:
        """The person's words, behind what they ran before."""
        notes, self._notes = self._notes, []
        return "\n\n".join([*notes, text])

    async def run(self, command: str, reading: asyncio.Task[tuple[str, ExecResult]]) -> None:
        """Follow a command to its end; one whose reading is cancelled was stopped."""
        from kodkod_sandbox.base import ExecResult

        self._feed.put(u.ShellBegan(command))
        began_s = time.monotonic()
        output = ""
        try:
            output, ended = await reading
        except asyncio.CancelledError:
            ended = ExecResult(130, b"", b"", 0, 0, time.monotonic() - began_s)
        except Exception:
            self._feed.put(u.ShellEnded(_NEVER_RAN, time.monotonic() - began_s))
            raise
        self._feed.put(u.ShellEnded(ended.exit_code, ended.duration_s))
        self._notes.append(f"I ran `{command}` (exit code {ended.exit_code}):\n{output}")

    async def read(self, command: str, box: Sandbox) -> tuple[str, ExecResult]:
        """Run it, and show what it prints; the end of that, as much as the model is told, and how it ended."""
        from kodkod_sandbox.base import ExecChunk

        readers: dict[str, codecs.IncrementalDecoder] = {}
        printed = ""
        async for item in box.exec_stream(command):
            if not isinstance(item, ExecChunk):
                return printed, item
            reader = readers.setdefault(item.channel, codecs.getincrementaldecoder("utf-8")("replace"))
            text = reader.decode(item.data)
            printed = (printed + text)[-_MAX_SHOWN_TO_MODEL_CHARS:]
            self._feed.put(u.ShellSaid(text))
        raise AssertionError("the stream of a command ends with its result")
