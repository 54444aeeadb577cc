"""The README's pictures, taken of the app at work: the small model that comes along mends the example in a copy.

    python app/pictures.py [FOLDER]        # chat.svg, approval.svg and branches.svg; [default: docs]

Nothing on them is staged: what is said, counted and timed is what the run said, counted and took on this machine.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.screen import Screen
from textual.widgets import Static

from kodkod_app import paths
from kodkod_app.bootstrap import require_model
from kodkod_app.demonstration import example_copy, example_folder
from kodkod_app.tui.app import KodkodApp
from kodkod_app.tui.screens.approval import ApprovalScreen
from kodkod_app.tui.screens.branches import BranchesScreen
from kodkod_app.wish import Wish

_CHAT, _SMALL = (120, 40), (100, 28)
_TIMEOUT_S = 600.0
_FAILING = "tests/test_sheet.py"
_WISH = f"{_FAILING} fails since yesterday. Mend the code, not the tests."
_OTHER_WISH = "Leave overlaps as it is."


class Photographer:
    """Presses keys in an app, waits for what comes of them, and takes pictures."""

    def __init__(self, app: KodkodApp, pilot: Pilot[int], folder: Path) -> None:
        self._app, self._pilot, self._folder = app, pilot, folder

    async def until(self, is_so: Callable[[], object], what: str) -> None:
        """Wait for something to be so."""
        end_s = time.monotonic() + _TIMEOUT_S
        while not is_so():
            if time.monotonic() > end_s:
                raise TimeoutError(f"{what} never came")
            await self._pilot.pause(0.05)

    async def take(self, name: str, size: tuple[int, int]) -> None:
        """A picture of the screen as it is, at this size."""
        await self._pilot.resize_terminal(*size)
        await self.until(lambda: self._app.screen.size == size, "the size")
        transcript = self._app.transcript
        await self.until(lambda: not transcript.is_moving and not transcript.is_incomplete, "the whole screen")
        await self._pilot.pause(0.5)
        (self._folder / f"{name}.svg").write_text(self._app.export_screenshot(title="kodkod"), encoding="utf-8")
        await self._pilot.resize_terminal(*_CHAT)

    async def say(self, text: str) -> None:
        """Write and submit."""
        self._app.prompt.put(text)
        await self._pilot.press("enter")
        await self._pilot.pause()

    async def mend(self, wish: str, *, most_changes: int = 100, picture: str = "") -> None:
        """Ask, and allow each change once, to the end of the run; what is more than `most_changes` interrupts it.

        Where a picture is named the first question is on it.
        """
        await self.say(wish)
        for number in range(most_changes + 1):
            await self.until(lambda: self.is_asked or not self._app.is_busy, "a question or the end")
            if not self.is_asked:
                return
            if picture and number == 0:
                await self.take(picture, _SMALL)
            asked = self._app.screen
            await self._pilot.press("y" if number < most_changes else "escape")
            await self.until(partial(self._has_left, asked), "the answer")
        await self.until(lambda: not self._app.is_busy, "the end")

    def _has_left(self, screen: Screen[Any]) -> bool:
        return self._app.screen is not screen

    @property
    def is_asked(self) -> bool:
        """A question waits."""
        return isinstance(self._app.screen, ApprovalScreen)

    def shown(self, selector: str) -> str:
        """The text of a part of the screen; empty while there is none."""
        return "\n".join(str(part.render()) for part in self._app.screen.query(selector).results(Static))

    @property
    def detail(self) -> str:
        """What is said of the step under the cursor."""
        return self.shown("#detail")

    async def work(self) -> None:
        """All three pictures."""
        await self.until(lambda: self._app.is_open, "the session")
        await self.mend(_WISH, picture="approval")
        await self.take("chat", _CHAT)
        first = self._app.session_id
        await self.say("/fork 2")
        await self.until(lambda: self._app.session_id != first and not self._app.is_busy, "the fork")
        await self.mend(_OTHER_WISH, most_changes=1)
        await self._pilot.press("f3")
        await self.until(lambda: isinstance(self._app.screen, BranchesScreen), "the branches")
        await self.until(lambda: "the session stands here" in self.detail, "the tree")
        await self._pilot.press("up", "up")
        await self.until(lambda: "takes this session back to step 3" in self.detail, "another step")
        await self.until(lambda: "file" in self.shown("#files"), "what would change")
        await self.take("branches", _SMALL)


async def take_pictures(folder: Path, tree: Path) -> None:
    """Work in `tree`, and leave the pictures in `folder`."""
    app = KodkodApp(Wish(tree, {"model": require_model(None), "env": str(Path(pytest.__file__).parents[4])}))
    async with app.run_test(size=_CHAT) as pilot:
        try:
            await Photographer(app, pilot, folder).work()
        finally:
            await asyncio.to_thread(app.workbench.close)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parents[1] / "docs")
    folder = parser.parse_args().folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with example_copy(example_folder(), [_FAILING]) as broken:
        os.environ["HOME"] = str(broken.tree.parent)
        os.environ[paths.HOME_VARIABLE] = str(broken.tree.parent / "kodkod")
        asyncio.run(take_pictures(folder, broken.tree))


if __name__ == "__main__":
    main()
