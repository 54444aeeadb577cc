"""Keys, pastes and sizes as they come: nothing of it may end the app, or leave it so that it cannot be gone on with."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from textual import events

from ..conftest import LOOK, MEND, shell, turn
from .conftest import Driver

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

KEYS = (
    *("y", "a", "e", "n", "Y", "N", "r", "f", "g", "space", "enter", "escape", "tab", "shift+tab", "backspace"),
    *("up", "down", "left", "right", "pageup", "pagedown", "home", "end", "ctrl+end", "ctrl+o", "ctrl+j", "ctrl+s"),
    *("ctrl+u", "ctrl+t", "ctrl+f", "ctrl+b", "f1", "f2", "f3", "f4", "/", "@", "!", "漢"),
)
SAID = ("go on", "/rewind", "/fork", "/new", "/continue", "/mode plan", "/mode default", "/export", "/copy", "!echo on")
PASTED = ("words", "a line\n" * 12, "漢字" * 700, "a\tb\x1b[31m", "")
SIZES = ((100, 30), (60, 20), (120, 40), (40, 12), (10, 3), (1, 1))
STEPS = 120


async def anything(driver: Driver, chance: random.Random) -> None:
    """One thing that a person may do."""
    match chance.randrange(10):
        case 0:
            driver.app.post_message(events.Paste(chance.choice(PASTED)))
        case 1:
            await driver.pilot.resize_terminal(*chance.choice(SIZES))
        case 2 | 3:
            if driver.app.prompt.has_focus:
                driver.app.prompt.put(chance.choice(SAID))
            await driver.pilot.press("enter")
        case _:
            await driver.pilot.press(chance.choice(KEYS))


async def left_alone(driver: Driver) -> None:
    """Screens closed, and what runs stopped."""
    await driver.pilot.resize_terminal(100, 30)
    for _ in range(200):
        if len(driver.app.screen_stack) == 1 and not driver.app.is_busy and not driver.app.queue.messages:
            break
        await driver.pilot.press("escape")
        await driver.pilot.pause(0.1)
    await driver.idle()


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_is_pressed_the_app_can_be_gone_on_with(
    open_app: Callable[..., Any], record: Callable[..., str], seed: int
) -> None:
    both = turn("Two.", ("write", {"path": "a", "content": "a\n"}), ("shell", {"command": "echo b > b"}))
    turns = (
        LOOK,
        MEND,
        shell("seq 1 200; sleep 0.2"),
        both,
        turn("- [ ] a step\n\n" + "words " * 200),
        shell("rm a b"),
    )
    async with open_app(record(*turns * 20), size=(100, 30)) as driver:
        await driver.opened()
        chance = random.Random(seed)
        for _ in range(STEPS):
            await anything(driver, chance)
        await left_alone(driver)
        assert not driver.app.status.facts.activity
        driver.app.prompt.put("")
        await driver.pilot.press(*"still here")
        assert driver.app.prompt.text == "still here"
        assert driver.app.prompt.has_focus
