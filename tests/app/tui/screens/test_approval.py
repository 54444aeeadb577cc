"""The approval screen, by keyboard alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from textual.widgets import Input, Static, TextArea

from kodkod_agent.approval import Approval
from kodkod_agent.permissions import Permissions
from kodkod_agent.rules import Rule, Rules
from kodkod_app.tui.screens.approval import ApprovalScreen
from kodkod_app.tui.screens.approval_forms import Tick
from kodkod_app.tui.screens.judging import judge_of
from kodkod_app.tui.widgets.diff import DiffView

from .examples import EDIT, REMOVE, SHELL, WRITE, Question, question
from .host import Host, press_at_once

COMMAND = str(SHELL.request.call.arguments["command"])
READ_ONLY = question("view", "outside the project", path="/etc/passwd")


def screen(*questions: Question, **options: Any) -> ApprovalScreen:
    return ApprovalScreen([one.request for one in questions], [one.facts for one in questions], **options)


async def answer(*keys: str, requests: Any = (SHELL,), **options: Any) -> Any:
    """Press these keys; what was dismissed, or "open"."""
    app = Host(lambda: screen(*requests, **options))
    async with app.run_test() as pilot:
        await pilot.press(*keys)
        await pilot.pause()
        return app.result


def judge(tmp_path: Path, **rules: Any) -> Any:
    return judge_of(Permissions(work_tree=tmp_path, rules=Rules.model_validate(rules), trusted=True))


@pytest.mark.parametrize("keys", [("y",), ("enter",)])
async def test_once(keys: tuple[str, ...]) -> None:
    assert await answer(*keys) == (Approval(call_id="1", allowed=True),)


async def test_a_refusal_with_words_for_the_model() -> None:
    assert await answer("n", *"not now", "enter") == (Approval(call_id="1", allowed=False, message="not now"),)
    assert await answer("down", "down", "down", "enter", "enter") == (Approval(call_id="1", allowed=False),)


async def test_escape_interrupts_and_leaves_a_form_first() -> None:
    assert await answer("escape") is None
    assert await answer("n", "x", "escape") == "open"
    assert await answer("n", "x", "escape", "y") == (Approval(call_id="1", allowed=True),)


async def test_always_shows_the_rule_before_it_is_kept(tmp_path: Path) -> None:
    app = Host(lambda: screen(SHELL, judge=judge(tmp_path)))
    async with app.run_test() as pilot:
        await pilot.press("a")
        assert app.screen.query_one("#rules", Input).value == "shell(pytest *)"
        assert app.result == "open"
        await pilot.press("enter")
        assert app.result == (Approval(call_id="1", allowed=True, always=(Rule.read("shell(pytest *)"),)),)


@pytest.mark.parametrize(
    ("text", "said"),
    [("shell(make *)", "would not allow the call"), ("shell(", "is no rule"), ("", "there is no rule")],
)
async def test_a_rule_that_does_not_allow_the_call_is_not_taken(tmp_path: Path, text: str, said: str) -> None:
    app = Host(lambda: screen(SHELL, judge=judge(tmp_path)))
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press("a")
        app.screen.query_one("#rules", Input).value = text
        await pilot.press("enter")
        assert app.result == "open"
        assert said in str(app.screen.query_one("#rule-note", Static).render())


async def test_an_edited_rule_is_taken_and_saved_when_wanted(tmp_path: Path) -> None:
    saved: list[tuple[Rule, ...]] = []
    app = Host(lambda: screen(SHELL, judge=judge(tmp_path), save_rules=saved.append))
    async with app.run_test() as pilot:
        await pilot.press("a")
        app.screen.query_one("#rules", Input).value = "shell(pytest -x *)"
        await pilot.press("tab", "space", "shift+tab", "enter")
        rule = Rule.read("shell(pytest -x *)")
        assert app.result[0].always == (rule,)
        assert saved == [(rule,)]


async def test_enter_agrees_from_the_tick_too_which_shows_without_colours(tmp_path: Path) -> None:
    saved: list[Any] = []
    app = Host(lambda: screen(SHELL, judge=judge(tmp_path), save_rules=saved.append))
    async with app.run_test() as pilot:
        await pilot.press("a", "tab")
        tick = app.screen.query_one(Tick)
        assert "X" not in tick.render().plain
        await pilot.press("space")
        assert "X" in tick.render().plain
        await pilot.press("enter")
        assert app.result[0].always == saved[0]


async def test_keys_that_come_at_once_are_taken_in_their_order() -> None:
    """Those that the screen looked at first overtook the letters before them."""
    for before, keys, wanted in (
        ("n", (*"not now", "enter"), Approval(call_id="1", allowed=False, message="not now")),
        ("e", (*" -v", "ctrl+s"), Approval(call_id="1", allowed=True, arguments={"command": f"{COMMAND} -v"})),
    ):
        app = Host(lambda: screen(SHELL))
        async with app.run_test() as pilot:
            await pilot.press(before)
            await pilot.pause()
            await press_at_once(pilot, *keys)
            assert app.result == (wanted,)


@pytest.mark.parametrize("keys", [("y", "y"), ("enter", "enter"), ("y", "escape"), ("y", "n", "enter")])
async def test_a_second_key_that_is_there_already_answers_nothing_more(keys: tuple[str, ...]) -> None:
    """It took away the screen below: with the chat there, the app ended with a traceback, and what ran in it."""
    app = Host(lambda: screen(SHELL))
    async with app.run_test() as pilot:
        await pilot.pause()
        await press_at_once(pilot, *keys)
        assert app.result == (Approval(call_id="1", allowed=True),)
        assert len(app.screen_stack) == 1


async def test_pages_are_those_of_the_call_not_of_the_answers() -> None:
    """The answers took the keys, and Enter was "Refuse" afterwards."""
    long = question("shell", "changes files", command="\n".join(f"echo {number}" for number in range(60)))
    app = Host(lambda: screen(long))
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("pagedown")
        await pilot.pause()
        assert app.screen.query_one("#call").scroll_y > 0
        await pilot.press("enter")
        assert app.result == (Approval(call_id="1", allowed=True),)


@pytest.mark.parametrize("height", [20, 24, 32, 36])
@pytest.mark.parametrize("key", ["", "a", "n", "e"])
async def test_every_part_has_room_below_a_long_call(height: int, key: str) -> None:
    long = question("shell", "changes files", command="\n".join(f"echo {number}" for number in range(60)))
    app = Host(lambda: screen(long))
    async with app.run_test(size=(80, height)) as pilot:
        await pilot.press(*key)
        await pilot.pause()
        sheet, answer = app.screen.query_one("#sheet"), app.screen.query_one("#answer")
        assert answer.region.bottom < sheet.region.bottom
        assert sheet.region.bottom <= height - 1


async def test_what_has_no_rule_offers_none() -> None:
    assert await answer("a", requests=[READ_ONLY]) == "open"
    assert await answer("y", requests=[READ_ONLY]) == (Approval(call_id="1", allowed=True),)


async def test_other_arguments() -> None:
    app = Host(lambda: screen(SHELL))
    async with app.run_test() as pilot:
        await pilot.press("e", *" -q", "ctrl+s")
        assert app.result == (
            Approval(call_id="1", allowed=True, arguments={"command": "pytest -x tests/test_spans.py -q"}),
        )


async def test_arguments_that_are_denied_or_no_arguments_are_not_taken(tmp_path: Path) -> None:
    timed = question("shell", "runs code", command="pytest", timeout_s=5)
    app = Host(lambda: screen(timed, judge=judge(tmp_path, deny=["shell(rm *)"])))
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press("e")
        command, timeout = app.screen.query(TextArea)
        note = app.screen.query_one("#arguments-note", Static)
        command.text = "ls; rm x"
        await pilot.press("ctrl+s")
        assert "may not be done" in str(note.render())
        command.text, timeout.text = "ls", "soon"
        await pilot.press("ctrl+s")
        assert "no JSON value" in str(note.render())
        timeout.text = "-1"
        await pilot.press("ctrl+s")
        assert "bad arguments" in str(note.render())
        timeout.text = "2.5"
        await pilot.press("ctrl+s")
        assert app.result[0].arguments == {"command": "ls", "timeout_s": 2.5}


async def test_several_one_by_one_and_back_and_forth() -> None:
    several = (SHELL, EDIT, WRITE)
    found = await answer("right", "n", "enter", "left", "left", "y", "y", requests=several)
    assert found == (
        Approval(call_id="1", allowed=True),
        Approval(call_id="2", allowed=False),
        Approval(call_id="3", allowed=True),
    )


async def test_several_together() -> None:
    several = (SHELL, EDIT, WRITE)
    allowed = await answer("Y", requests=several)
    assert [one.allowed for one in allowed] == [True] * 3
    mixed = await answer("n", "enter", "Y", requests=several)
    assert [one.allowed for one in mixed] == [False, True, True]
    refused = await answer("y", "N", requests=several)
    assert [(one.call_id, one.allowed) for one in refused] == [("1", True), ("2", False), ("3", False)]


async def test_a_new_rule_answers_the_others_it_allows(tmp_path: Path) -> None:
    again = question("shell", "runs code", call_id="9", command="pytest -q")
    found = await answer("a", "enter", requests=(SHELL, again), judge=judge(tmp_path))
    assert [one.allowed for one in found] == [True, True]
    assert await answer("a", "enter", requests=(SHELL, REMOVE), judge=judge(tmp_path)) == "open"


async def test_the_change_is_shown_in_its_file() -> None:
    app = Host(lambda: screen(EDIT))
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.pause()
        view = app.screen.query_one(DiffView)
        shown = [line.content.plain.rstrip() for line in view.flow.lines(view.size.width)]
        assert any(line.endswith("-         return self.start <= moment < self.end") for line in shown), shown
        assert any(line.endswith("+         return self.start <= moment <= self.end") for line in shown), shown
