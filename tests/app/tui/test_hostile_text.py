"""Text that means harm: shown as it stands, whatever it holds. No control reaches the terminal from it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from textual.events import Paste
from textual.screen import Screen

from kodkod_agent.events import ApprovalRequest
from kodkod_agent.rules import Rule
from kodkod_app.machine_facts import Fact
from kodkod_app.report_text import FileStat
from kodkod_app.session_branches import Branch, Step
from kodkod_app.settings_fields import SettingField, Source
from kodkod_app.tui.screens.approval import ApprovalScreen
from kodkod_app.tui.screens.branches import BranchesScreen
from kodkod_app.tui.screens.doctor import DoctorScreen
from kodkod_app.tui.screens.export import ExportScreen
from kodkod_app.tui.screens.listing import Entry, ListScreen, Section
from kodkod_app.tui.screens.parts import ConfirmScreen
from kodkod_app.tui.screens.rewind import RewindScreen
from kodkod_app.tui.screens.sessions import SessionsScreen
from kodkod_app.tui.screens.settings import SettingsScreen
from kodkod_app.tui.updates import CallFacts
from kodkod_engine.messages import ToolCall
from kodkod_tools.files import file_diff

from .screens.examples import PROJECT, Shelf, shelved
from .screens.host import Host, settled, until

TEXTS = {
    "escapes": "\x1b[2J\x1b[13;37H\x1b[31mred\x1b]52;c;aG9zdGlsZQ==\x07\x1b]0;owned\x07\x1bP+q\x1b\\ \x1b[6n end",
    "eight_bit": "\x9b2J\x9d52;c;aG9zdGlsZQ==\x9c\x90q\x9c \x85 end",
    "controls": "a\rb\x00c\x07d\x08e\x0bf\x0cg\x7fh end",
    "markup": "[bold red]b[/] [/nothing] [link='x'] [@click=app.quit]q[/] [ [] \\[x] $text-error end",
    "long_line": "x" * 1_000_000,
    "directions": "שלום \u202eevil\u202c مرحبا \u2066a\u2069 \u200f end",
    "wide": "日本語" * 30 + "👩‍👩‍👧 e\u0301\u0300\u0302\u0303 ａ end",
    "many_marks": "e" + "\u0301" * 5_000 + " end",
    "surrogates": "\udcff\ud83d \udc00 end",
    "hidden": "a\u200bb\u3164c\U000e0041\U000e0101d\ufeffe end",
    "lines": "one\ntwo\r\nthree\u2028four\u2029five\x85six end",
}
UNWANTED = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\u2028\u2029\ud800-\udfff"
    "\u200b\u3164\ufeff\U000e0000-\U000e007f\U000e0100-\U000e01ef]"
)


def approval(text: str) -> Screen[Any]:
    calls = (
        ("shell", {"command": text}, None),
        ("edit", {"path": text, "old": "a", "new": text}, file_diff(text, "a\nb\n", f"{text}\nb\n")),
        (text, {text: text, "deep": [text, {"x": text}]}, None),
    )
    rules = (Rule(tool="shell", pattern=text),)
    requests = [
        ApprovalRequest(ToolCall(id=f"{n}{text}", name=name, arguments=arguments), text)
        for n, (name, arguments, _) in enumerate(calls)
    ]
    return ApprovalScreen(requests, [CallFacts(text, rules, diff) for _, _, diff in calls])


def sessions(text: str) -> Screen[Any]:
    shelf = Shelf([replace_title(text), shelved(3, text, 2, text, text), shelved(2, "plain", 1, "done")])
    return SessionsScreen(shelf, PROJECT)


def replace_title(text: str) -> Any:
    session = shelved(4, text, 2, text, text, (text, 2))
    return replace(session, ending=replace(session.ending, tests_after={"passed": text, "failed": text}))


def branches(text: str) -> Screen[Any]:
    steps = (Step(1, (text,), text, (text, text)), Step(2, (), text, ()))
    tree = Branch("one", text, text, steps, forks=(Branch("two", text, text, (), forked_at=1),))
    return BranchesScreen(lambda: tree, "one", changed_files=lambda _id, _step: [FileStat(text, 1, 1)])


def rewind(text: str) -> Screen[Any]:
    steps = (Step(1, (text,), text, (text, text)), Step(2, (), text, ()))
    return RewindScreen(steps, changed_files=lambda _step: [FileStat(text, 1, 1)])


def settings(text: str) -> Screen[Any]:
    field = SettingField("model", text, text, (), text, text, Source.PROJECT, text)
    return SettingsScreen(lambda: [field], lambda _key, _value: None, text)


def doctor(text: str) -> Screen[Any]:
    async def look() -> AsyncIterator[Fact]:
        yield Fact(text, True, text)
        yield Fact("git", False, text)

    return DoctorScreen(look, welcome=text)


SCREENS: dict[str, tuple[Callable[[str], Screen[Any]], tuple[str, ...]]] = {
    "approval": (approval, ("right", "right", "a", "escape", "e", "escape", "n", "escape")),
    "sessions": (sessions, ("down", "ctrl+x", "escape", "down", "up")),
    "branches": (branches, ("home", "down", "down", "down")),
    "rewind": (rewind, ("up",)),
    "settings": (settings, ("down", "enter", "escape")),
    "doctor": (doctor, ()),
    "list": (lambda text: ListScreen(text, text, [Section(text, (Entry(text, text, (text, text)),))]), ()),
    "confirm": (lambda text: ConfirmScreen(text, text), ()),
    "export": (lambda text: ExportScreen(text, Path("/tmp") / text.replace("/", "")[:80], lambda _form, _path: ()), ()),
}


def shown(app: Host) -> str:
    return "\n".join(strip.text for strip in app.screen._compositor.render_strips())


@pytest.mark.parametrize("name", SCREENS)
async def test_every_screen_shows_it_inert(name: str) -> None:
    """One app for all texts: starting one takes longer than looking at its screen."""
    make, _ = SCREENS[name]
    app = Host(lambda: ConfirmScreen("begin?"))
    async with app.run_test(size=(120, 40)) as pilot:
        for kind, text in TEXTS.items():
            app.push_screen(make(text))
            await settled(pilot)
            check(app, kind)
            await app.pop_screen()


@pytest.mark.parametrize("name", [name for name, (_, keys) in SCREENS.items() if keys])
async def test_so_does_what_keys_lead_to(name: str) -> None:
    make, keys = SCREENS[name]
    everything = " ".join(text for kind, text in TEXTS.items() if kind not in ("long_line", "many_marks"))
    app = Host(lambda: make(everything))
    async with app.run_test(size=(120, 40)) as pilot:
        for key in keys:
            await pilot.press(key)
            check(app, f"after {key}")


def check(app: Host, kind: str) -> None:
    drawn = shown(app)
    assert not UNWANTED.search(drawn.replace("\n", "")), f"{kind}: {drawn!r}"


@pytest.mark.parametrize("name", SCREENS)
async def test_markup_is_shown_with_its_brackets(name: str) -> None:
    make, _ = SCREENS[name]
    app = Host(lambda: make("[bold]x[/] [/y]"))
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: "[bold]x[" in shown(app), "the text")


async def test_the_name_of_a_tool_is_no_markup_either() -> None:
    call = ToolCall(id="1", name="[bold]x[/] [/y]")
    app = Host(lambda: ApprovalScreen([ApprovalRequest(call, "unknown")], [CallFacts("no box")]))
    async with app.run_test() as pilot:
        await until(pilot, lambda: "May it call [bold]x[/] [/y]?" in shown(app), "the question")


async def test_what_is_pasted_is_inert() -> None:
    app = Host(lambda: approval("pytest"))
    async with app.run_test(size=(120, 40)) as pilot:
        for key in ("a", "e", "n"):
            await pilot.press(key)
            assert app.focused is not None
            app.focused.post_message(Paste(TEXTS["escapes"]))
            await until(pilot, lambda: "aG9zdGlsZQ==" in shown(app), f"what was pasted after {key}")
            check(app, f"pasted after {key}")
            await pilot.press("escape")
