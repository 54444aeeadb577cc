"""Writing: lines, history, completion, pastes, commands, the shell, messages that wait."""

from __future__ import annotations

import json

from textual import events

from kodkod_app import paths
from kodkod_app.tui import app
from kodkod_app.tui import store as s
from kodkod_app.tui.widgets.completion import Completion
from kodkod_app.tui.widgets.tool_call import ToolCallView

from ..conftest import FINISH, LOOK, shell, turn

BYPASS = {"permission_mode": "bypassPermissions"}


async def test_lines_history_and_pastes(open_app, record):
    async with open_app(record(turn("One."), turn("Two.")), is_held=True) as driver:
        prompt, press = driver.app.prompt, driver.pilot.press
        await press("a", "shift+enter", "b", "ctrl+j", "c", "\\", "enter", "d")
        assert prompt.text == "a\nb\nc\nd"
        await press("enter")
        assert driver.app.queue.messages == ("a\nb\nc\nd",)
        assert prompt.text == ""

        long = "\n".join(f"line {number}" for number in range(200))
        prompt.post_message(events.Paste(long))
        await driver.until(lambda: "[pasted #1: 200 lines" in prompt.text, "what was pasted")
        assert prompt.whole_text == long
        await press(*" end", "enter")
        assert driver.app.queue.messages[1] == f"{long} end"

        await press("up")  # in an empty prompt: the last that waits, to be changed
        assert prompt.text == f"{long} end"
        assert len(driver.app.queue.messages) == 1
        prompt.put("draft")
        await press("up")
        assert prompt.text == f"{long} end"
        await press("up")
        assert prompt.text == "a\nb\nc\nd"
        await press("down", "down", "down", "down")  # through its lines, then on
        await driver.pilot.pause()
        prompt.put("[pasted #9: 3 lines, 9 characters] stays as typed")
        assert prompt.whole_text == prompt.text


async def test_a_very_long_text_comes_back_as_a_mark_and_a_mark_goes_as_a_whole(open_app, record):
    """It took a text area ten seconds, in which nothing could be pressed."""
    async with open_app(record(turn("One.")), is_held=True) as driver:
        prompt, press = driver.app.prompt, driver.pilot.press
        long = "x" * 1_000_000
        prompt.post_message(events.Paste(long))
        await driver.until(lambda: "[pasted #1" in prompt.text, "what was pasted")
        await press("enter", "up")  # it waits, and is taken back
        assert prompt.text == "[pasted #1: 1 line, 1,000,000 characters]"
        assert prompt.whole_text == long
        await press("a", "backspace", "backspace")
        assert prompt.text == ""
        prompt.put("draft")
        await press("up")
        assert prompt.whole_text == long
        await press("down")
        assert prompt.text == "draft"
        prompt.put_before(long)
        assert prompt.whole_text == f"{long}\n\ndraft"
        prompt.put("[pasted #99: 1 line, 5 characters]")
        await press("backspace")
        assert prompt.text == "[pasted #99: 1 line, 5 characters"


async def test_what_is_typed_or_pasted_with_the_focus_elsewhere_is_for_the_prompt(open_app, record):
    """It was lost: a click into the conversation is enough for that."""
    async with open_app(record(shell("echo on")), permission_mode="bypassPermissions") as driver:
        await driver.opened()
        await driver.say("go")
        await driver.idle()
        prompt = driver.app.prompt
        driver.app.transcript.focus()
        await driver.pilot.press("w", "h", "y")
        assert prompt.text == "why"
        assert prompt.has_focus
        driver.app.query_one(ToolCallView).focus()
        await driver.pilot.press("y")  # copies it
        driver.app.post_message(events.Paste(" not"))
        await driver.until(lambda: prompt.text == "why not", "what was pasted")


async def test_keys_that_come_faster_than_they_are_handled_keep_their_order(open_app, record):
    async with open_app(record(turn("x")), is_held=True) as driver:
        for key, character in (
            ("a", "a"),
            ("ctrl+j", "\n"),
            ("b", "b"),
            ("shift+enter", None),
            ("c", "c"),
            ("enter", None),
        ):
            driver.app.prompt.post_message(events.Key(key, character))
        await driver.until(lambda: driver.app.queue.messages, "the message")
        assert driver.app.queue.messages == ("a\nb\nc",)
        assert driver.app.prompt.text == ""
        await driver.until(lambda: driver.app.prompt.size.height == 1, "a prompt of one line")


async def test_what_was_offered_before_the_last_keys_is_not_taken(open_app, record):
    async with open_app(record(turn("x")), is_held=True) as driver:
        prompt, completion = driver.app.prompt, driver.app.query_one(Completion)
        await driver.pilot.press("/")
        await driver.until(lambda: completion.chosen is not None, "commands")
        for key in (*"mode", "enter"):
            prompt.post_message(events.Key(key, key if len(key) == 1 else None))
        await driver.until(lambda: prompt.text == "", "a command that was sent")
        assert json.loads(paths.prompt_history().read_text()) == "/mode"


async def test_paths_of_an_earlier_fragment_are_not_taken(open_app, record):
    async with open_app(record(turn("Seen."))) as driver:
        await driver.opened()
        completion = driver.app.query_one(Completion)
        await driver.pilot.press(*"see @test")
        await driver.until(lambda: completion.is_open, "the paths")
        for key in ("x", "enter"):
            driver.app.prompt.post_message(events.Key(key, key if len(key) == 1 else None))
        await driver.until(lambda: [said.text for said in driver.entries(s.Said)] == ["see @testx"], "what was said")
        await driver.idle()


async def test_a_paste_with_escape_sequences_is_shown_inert(open_app, record):
    async with open_app(record(turn("x")), is_held=True) as driver:
        driver.app.prompt.post_message(events.Paste("a\x1b[31mb\rc"))
        await driver.until(lambda: driver.app.prompt.text, "what was pasted")
        assert driver.app.prompt.text == "a␛[31mb\nc"


async def test_a_paste_keeps_its_tabs(open_app, record):
    """They became spaces: a Makefile that the model was shown, or a line it was to find, was another one."""
    async with open_app(record(turn("Seen."))) as driver:
        await driver.opened()
        driver.app.prompt.post_message(events.Paste("all:\n\tmake it"))
        await driver.until(lambda: driver.app.prompt.text == "all:\n\tmake it", "what was pasted")
        await driver.pilot.press("enter")
        await driver.idle()
        assert "all:\n\tmake it" in [
            said.text for said in driver.app.workbench.session.ledger.view() if said.role == "user"
        ]


async def test_in_a_low_and_narrow_window_what_is_written_stays_in_sight(open_app, record):
    """What was offered was broken into several lines each, and pushed the prompt out of the screen."""
    async with open_app(record(turn("x")), size=(40, 12)) as driver:
        await driver.opened()
        prompt, completion = driver.app.prompt, driver.app.query_one(Completion)
        await driver.pilot.press("/")
        await driver.until(lambda: "… 13 more" in driver.screen_text(), "the commands")
        await driver.pilot.press(*["down"] * 9)
        await driver.until(lambda: f"› {completion.chosen.shown}" in driver.screen_text(), "the tenth")
        assert prompt.region.bottom < 12
        await driver.pilot.press("escape")
        prompt.put("\n".join(f"line {number}" for number in range(12)))
        await driver.until(lambda: "line 11" in driver.screen_text(), "the line that is written")
        assert prompt.region.bottom < 12


async def test_a_path_that_is_written_out_is_sent_with_one_enter(open_app, record):
    async with open_app(record(turn("Seen."))) as driver:
        await driver.opened()
        completion = driver.app.query_one(Completion)
        await driver.pilot.press(*"see @calc.py")
        await driver.until(lambda: completion.is_open, "the paths")
        await driver.pilot.press("enter")
        await driver.until(lambda: [said.text for said in driver.entries(s.Said)] == ["see @calc.py"], "what was said")
        await driver.idle()


async def test_alt_and_a_letter_is_not_the_letter(open_app, record):
    async with open_app(record(turn("x")), is_held=True) as driver:
        driver.app.prompt.put("one two")
        await driver.pilot.press("home", "alt+p", "alt+d")
        assert driver.app.prompt.text == " two"


async def test_commands_and_paths_are_completed(open_app, record, project):
    async with open_app(record(turn("Seen."))) as driver:
        await driver.opened()
        completion, press = driver.app.query_one(Completion), driver.pilot.press
        await press("/", "t", "h")
        assert [choice.text for choice in completion.choices] == ["/theme"]
        await press("tab")
        assert driver.app.prompt.text == "/theme "
        await press(*"light", "enter")
        await driver.until(lambda: driver.app.theme == "kodkod-light", "the theme")

        await press("/", "down", "up", "escape")
        assert not completion.is_open
        driver.app.prompt.put("")

        await press(*"see @test")
        await driver.until(lambda: completion.is_open, "the paths")
        assert completion.choices[0].text == "@test_calc.py"
        await press("enter")
        assert driver.app.prompt.text == "see @test_calc.py "
        await press("enter")
        await driver.idle()
        story = [said.text for said in driver.entries(s.Said)]
        assert story == ["see @test_calc.py"]
        assert driver.app.plain_paths("see @test_calc.py and @nobody") == "see test_calc.py and @nobody"


async def test_the_shell_runs_in_the_box_and_the_model_is_told(open_app, record, project):
    async with open_app(record(turn("I see it."))) as driver:
        await driver.opened()
        await driver.say("!echo 'hi [bold]' && printf 'a\\033[31mb' && exit 3")
        await driver.idle()
        [run] = driver.entries(s.ShellRun)
        assert run.exit_code == 3
        assert run.output == "hi [bold]\na␛[31mb"
        await driver.until(lambda: "hi [bold]" in driver.screen_text(), "its output on the screen")
        await driver.say("look")
        await driver.idle()
        text = driver.app.workbench.session.ledger
        assert "exit code 3" in str(text.view())


async def test_a_command_of_ones_own_is_seen_though_one_had_scrolled_away(open_app, record):
    async with open_app(record(turn("x"))) as driver:
        await driver.opened()
        await driver.say("!seq 1 300")
        await driver.idle()
        await driver.pilot.press("pageup")
        await driver.until(lambda: not driver.app.transcript.follows, "a place further up")
        await driver.say("!echo seen")
        await driver.idle()
        await driver.until(lambda: "! echo seen" in driver.screen_text(), "the command")


async def test_esc_ends_a_shell_command(open_app, record):
    async with open_app(record()) as driver:
        await driver.opened()
        await driver.say("!echo begun; sleep 60")
        await driver.until(lambda: any("begun" in run.output for run in driver.entries(s.ShellRun)), "its output")
        await driver.pilot.press("escape")
        await driver.idle()
        assert driver.entries(s.ShellRun)[0].exit_code == 130


async def test_nothing_behind_the_sign_of_the_shell_is_no_command(open_app, record):
    async with open_app(record()) as driver:
        await driver.opened()
        await driver.say("! ")
        await driver.say("!echo on")
        await driver.idle()
        assert [run.command for run in driver.entries(s.ShellRun)] == ["echo on"]


async def test_esc_at_a_command_of_ones_own_gives_back_what_waits(open_app, record):
    """It was run, or said, as if nothing had been stopped."""
    async with open_app(record(turn("No."))) as driver:
        await driver.opened()
        await driver.say("!echo begun; sleep 60")
        await driver.until(lambda: any("begun" in run.output for run in driver.entries(s.ShellRun)), "its output")
        await driver.say("and that")
        await driver.pilot.press("escape")
        await driver.until(lambda: driver.app.prompt.text == "and that", "what waited")
        await driver.idle()
        assert not driver.entries(s.Said)


async def test_what_is_said_while_the_agent_works_waits_and_an_interrupt_gives_it_back(open_app, record):
    async with open_app(record(shell("sleep 60"), turn("Then this.")), **BYPASS) as driver:
        await driver.opened()
        await driver.say("work")
        await driver.running()
        await driver.say("and that")
        assert driver.app.queue.messages == ("and that",)
        await driver.pilot.press("escape")
        await driver.until(lambda: not driver.app.is_busy, "the end")
        assert driver.app.prompt.text == "and that"
        await driver.pilot.press("enter")
        await driver.idle()
        assert driver.entries(s.Answer)[-1].text == "Then this."


async def test_esc_gives_back_what_waits_for_the_model(open_app, record):
    async with open_app(record(turn("One.")), is_held=True) as driver:
        await driver.say("first")
        await driver.say("second")
        await driver.pilot.press("escape")
        assert driver.app.prompt.text == "first\n\nsecond"
        driver.begin()
        await driver.opened()
        assert not driver.entries(s.Said)


async def test_messages_that_wait_are_said_one_after_another(open_app, record):
    async with open_app(record(turn("One."), turn("Two."), turn("Three.")), is_held=True) as driver:
        for text in ("first", "second", "third"):
            await driver.say(text)
        driver.begin()
        await driver.idle()
        assert [entry.text for entry in driver.entries((s.Said, s.Answer))] == [
            "first", "One.", "second", "Two.", "third", "Three."
        ]  # fmt: skip
        facts = driver.app.status.facts
        assert 0 < facts.new_tokens < 200 < facts.reused_tokens


async def test_unknown_commands_are_told_and_paths_are_no_commands(open_app, record):
    async with open_app(record(turn("A path."))) as driver:
        await driver.opened()
        await driver.say("/nothing")
        assert not driver.entries(s.Said)
        await driver.say("/usr/lib is a path")
        await driver.idle()
        assert driver.entries(s.Said)[0].text == "/usr/lib is a path"


async def test_modes_go_round_and_plan_only_reads(open_app, record, project):
    async with open_app(record(LOOK, shell("touch made"), FINISH)) as driver:
        await driver.opened()
        for mode in ("acceptEdits", "plan", "auto", "default"):
            await driver.pilot.press("shift+tab")
            await driver.until(lambda mode=mode: driver.app.status.facts.mode == mode, mode)
        await driver.say("/mode plan")
        await driver.until(lambda: driver.app.status.facts.mode == "plan", "plan mode")
        await driver.say("do it")
        await driver.idle()
        assert [call.state for call in driver.entries(s.Call)][:2] == [s.CallState.DONE, s.CallState.REFUSED]
        assert not (project / "made").exists()


async def test_ctrl_c_clears_then_leaves_and_ctrl_d_deletes_or_leaves(open_app, record, monkeypatch):
    monkeypatch.setattr(app, "_TWICE_S", 1_000.0)
    async with open_app(record(), is_held=True) as driver:
        press = driver.pilot.press
        await press("a", "b", "left", "ctrl+d")
        assert driver.app.prompt.text == "a"
        await press("ctrl+c")
        assert driver.app.prompt.text == ""
        await press("up")
        assert driver.app.prompt.text == "a", "what was cleared is not lost"
        await press("ctrl+c")
        await press("ctrl+c", "ctrl+c")
        await driver.until(lambda: driver.app._exit, "the end")
