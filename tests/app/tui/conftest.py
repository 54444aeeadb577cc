"""The real app with a recorded model, a project with a fault, and a driver that waits for what should be seen."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from textual.message import Message
from textual.pilot import Pilot

from kodkod_app.tui.app import KodkodApp
from kodkod_app.tui.store import Call, CallState
from kodkod_app.tui.widgets.prompt import Prompt
from kodkod_app.tui.workbench import Workbench
from kodkod_app.wish import Wish

TIMEOUT_S = 60.0


class WatchedApp(KodkodApp):
    """Counts what was written and is dealt with: a message takes several turns of the loop to get there."""

    num_taken = 0

    async def _dispatch_message(self, message: Message) -> None:
        await super()._dispatch_message(message)
        self.num_taken += isinstance(message, Prompt.Submitted)


class Driver:
    """Presses keys and reads the app."""

    def __init__(self, app: WatchedApp, pilot: Pilot[int], begin: Callable[[], None]) -> None:
        self.app = app
        self.pilot = pilot
        self.begin = begin
        """Begins to load, where that was held back."""

    async def until(self, is_so: Callable[[], object], what: str = "") -> None:
        """Wait for something; the screen's last state is in the failure."""
        end_s = time.monotonic() + TIMEOUT_S
        while not is_so():
            assert time.monotonic() < end_s, f"{what or is_so} never came; the screen:\n{self.screen_text()}"
            await self.pilot.pause(0.02)

    async def opened(self) -> None:
        """The session is there."""
        await self.until(lambda: self.app.is_open, "the session")

    async def running(self) -> None:
        """A call is being done."""
        await self.until(lambda: any(call.state is CallState.RUNNING for call in self.entries(Call)), "a call")

    async def idle(self) -> None:
        """Nothing runs."""
        await self.until(lambda: self.app.is_open and not self.app.is_busy and not self.app.queue.messages, "the end")
        transcript = self.app.transcript
        await self.until(lambda: not transcript.is_moving and not transcript.is_incomplete, "the last entries")
        await self.pilot.pause()

    async def say(self, text: str) -> None:
        """Write and submit."""
        before = self.app.num_taken
        self.app.prompt.put(text)
        await self.pilot.press("enter")
        await self.until(lambda: self.app.num_taken > before, f"what becomes of {text!r}")
        await self.pilot.pause()

    def screen_text(self) -> str:
        """What is on the screen, as lines."""
        width, height = self.app.size
        lines = [strip.text for strip in self.app.screen._compositor.render_strips()]
        return "\n".join(line[:width].rstrip() for line in lines[:height])

    def entries(self, kind: type[Any]) -> list[Any]:
        """Of the store, by kind."""
        return [entry for entry in self.app.store.entries if isinstance(entry, kind)]


def _has_ended(workbench: Workbench) -> bool:
    """Closed, be it after a step of the model that takes long, for which nobody waits who leaves."""
    if not workbench.close() and workbench._is_away.is_set():
        workbench._thread.join(TIMEOUT_S)
    return not workbench._thread.is_alive()


@pytest.fixture
def open_app(project: Path) -> Callable[..., Any]:
    """Opens the app on the project with a recorded model; closes it in order."""

    @asynccontextmanager
    async def opening(
        model: str, size: tuple[int, int] = (120, 40), *, is_held: bool = False, **said: Any
    ) -> AsyncIterator[Driver]:
        wish = said.pop("wish", {})
        app = WatchedApp(Wish(project, {"model": model, "sandbox": "none", **said}, **wish))
        begin = app.workbench.start
        if is_held:
            app.workbench.start = lambda: None
        async with app.run_test(size=size) as pilot:
            driver = Driver(app, pilot, begin)
            try:
                yield driver
            finally:
                assert await asyncio.to_thread(_has_ended, app.workbench)

    return opening
