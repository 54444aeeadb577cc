"""Settings, export, doctor, help, and a yes or no, by keyboard alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from textual.binding import Binding
from textual.widgets import Input, OptionList, Static

from kodkod_app.machine_facts import Fact
from kodkod_app.session_export import NothingToExport
from kodkod_app.settings import merge_sources, read_layers
from kodkod_app.settings_fields import SettingField, setting_fields
from kodkod_app.settings_file import save_value
from kodkod_app.tui.screens.doctor import DoctorScreen
from kodkod_app.tui.screens.export import ExportScreen
from kodkod_app.tui.screens.help import key_entries
from kodkod_app.tui.screens.listing import Entry, ListScreen, Section
from kodkod_app.tui.screens.parts import ConfirmScreen
from kodkod_app.tui.screens.settings import SettingsScreen, ValueScreen

from .host import Host, press_at_once, settled, until


def text_of(app: Host, selector: str) -> str:
    return str(app.screen.query_one(selector, Static).render())


def settings_app(path: Path) -> Host:
    def load() -> list[SettingField]:
        layers = read_layers(path.parent, trusted=True, environment={})
        return setting_fields(layers, merge_sources(layers, trusted=True))

    return Host(lambda: SettingsScreen(load, lambda key, value: save_value(path, key, value), str(path)))


async def test_a_value_that_is_chosen_twice_leaves_the_settings_open(settings_file: Path) -> None:
    app = settings_app(settings_file)
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press(*"theme", "enter")
        await until(pilot, lambda: isinstance(app.screen, ValueScreen), "the choices")
        await press_at_once(pilot, "down", "enter", "enter")
        assert isinstance(app.screen, SettingsScreen)
    assert settings_file.read_text() == '[tui]\ntheme = "light"\n'


async def test_a_file_that_is_broken_meanwhile_leaves_the_settings_as_they_were_read(settings_file: Path) -> None:
    settings_file.write_text("[agent]\nmax_turns = 12\n")
    app = settings_app(settings_file)
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press(*"max_turns")
        settings_file.write_text("[agent")
        await pilot.press("ctrl+d")
        await settled(pilot)
        assert "12" in str(app.screen.query_one(OptionList).get_option_at_index(0).prompt)
        await pilot.press("escape")
        assert app.result == ()
    assert settings_file.read_text() == "[agent"


async def test_a_setting_is_found_changed_checked_and_taken_back(settings_file: Path) -> None:
    app = settings_app(settings_file)
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press(*"max_turns")
        assert "Turns of the model in one run" in text_of(app, "#about")
        await pilot.press("enter")
        app.screen.query_one(Input).value = "0"
        await pilot.press("enter")
        assert isinstance(app.screen, ValueScreen)
        assert "greater than or equal to 1" in text_of(app, "#fault")
        app.screen.query_one(Input).value = "12"
        await pilot.press("enter")
        await settled(pilot)
        assert settings_file.read_text() == "[agent]\nmax_turns = 12\n"
        assert "yours" in str(app.screen.query_one(OptionList).get_option_at_index(0).prompt)
        await pilot.press("ctrl+d")
        assert settings_file.read_text().strip() == ""
        await pilot.press("escape")
        assert app.result == ("agent.max_turns",)


async def test_a_choice_is_chosen(settings_file: Path) -> None:
    app = settings_app(settings_file)
    async with app.run_test() as pilot:
        await pilot.press("down", "enter", "down", "enter")
        await settled(pilot)
        assert settings_file.read_text() == 'sandbox = "docker"\n'
        await pilot.press("enter", "escape", "escape")
        assert app.result == ("sandbox",)


async def test_text_that_looks_like_a_number_stays_text(settings_file: Path) -> None:
    app = settings_app(settings_file)
    async with app.run_test() as pilot:
        await pilot.press("enter", *"42", "enter")
        await settled(pilot)
        assert settings_file.read_text() == 'model = "42"\n'


async def test_export_writes_where_it_is_told_and_never_over_a_file_unasked(tmp_path: Path) -> None:
    wrote: list[tuple[str, Path]] = []

    def write(form: str, path: Path) -> list[Path]:
        wrote.append((form, path))
        if path.name == "empty.json":
            raise NothingToExport("nobody ever spoke")
        path.write_text("x")
        return [path]

    (tmp_path / "s1.json").write_text("mine")
    app = Host(lambda: ExportScreen("s1", tmp_path, write))
    async with app.run_test() as pilot:
        assert app.screen.query_one(Input).value == str(tmp_path / "s1.md")
        await pilot.press("down", "enter")
        await settled(pilot)
        assert "once more" in text_of(app, "#note")
        assert wrote == []
        app.screen.query_one(Input).value = "empty.json"
        await pilot.press("enter")
        await until(pilot, lambda: "nobody ever spoke" in text_of(app, "#note"), "the reason")
        app.screen.query_one(Input).value = str(tmp_path)
        await pilot.press("enter")
        await settled(pilot)
        assert "is a folder" in text_of(app, "#note")
        app.screen.query_one(Input).value = "s1.json"
        await pilot.press("enter", "enter")
        await until(pilot, lambda: app.result != "open", "the end")
        assert app.result == (tmp_path / "s1.json",)
        assert wrote[-1] == ("atif", tmp_path / "s1.json")


async def test_export_says_why_a_file_cannot_be_written(tmp_path: Path) -> None:
    def write(form: str, path: Path) -> list[Path]:
        path.write_text("x")
        return [path]

    app = Host(lambda: ExportScreen("s1", tmp_path / "missing", write))
    async with app.run_test() as pilot:
        await pilot.press("enter")
        await until(pilot, lambda: "No such file" in text_of(app, "#note"), "the reason")
        await pilot.press("escape")
        assert app.result == ()


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ([Fact("git", True, "/usr/bin/git")], "all is well"),
        ([Fact("git", False, "not found")], "one thing is missing"),
        ([Fact("git", False, "not found"), Fact("rg", False, "not found")], "2 things are missing"),
    ],
)
async def test_doctor(facts: list[Fact], told: str) -> None:
    async def look() -> AsyncIterator[Fact]:
        for fact in facts:
            yield fact

    app = Host(lambda: DoctorScreen(look, welcome="Welcome."))
    async with app.run_test() as pilot:
        await until(pilot, lambda: f"Welcome.  {told}" in text_of(app, "#heading"), "the heading")
        await pilot.press("r")
        await settled(pilot)
        assert len(app.screen.query(".detail")) == len(facts)
        await pilot.press("escape")
        assert app.result is None


async def test_help_is_made_of_bindings_and_searched() -> None:
    bindings: list[Any] = [
        Binding("shift+enter,ctrl+j", "new_line", "New line"),
        Binding("x", "hidden", ""),
        ("f1", "show_help", "Help"),
    ]

    def make() -> ListScreen:
        keys = Section("Keys", key_entries(app, bindings))
        return ListScreen("Help", "", [keys, Section("Commands", (Entry("/rewind [step]", "back", ("files too",)),))])

    app = Host(make)
    async with app.run_test() as pilot:
        shown = text_of(app, "#sections")
        assert "New line" in shown
        assert "^j" in shown
        assert "/rewind [step]" in shown
        assert "files too" in shown
        await pilot.press(*"too")
        assert "New line" not in text_of(app, "#sections")
        assert "/rewind" in text_of(app, "#sections")
        await pilot.press(*"zzz", "down", "pagedown")
        assert "nothing" in text_of(app, "#sections")
        await pilot.press("escape")
        assert app.result is None


@pytest.mark.parametrize(("key", "expected"), [("y", True), ("n", False), ("escape", False), ("enter", False)])
async def test_yes_or_no(key: str, expected: bool) -> None:
    app = Host(lambda: ConfirmScreen("Delete it?", "for good"))
    async with app.run_test() as pilot:
        await pilot.press(key)
        assert app.result is expected
