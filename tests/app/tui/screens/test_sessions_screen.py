"""The list of sessions, by keyboard alone."""

from __future__ import annotations

from textual.widgets import Input, OptionList

from kodkod_agent.errors import SessionBusy
from kodkod_app.tui.screens.parts import ConfirmScreen
from kodkod_app.tui.screens.sessions import SessionChoice, SessionsScreen

from .examples import FIRST, PROJECT, SESSIONS, Shelf
from .host import Host, press_at_once, settled, until

CURRENT = SESSIONS[0].info.id


def app_of(shelf: Shelf | None = None) -> Host:
    return Host(lambda: SessionsScreen(shelf or Shelf(), PROJECT, current=CURRENT))


def rows(app: Host) -> list[str]:
    return [str(option.prompt) for option in app.screen.query_one(OptionList).options]


async def test_those_of_this_folder_come_and_typing_finds() -> None:
    app = app_of()
    async with app.run_test() as pilot:
        await settled(pilot)
        assert len(rows(app)) == 5
        await pilot.press(*"DONE overlap")
        assert len(rows(app)) == 1
        assert "Sheet.total" in rows(app)[0]
        await pilot.press(*"zzz", "enter")
        assert app.result == "open", "there is none to resume"


async def test_resume_and_fork_the_one_under_the_cursor() -> None:
    for key, fork in (("enter", False), ("ctrl+f", True)):
        app = app_of()
        async with app.run_test() as pilot:
            await settled(pilot)
            await pilot.press("down", "down", key)
            assert app.result == SessionChoice(FIRST.info.id, PROJECT, fork=fork)


async def test_enter_resumes_what_the_letters_before_it_have_found() -> None:
    """It was looked at before them, and resumed another session."""
    app = app_of()
    async with app.run_test() as pilot:
        await settled(pilot)
        await pilot.press(*"DONE overlap")
        found = app.screen.query_one(OptionList).get_option_at_index(0).id
        await pilot.press("ctrl+u")
        assert app.screen.query_one(OptionList).get_option_at_index(0).id != found
        await press_at_once(pilot, *"overlap", "enter")
        assert app.result.session_id == found


async def test_other_folders_are_shown_when_asked_for() -> None:
    app = app_of()
    async with app.run_test() as pilot:
        await settled(pilot)
        await pilot.press("ctrl+t", "pagedown", "ctrl+b")
        assert app.result.branches
        assert str(app.result.work_tree) == "/home/mia/website"


async def test_delete_asks_first() -> None:
    shelf = Shelf()
    app = app_of(shelf)
    async with app.run_test() as pilot:
        await settled(pilot)
        await pilot.press("down", "ctrl+x")
        assert isinstance(app.screen, ConfirmScreen)
        await pilot.press("enter")
        assert len(shelf.all) == len(SESSIONS)
        await pilot.press("ctrl+x", "y")
        await until(pilot, lambda: len(rows(app)) == 4, "the list without it")
        assert SESSIONS[1] not in shelf.all
        assert len(rows(app)) == 4
        assert app.screen.query_one(Input).has_focus


async def test_what_cannot_be_deleted_stays() -> None:
    class Busy(Shelf):
        def delete(self, session_id: str) -> None:
            raise SessionBusy("session [bold]x[/] is open elsewhere")

    app = app_of(Busy())
    async with app.run_test() as pilot:
        await settled(pilot)
        await pilot.press("ctrl+x")
        assert not isinstance(app.screen, ConfirmScreen), "the open one"
        await pilot.press("down", "ctrl+x", "y")
        await settled(pilot)
        assert not isinstance(app.screen, ConfirmScreen)
        assert len(rows(app)) == 5


async def test_escape_chooses_nothing() -> None:
    app = app_of(Shelf([]))
    async with app.run_test() as pilot:
        await settled(pilot)
        await pilot.press("enter", "ctrl+f", "ctrl+x", "up", "escape")
        assert app.result is None
