"""The terminal as Textual drives it, but for four things.

What is typed before the app hears keys waits for it: Textual reads at once, and drops what comes before a screen is
there.

A terminal that is gone ends the app instead of blocking it: Textual's writing thread dies of the first write to a
closed terminal, and whoever writes after that waits for ever.

Esc is a key as soon as it may be (`ESCDELAY`). Textual looks ten times a second alone whether it stood by itself or was
the first byte of another key's sequence.

A process that was stopped from outside (`kill -STOP`) and goes on takes the terminal again. Textual begins a second
time without having ended: two threads read the keys, each gets some, and leaving waits for ever for the other one.
"""

from __future__ import annotations

import os
import selectors
import signal
from codecs import getincrementaldecoder
from collections.abc import Callable, Iterable
from contextlib import suppress
from io import TextIOWrapper
from typing import IO, TYPE_CHECKING, cast

from textual import constants
from textual._xterm_parser import XTermParser
from textual.drivers.linux_driver import LinuxDriver
from textual.message import Message

if TYPE_CHECKING:
    from kodkod_app.tui.app import KodkodApp


_IDLE_S = 0.1
"""So long a key is waited for before it is looked whether the app is being left."""
_MARGIN_S = 0.001
"""The parser must find its delay over when it is asked."""
_MOST_BYTES = 4096


class TerminalDriver(LinuxDriver):
    """Tells the app once when nothing can be written or read any more."""

    _has_terminal = False
    """A signal may ask for it before all of this is made."""

    def __init__(
        self, app: KodkodApp, *, debug: bool = False, mouse: bool = True, size: tuple[int, int] | None = None
    ) -> None:
        super().__init__(app, debug=debug, mouse=mouse, size=size)
        assert self._file is not None, "LinuxDriver writes to the process's own standard error"
        self._file = cast("TextIOWrapper", MortalOutput(self._file, self._tell_gone))
        self._terminal_app = app

    def run_input_thread(self) -> None:
        """Keys, mouse and pasted text to the app, from when it hears them until it is left."""
        parser, decode = XTermParser(), getincrementaldecoder("utf-8")("replace").decode
        while not self._terminal_app.hears_keys.wait(_IDLE_S):
            if self.exit_event.is_set():
                return
        is_typed_ahead, wait_s = True, 0.0
        with selectors.SelectSelector() as selector:
            selector.register(self.fileno, selectors.EVENT_READ)
            while not self.exit_event.is_set():
                is_typed = bool(selector.select(wait_s))
                if is_typed:
                    if not (data := self._read()):
                        return
                    if is_typed_ahead:
                        data = data.replace(b"\n", b"\r")  # Enter, as a terminal in a shell's hands passes it on
                    self._pass_on(parser.feed(text) if (text := decode(data)) else ())
                self._pass_on(parser.tick())
                is_typed_ahead = False
                wait_s = constants.ESCAPE_DELAY + _MARGIN_S if is_typed else _IDLE_S

    def start_application_mode(self) -> None:
        """See `Driver`."""
        self._has_terminal = True
        super().start_application_mode()  # type: ignore[no-untyped-call]  # Textual left it so

    def stop_application_mode(self) -> None:
        """See `Driver`."""
        self._has_terminal = False
        super().stop_application_mode()

    def _sigcont_application(self, *_: object) -> None:
        """Go on: where Ctrl+Z gave the terminal back, by taking it; where it was not given back, by doing both."""
        if self._has_terminal and self._auto_restart:
            self._loop.call_soon_threadsafe(self._take_again)  # the signal may have come in the middle of a write
        elif self._must_signal_resume:
            super()._sigcont_application()

    def _take_again(self) -> None:
        """Whoever had the terminal meanwhile may have left it otherwise. What was typed meanwhile is not lost."""
        if not self._has_terminal:
            return  # the app was left before it came to this
        attributes = self.attrs_before
        self.exit_event.set()
        if self._key_thread is not None:
            self._key_thread.join()
        self.exit_event.clear()
        self.close()
        self.start_application_mode()
        self.attrs_before = attributes  # those of the terminal as the person had it, not as it stood just now
        self._app.refresh(layout=True)

    def _read(self) -> bytes:
        """What was typed; empty when the terminal is gone."""
        try:
            data = os.read(self.fileno, _MOST_BYTES)
        except OSError:
            data = b""
        if not data:
            self._tell_gone()
        return data

    def _pass_on(self, found: Iterable[Message]) -> None:
        for message in found:
            self.process_message(message)

    def _tell_gone(self) -> None:
        with suppress(RuntimeError):  # the loop is closed: it has left already
            self._loop.call_soon_threadsafe(self._terminal_app.told_to_leave, signal.SIGHUP)


class MortalOutput:
    """A file for text that outlives what is behind it: what can no longer be written is dropped."""

    def __init__(self, file: IO[str], on_gone: Callable[[], None]) -> None:
        """`on_gone` is called once, by the thread that writes."""
        self._file = file
        self._on_gone: Callable[[], None] | None = on_gone

    def write(self, text: str) -> None:
        """Write, or drop."""
        self._try(lambda: self._file.write(text))

    def flush(self) -> None:
        """Flush, or drop."""
        self._try(self._file.flush)

    def fileno(self) -> int:
        """Of the file behind."""
        return self._file.fileno()

    def _try(self, act: Callable[[], object]) -> None:
        try:
            act()
        except (OSError, ValueError):
            on_gone, self._on_gone = self._on_gone, None
            if on_gone is not None:
                on_gone()
