"""The app with the model that comes along: a whole repair, then a fork, a resume and a rewind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kodkod_app.bootstrap import bundled_model
from kodkod_app.tui import store as s
from kodkod_app.tui.screens.approval import ApprovalScreen
from kodkod_sandbox import landlock
from reachable import let_others_in

from ..conftest import FAULTY, MENDED, git
from . import conftest
from .conftest import Driver

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
PYTHON = str(Path(pytest.__file__).parents[4])
"""The environment that has pytest, as a person's own."""
WISH = "A test fails. Mend it."


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model computes; a busy machine computes slowly."""
    monkeypatch.setattr(conftest, "TIMEOUT_S", 300.0)


@pytest.fixture
def tested_project(project: Path) -> Path:
    """With pytest as its runner, which tells the model where it failed; where other users may come."""
    (project / ".kodkod" / "config.toml").unlink()
    let_others_in(project)
    return project


async def approved_edits(driver: Driver) -> int:
    """Allow each edit that is asked about, and nothing but edits is, until the run is over; how many they were."""
    edits = 0
    while await question(driver) is not None:
        await driver.until(lambda: "asked because calc.py would be changed" in driver.screen_text(), "why it asks")
        await answer(driver, "y")
        edits += 1
    return edits


async def question(driver: Driver) -> ApprovalScreen | None:
    """The next one; None once the run is over."""
    await driver.until(lambda: isinstance(driver.app.screen, ApprovalScreen) or not driver.app.is_busy, "what follows")
    screen = driver.app.screen
    return screen if isinstance(screen, ApprovalScreen) else None


async def answer(driver: Driver, key: str) -> None:
    """Answer what is asked. This question goes; the next may come before anybody looks."""
    asked = driver.app.screen
    await driver.pilot.press(key)
    await driver.until(lambda: driver.app.screen is not asked, "the answer to be taken")


@pytest.mark.skipif(landlock.missing() is not None, reason=str(landlock.missing()))
async def test_from_a_prompt_by_way_of_approved_edits_to_green_tests_and_back(
    open_app: Callable[..., Any], tested_project: Path
) -> None:
    calc = tested_project / "calc.py"
    facts = {"env": PYTHON, "sandbox": "landlock"}
    async with open_app(str(bundled_model()), **facts) as driver:
        await driver.opened()
        await driver.say(WISH)
        assert await approved_edits(driver) >= 1
        await driver.idle()
        [ending] = driver.entries(s.Ending)
        assert (ending.status, ending.files, ending.tests) == ("done", (("calc.py", 1, 1),), "1 passed")
        assert driver.entries(s.Checks)[-1].passed
        assert calc.read_text() == MENDED
        first, steps = driver.app.session_id, driver.app.workbench.session.steps
        calls = len(driver.entries(s.Call))

        await driver.say(f"/fork {steps[0]}")
        await driver.until(lambda: driver.app.session_id != first, "the fork")
        await driver.idle()
        assert calc.read_text() == FAULTY
        assert len(driver.entries(s.Call)) < calls

    async with open_app(str(bundled_model()), **facts, wish={"session_id": first}) as driver:
        await driver.opened()
        assert [entry.text for entry in driver.entries(s.Said)] == [WISH]
        assert len(driver.entries(s.Call)) == calls
        assert any(call.name == "edit" and call.diff is not None for call in driver.entries(s.Call))
        await driver.say("/rewind 0")
        await driver.until(lambda: not driver.entries(s.Call), "the beginning")
        await driver.idle()
        assert git(tested_project, "status", "--porcelain") == ""
