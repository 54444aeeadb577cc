"""The tree of steps and the way back, by keyboard alone."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from textual.screen import Screen
from textual.widgets import OptionList, Static, Tree

from kodkod_agent.errors import SessionDamaged
from kodkod_app.report_text import FileStat
from kodkod_app.tui.screens.branches import BranchesScreen, Jump, JumpKind
from kodkod_app.tui.screens.rewind import RewindScreen

from .examples import CHANGED, TREE
from .host import Host, press_at_once, settled, until


def tree_app(current: str = "two") -> Host:
    return Host(lambda: BranchesScreen(lambda: TREE, current, changed_files=lambda _id, step: CHANGED[:step]))


async def jump(*keys: str, current: str = "two") -> Jump | str | None:
    app = tree_app(current)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await pilot.press(*keys)
        await settled(pilot)
        return app.result  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (("enter",), "open"),
        (("r",), "open"),
        (("up", "up", "enter"), Jump("two", 5, JumpKind.REWIND)),
        (("up", "up", "r"), Jump("two", 5, JumpKind.REWIND)),
        (("up", "up", "f"), Jump("two", 5, JumpKind.FORK)),
        (("up", "enter"), Jump("three", 5, JumpKind.RESUME)),
        (("down", "enter"), Jump("one", 4, JumpKind.FORK)),
        (("down", "r"), "open"),
        (("end", "enter"), Jump("one", 7, JumpKind.RESUME)),
        (("home", "enter"), Jump("one", 0, JumpKind.FORK)),
        (("escape",), None),
    ],
)
async def test_a_jump_leads_where_it_says(keys: tuple[str, ...], expected: Jump | str | None) -> None:
    assert await jump(*keys) == expected


async def test_the_cursor_begins_where_the_session_stands() -> None:
    for current, line in (("two", "6  shell pytest -x  refused"), ("three", "Try it with a property"), ("one", "7")):
        app = tree_app(current)
        async with app.run_test(size=(120, 40)) as pilot:
            await settled(pilot)
            node = app.screen.query_one(Tree).cursor_node
            assert node is not None
            assert str(node.label).startswith("●")
            assert line in str(node.label)


async def test_a_step_is_told_with_the_files_that_would_change() -> None:
    app = tree_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await pilot.press("home", "down", "down", "down", "down")
        await settled(pilot)
        told = str(app.screen.query_one("#detail", Static).render())
        assert "begins a new session at step 3" in told
        assert "The end of a span is part of it." in told
        assert "96 new tokens, 2,620 reused" in told
        assert "3 files change" in str(app.screen.query_one("#files", Static).render())


async def test_a_tree_that_cannot_be_read_says_so() -> None:
    def load() -> None:
        raise SessionDamaged("journal.jsonl cannot be read")

    app = Host(lambda: BranchesScreen(load, "two"))  # type: ignore[arg-type,return-value]
    async with app.run_test() as pilot:
        await settled(pilot)
        assert "cannot be read" in str(app.screen.query_one("#heading", Static).render())
        await pilot.press("enter", "f", "r", "escape")
        assert app.result is None


@pytest.mark.parametrize(
    ("keys", "expected"),
    [(("enter",), 6), (("up", "enter"), 5), (("home", "enter"), 0), (("escape",), None)],
)
async def test_rewind(keys: tuple[str, ...], expected: int | None) -> None:
    app = Host(lambda: RewindScreen(TREE.steps, changed_files=lambda step: CHANGED[: 7 - step]))
    async with app.run_test() as pilot:
        await settled(pilot)
        cost = str(app.screen.query_one("#cost", Static).render())
        assert "step 7 is dropped" in cost
        assert "1 file changes" in cost
        await pilot.press(*keys)
        assert app.result == expected


async def test_keys_that_come_at_once_are_taken_in_their_order() -> None:
    """Enter was looked at first, and led to where the cursor stood before it was moved."""
    app = Host(lambda: RewindScreen(TREE.steps, changed_files=lambda _step: ()))
    async with app.run_test() as pilot:
        await settled(pilot)
        await press_at_once(pilot, "up", "up", "enter")
        assert app.result == 4
    app = tree_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await press_at_once(pilot, "up", "up", "enter")
        assert app.result == Jump("two", 5, JumpKind.REWIND)


async def test_page_keys_where_there_is_no_room_for_a_step() -> None:
    """Textual has no lines to go to there, and ended the app."""
    app = Host(lambda: RewindScreen(TREE.steps, changed_files=lambda _step: ()))
    async with app.run_test() as pilot:
        await settled(pilot)
        steps = app.screen.query_one(OptionList)
        steps.styles.height = 0
        await pilot.pause()
        steps.notify_style_update()
        await pilot.press("pagedown", "pageup", "escape")
        assert app.result is None


async def test_a_session_without_steps_can_go_to_its_beginning() -> None:
    app = Host(lambda: RewindScreen((), changed_files=lambda _step: ()))
    async with app.run_test() as pilot:
        await settled(pilot)
        assert app.screen.query_one(OptionList).option_count == 1
        await pilot.press("enter")
        assert app.result == 0


async def test_a_key_that_comes_with_the_tree_is_not_taken_back() -> None:
    """The tree is read behind the screen; who presses a key as it appears has gone on from where the session stands."""
    app = tree_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        screen = app.screen
        assert isinstance(screen, BranchesScreen)
        tree = screen.query_one(Tree)
        tree.clear()
        screen._grow(TREE)
        tree.action_cursor_up()
        await settled(pilot)
        assert tree.cursor_node is not None
        assert "6  shell pytest" not in str(tree.cursor_node.label)


@pytest.mark.parametrize("kind", ["branches", "rewind"])
async def test_what_is_looked_up_for_a_screen_that_is_being_left_harms_nobody(kind: str) -> None:
    """Its parts are taken away before its work is ended."""
    asked, may_answer = threading.Event(), threading.Event()

    def changed(*_: object) -> tuple[FileStat, ...]:
        asked.set()
        assert may_answer.wait(60)
        return CHANGED

    def make() -> Screen[Any]:
        if kind == "rewind":
            return RewindScreen(TREE.steps, changed_files=changed)
        return BranchesScreen(lambda: TREE, "two", changed_files=changed)

    app = Host(make)
    async with app.run_test() as pilot:
        try:
            await until(pilot, asked.is_set, "the question")
            await app.screen.query("#files, #cost").remove()
        finally:
            may_answer.set()
        await settled(pilot)
        assert app.is_running
