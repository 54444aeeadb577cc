"""What is typed, from the terminal's bytes to keys."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

import pytest
from textual import constants
from textual.events import Key
from textual.message import Message

from kodkod_app.tui.app import KodkodApp
from kodkod_app.tui.terminal_driver import TerminalDriver

_TIMEOUT_S = 60.0
_DELAY_S = 0.025
"""As the program sets it, before Textual is imported."""
_TEXTUALS_OWN_S = 0.1
"""What Esc takes with Textual's own reader, at the least."""


class Leaving:
    """Stands where the app stands."""

    def __init__(self) -> None:
        self.was_told = threading.Event()
        self.hears_keys = threading.Event()

    def told_to_leave(self, number: int) -> None:
        """See `KodkodApp`."""
        assert number == signal.SIGHUP
        self.was_told.set()


class Heard(TerminalDriver):
    """Keeps what would go to the app, and when it came."""

    def __init__(self, app: Leaving, fileno: int) -> None:
        super().__init__(cast("KodkodApp", app))
        self.fileno = fileno
        self.keys: list[tuple[str, float]] = []

    def process_message(self, message: Message) -> None:
        """See `Driver`."""
        if isinstance(message, Key):
            self.keys.append((message.key, time.monotonic()))


class Typist:
    """Types on one end of a pipe; a driver reads the other in its thread."""

    def __init__(self, typed_ahead: bytes = b"") -> None:
        reading, self._writing = os.pipe()
        self.types(typed_ahead)
        self.app = Leaving()
        if not typed_ahead:
            self.app.hears_keys.set()
        self.driver = Heard(self.app, reading)
        self.driver._loop = cast("Any", self)
        self.thread = threading.Thread(target=self.driver.run_input_thread, daemon=True)
        self.thread.start()

    def call_soon_threadsafe(self, function: Callable[..., object], *arguments: object) -> None:
        """As a loop that does it at once."""
        function(*arguments)

    def types(self, data: bytes) -> float:
        """Returns when."""
        typed_s = time.monotonic()
        os.write(self._writing, data)
        return typed_s

    def until(self, num_keys: int) -> list[str]:
        """Wait for so many keys in all."""
        end_s = time.monotonic() + _TIMEOUT_S
        while len(self.driver.keys) < num_keys:
            assert time.monotonic() < end_s, self.driver.keys
            time.sleep(0.001)
        return [key for key, _ in self.driver.keys]

    def hang_up(self) -> None:
        """The terminal is gone."""
        os.close(self._writing)

    def close(self) -> None:
        """Leave."""
        self.driver.exit_event.set()
        self.thread.join(_TIMEOUT_S)
        assert not self.thread.is_alive()
        with suppress(OSError):
            self.hang_up()
        os.close(self.driver.fileno)


@pytest.fixture
async def typist(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A driver that listens."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # it would take over stopping and going on
    monkeypatch.setattr(constants, "ESCAPE_DELAY", _DELAY_S)
    opened = Typist()
    yield opened
    opened.close()


async def test_esc_is_a_key_before_textual_would_look(typist: Typist) -> None:
    """Of several the quickest counts: a busy machine makes any of them late, and none early."""
    taken = []
    for press in range(20):
        typed_s = typist.types(b"\x1b")
        assert typist.until(press + 1) == ["escape"] * (press + 1)
        taken.append(typist.driver.keys[-1][1] - typed_s)
    assert _DELAY_S <= min(taken) < _TEXTUALS_OWN_S


async def test_what_comes_behind_esc_at_once_is_one_key_with_it(typist: Typist) -> None:
    typist.types(b"\x1b[A\x1b[1;2D\x1bx")
    assert typist.until(3) == ["up", "shift+left", "alt+x"]


async def test_a_character_may_come_in_parts_and_bytes_that_are_none_harm_nothing(typist: Typist) -> None:
    typist.types("é".encode()[:1])
    typist.types("é".encode()[1:] + b"\xff\xfea")
    assert typist.until(4)[-1] == "a"
    assert typist.driver.keys[0][0] == "é"
    assert not typist.app.was_told.is_set()


async def test_a_terminal_that_is_gone_is_told_once_and_no_longer_read(typist: Typist) -> None:
    typist.hang_up()
    assert typist.app.was_told.wait(_TIMEOUT_S)
    typist.thread.join(_TIMEOUT_S)
    assert not typist.thread.is_alive()


async def test_what_is_typed_before_the_app_hears_keys_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    typist = Typist(typed_ahead=b"hi\n")
    try:
        typist.types(b"x")
        assert not typist.driver.keys
        typist.app.hears_keys.set()
        assert typist.until(4) == ["h", "i", "enter", "x"], "a line feed is an Enter of before"
        typist.types(b"\n")
        assert typist.until(5)[-1] == "ctrl+j"
    finally:
        typist.close()


async def test_an_app_that_is_left_before_it_hears_keys_leaves_nobody_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    Typist(typed_ahead=b"x").close()
