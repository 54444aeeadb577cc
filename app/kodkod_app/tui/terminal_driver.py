"""The terminal as Textual drives it, but for its end: a terminal that is gone ends the app instead of blocking it.

Textual's writing thread dies of the first write to a closed terminal; whoever writes after that waits for ever.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from io import TextIOWrapper
from typing import IO, TYPE_CHECKING, cast

from textual.drivers.linux_driver import LinuxDriver

if TYPE_CHECKING:
    from kodkod_app.tui.app import KodkodApp


class TerminalDriver(LinuxDriver):
    """Tells the app once when nothing can be written any more."""

    def __init__(
        self, app: KodkodApp, *, debug: bool = False, mouse: bool = True, size: tuple[int, int] | None = None
    ) -> None:
        super().__init__(app, debug=debug, mouse=mouse, size=size)
        assert self._file is not None, "LinuxDriver writes to the process's own standard error"
        self._file = cast("TextIOWrapper", MortalOutput(self._file, self._tell_gone))
        self._terminal_app = app

    def _tell_gone(self) -> None:
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
