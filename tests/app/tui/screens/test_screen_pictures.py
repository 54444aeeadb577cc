"""Every screen as a picture: wide and 80x24, dark, light, high contrast, and in the terminal's own colours."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.screen import Screen
from textual.widgets import Input, TextArea

from kodkod_app.machine_facts import Fact
from kodkod_app.settings import Layers, merge_sources
from kodkod_app.settings_fields import SettingField, setting_fields
from kodkod_app.tui.commands import COMMANDS
from kodkod_app.tui.screens.approval import ApprovalScreen
from kodkod_app.tui.screens.branches import BranchesScreen
from kodkod_app.tui.screens.doctor import DoctorScreen
from kodkod_app.tui.screens.export import ExportScreen
from kodkod_app.tui.screens.listing import Entry, ListScreen, Section
from kodkod_app.tui.screens.parts import ConfirmScreen
from kodkod_app.tui.screens.rewind import RewindScreen
from kodkod_app.tui.screens.sessions import SessionsScreen
from kodkod_app.tui.screens.settings import SettingsScreen

from .examples import CHANGED, EDIT, PROJECT, REMOVE, SESSIONS, SHELL, TREE, WRITE, Question, Shelf
from .host import CHAT, Host, settled

WIDE, NARROW = (120, 40), (80, 24)
LAYERS = Layers(
    user={"agent": {"max_turns": 40, "temperature": 0.3}, "sandbox": "landlock"},
    project={"tools": {"test_command": ["make", "test"]}},
)
FACTS = (
    Fact("kodkod", True, "0.1.0 on Python 3.11.7"),
    Fact("git", True, "/usr/bin/git"),
    Fact("rg", False, "not found; install ripgrep for quicker search"),
    Fact("processor", True, "8 cores, x86_64"),
    Fact("memory", True, "31.2 GiB"),
    Fact("disk", True, "210.4 GiB free at /home/mia/timesheet"),
    Fact("sandbox docker", False, "no Docker daemon answers: start it, set DOCKER_HOST, or use another box"),
    Fact("sandbox landlock", True, "isolates by `root`"),
    Fact("model", True, "LongcatFlashNgramForCausalLM, 3 dual layers, 20.9 MiB of weights"),
    Fact("speed", True, "at most 2,481 tokens/s on the processor: 8.1 MiB of weights per token, 19.6 GiB/s"),
)


def approval(*questions: Question, **options: Any) -> Callable[[], Screen[Any]]:
    requests, facts = [one.request for one in questions], [one.facts for one in questions]
    return lambda: ApprovalScreen(requests, facts, **options)


def sessions() -> Screen[Any]:
    return SessionsScreen(Shelf(), PROJECT, current=SESSIONS[0].info.id)


def branches() -> Screen[Any]:
    return BranchesScreen(lambda: TREE, "two", changed_files=lambda _id, step: CHANGED[: step % 4])


def rewind() -> Screen[Any]:
    return RewindScreen(TREE.steps, changed_files=lambda step: CHANGED[: 7 - step])


def fields() -> list[SettingField]:
    return setting_fields(LAYERS, merge_sources(LAYERS, trusted=True))


def settings() -> Screen[Any]:
    return SettingsScreen(fields, lambda _key, _value: None, "~/.config/kodkod/config.toml")


def doctor() -> Screen[Any]:
    async def look() -> AsyncIterator[Fact]:
        for fact in FACTS:
            yield fact

    return DoctorScreen(look, welcome="Welcome to kodkod.")


def export() -> Screen[Any]:
    return ExportScreen("20261120-093000-000014", PROJECT, lambda _form, _path: ())


def help_screen() -> Screen[Any]:
    commands = tuple(Entry(f"/{one.name} {one.argument}".strip(), one.help) for one in COMMANDS)
    keys = (Entry("shift+tab", "Next permission mode"), Entry("f1", "Help"), Entry("esc", "Interrupt"))
    return ListScreen("Help", "keys and commands", [Section("Commands", commands), Section("Anywhere", keys)])


def servers() -> Screen[Any]:
    mine = Entry(
        "notes", "ready, 2 tools", ("notes-server --root ${HOME}/notes", "mcp__notes__search, mcp__notes__add")
    )
    ended = "has ended (out of paper); /mcp restart tickets starts it again"
    theirs = Entry("tickets", ended, ("https://localhost:8443/mcp",))
    sections = [
        Section("Yours, in the settings (mcp_servers)", (mine,)),
        Section("The project's, in .mcp.json", (theirs,)),
        Section("Not used", (Entry("", "the project's MCP server notes is not used: yours has its name"),)),
    ]
    return ListScreen("MCP servers", "programs outside the box", sections)


@dataclass(frozen=True)
class Picture:
    """One of them."""

    make: Callable[[], Screen[Any]]
    size: tuple[int, int] = WIDE
    theme: str = "dark"
    keys: tuple[str, ...] = ()


ALWAYS = {"save_rules": lambda _rules: None}
PICTURES = {
    "approval_edit": Picture(approval(EDIT)),
    "approval_edit_light": Picture(approval(EDIT), theme="light"),
    "approval_edit_ansi": Picture(approval(EDIT), theme="ansi"),
    "approval_edit_contrast": Picture(approval(EDIT), NARROW, "contrast"),
    "approval_command_small": Picture(approval(SHELL), NARROW),
    "approval_several": Picture(approval(SHELL, EDIT, WRITE, REMOVE), keys=("y", "right")),
    "approval_several_small": Picture(approval(SHELL, EDIT, WRITE, REMOVE), NARROW, "light", ("n", "enter")),
    "approval_rule": Picture(approval(SHELL, **ALWAYS), NARROW, keys=("a",)),
    "approval_arguments": Picture(approval(EDIT), keys=("e",)),
    "approval_arguments_small": Picture(approval(EDIT), NARROW, "ansi", ("e",)),
    "approval_refusal": Picture(approval(REMOVE), NARROW, "light", ("n", *"use make clean")),
    "sessions": Picture(sessions, keys=("down", "down")),
    "sessions_small": Picture(sessions, NARROW, "light"),
    "sessions_search": Picture(sessions, theme="ansi", keys=tuple("date")),
    "sessions_delete": Picture(sessions, NARROW, keys=("down", "ctrl+x")),
    "branches": Picture(branches, keys=("up", "up")),
    "branches_light": Picture(branches, theme="light"),
    "branches_small": Picture(branches, NARROW, keys=("up",)),
    "branches_ansi": Picture(branches, NARROW, "ansi", ("down",)),
    "rewind": Picture(rewind, NARROW, keys=("up",)),
    "rewind_light": Picture(rewind, theme="light"),
    "settings": Picture(settings, keys=("down",) * 7),
    "settings_small": Picture(settings, NARROW, "light", tuple("test")),
    "settings_choice": Picture(settings, NARROW, keys=("down", "enter")),
    "doctor": Picture(doctor),
    "doctor_small": Picture(doctor, NARROW, "ansi"),
    "export": Picture(export, NARROW, keys=("down",)),
    "help": Picture(help_screen, theme="light"),
    "help_small": Picture(help_screen, NARROW),
    "servers": Picture(servers),
    "servers_small": Picture(servers, NARROW, "light"),
    "confirm": Picture(lambda: ConfirmScreen("Delete “mend add” for good?", "3 steps"), NARROW, "contrast"),
}


@pytest.fixture(autouse=True)
def same_clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Times of day are shown where the person is: in pictures that is one place."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def picture_app(picture: Picture) -> Host:
    return Host(picture.make, picture.theme, CHAT)


async def arrive(pilot: Pilot[Any], picture: Picture) -> None:
    """Press the keys once what is read behind the screen is there; no cursor blinks."""
    await settled(pilot)
    await pilot.press(*picture.keys)
    await settled(pilot)
    for widget in pilot.app.screen.query("Input, TextArea").results(Input | TextArea):
        widget._pause_blink(visible=True)
    await pilot.pause()


@pytest.mark.parametrize("name", PICTURES)
def test_looks_as_it_did(name: str, snap_compare: Any) -> None:
    picture = PICTURES[name]
    assert snap_compare(
        picture_app(picture), terminal_size=picture.size, run_before=lambda pilot: arrive(pilot, picture)
    )
