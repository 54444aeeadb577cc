"""From what is written to what is seen: the real app, agent and tools, with a recorded model."""

from __future__ import annotations

import asyncio
import os
import signal

from kodkod_agent.runs import Runs
from kodkod_app.bootstrap import COMPILING, SMALL_MODEL_NOTE, demonstration_checkpoint
from kodkod_app.tui import store as s
from kodkod_app.tui.widgets.diff import DiffView
from kodkod_app.tui.widgets.tool_call import ToolCallView

from ..conftest import FAULTY, FINISH, LOOK, MEND, MENDED, shell, turn

BYPASS = {"permission_mode": "bypassPermissions"}


async def test_from_prompt_to_approved_edit_to_green_tests(open_app, record, project):
    async with open_app(record(LOOK, MEND, FINISH)) as driver:
        await driver.opened()
        await driver.say("add subtracts; mend it")
        await driver.until(lambda: "return a + b" in driver.screen_text(), "the question")
        assert (project / "calc.py").read_text() == FAULTY
        await driver.pilot.press("y")
        await driver.idle()
        assert (project / "calc.py").read_text() == MENDED
        calls = driver.entries(s.Call)
        assert [(call.name, call.state) for call in calls] == [
            ("view", s.CallState.DONE),
            ("edit", s.CallState.DONE),
            ("finish", s.CallState.DONE),
        ]
        [ending] = driver.entries(s.Ending)
        assert ending.status == "done"
        assert ending.files == (("calc.py", 1, 1),)
        assert driver.app.query_one(DiffView)
        await driver.until(lambda: "calc.py  +1 -1" in driver.screen_text(), "the files that changed")


async def test_a_question_waits_for_a_pause_in_what_is_written(open_app, record, project):
    """The letters that were on their way answered it: a `y` allowed the call."""
    async with open_app(record(MEND, FINISH)) as driver:
        await driver.opened()
        await driver.pilot.press("y")
        await driver.app.say("mend it")
        while not any(call.state is s.CallState.ASKED for call in driver.entries(s.Call)):
            await driver.pilot.press("y")
        await driver.pilot.press(*"yyyyy")
        written = driver.app.prompt.text
        await driver.until(lambda: len(driver.app.screen_stack) > 1, "the question")
        assert set(written) == {"y"}
        assert (project / "calc.py").read_text() == FAULTY
        await driver.pilot.press("y")
        await driver.idle()
        assert (project / "calc.py").read_text() == MENDED
        assert driver.app.prompt.text == written


async def test_what_the_model_said_of_a_call_is_in_sight_above_the_question(open_app, record):
    """The question lay over it, and nothing behind a question could be scrolled to."""
    told = turn("\n\n".join(f"Reason {number}." for number in range(30)), ("edit", MEND["calls"][0]["arguments"]))
    async with open_app(record(told, FINISH), size=(80, 24)) as driver:
        await driver.opened()
        await driver.say("mend it")
        await driver.until(lambda: "May it change a file?" in driver.screen_text(), "the question")
        await driver.until(lambda: "Reason 29." in driver.screen_text(), "the last of the reasons")
        await driver.pilot.resize_terminal(80, 40)
        await driver.until(lambda: "Reason 24." in driver.screen_text(), "more of them")
        await driver.pilot.press("y")
        await driver.idle()
        assert driver.app.transcript.region.bottom == driver.app.prompt.region.y


async def test_a_fault_that_ends_a_run_is_told_once(open_app, record):
    async with open_app(record(turn("One."))) as driver:
        await driver.opened()
        await driver.say("one")
        await driver.idle()
        await driver.say("another")
        await driver.idle()
        [ending] = driver.entries(s.Ending)
        assert "the recording has 1 turns" in ending.reason
        assert not driver.entries(s.Note)


async def test_a_refused_edit_is_not_made_and_is_shown_so(open_app, record, project):
    async with open_app(record(MEND, turn("Then not."))) as driver:
        await driver.opened()
        await driver.say("mend it")
        await driver.until(lambda: len(driver.app.screen_stack) > 1, "the question")
        await driver.pilot.press("n", "enter")
        await driver.idle()
        assert (project / "calc.py").read_text() == FAULTY
        [call] = driver.entries(s.Call)
        assert call.state is s.CallState.REFUSED
        assert driver.entries(s.Answer)[-1].text == "Then not."


async def test_what_is_said_before_the_model_is_there_waits_for_it(open_app, record):
    async with open_app(record(turn("Hello.")), is_held=True) as driver:
        await driver.say("hi")
        assert driver.app.queue.messages == ("hi",)
        await driver.until(lambda: "hi" in driver.screen_text(), "what waits")
        driver.begin()
        await driver.idle()
        assert [said.text for said in driver.entries(s.Said)] == ["hi"]
        assert driver.entries(s.Answer)[-1].text == "Hello."


async def test_output_comes_while_a_command_runs_and_esc_ends_it(open_app, record):
    async with open_app(
        record(shell("echo begun; sleep 60"), turn("Stopped?")), permission_mode="acceptEdits"
    ) as driver:
        driver.app.workbench.set_mode("bypassPermissions")
        await driver.opened()
        await driver.say("run it")
        await driver.until(lambda: any("begun" in call.output for call in driver.entries(s.Call)), "the output")
        [view] = driver.app.query(ToolCallView)
        assert not view.has_class("folded")
        assert driver.app.is_busy
        await driver.pilot.press("escape")
        await driver.idle()
        [call] = driver.entries(s.Call)
        assert call.state is s.CallState.CUT
        assert driver.entries(s.Ending)[-1].status == "interrupted"
        await driver.say("go on")
        await driver.idle()
        assert driver.entries(s.Answer)[-1].text == "Stopped?"


async def test_an_interrupt_is_over_on_the_screen_before_it_is_known_what_changed(open_app, record, monkeypatch):
    """What waited is the person's again at once; what they say meanwhile is said when the run is reported."""
    is_known = asyncio.Event()
    diff = Runs.diff

    async def late(self, state):
        while not is_known.is_set():  # set in the screen's loop, not in this one
            await asyncio.sleep(0.01)
        return await diff(self, state)

    monkeypatch.setattr(Runs, "diff", late)
    async with open_app(record(shell("echo begun; sleep 60"), turn("And on.")), **BYPASS) as driver:
        await driver.opened()
        await driver.say("run it")
        await driver.until(lambda: any("begun" in call.output for call in driver.entries(s.Call)), "the output")
        await driver.say("later")
        await driver.pilot.press("escape")
        await driver.until(lambda: "■ interrupted" in driver.screen_text(), "the end")
        assert driver.app.prompt.text == "later"
        await driver.until(lambda: "stop" not in driver.screen_text(), "nothing that could be stopped")
        await driver.pilot.press("escape")
        await driver.say("go on")
        assert driver.app.queue.messages == ("go on",)
        is_known.set()
        await driver.idle()
        [ending] = driver.entries(s.Ending)
        assert ending.cost.startswith("1 turn · ")
        assert [said.text for said in driver.entries(s.Said)] == ["run it", "go on"]
        assert driver.entries(s.Answer)[-1].text == "And on."
        await driver.until(lambda: "1 turn ·" in driver.screen_text(), "the cost")


async def test_what_is_stopped_before_it_began_does_not_go_on(open_app, record):
    async with open_app(record(shell("sleep 60")), **BYPASS) as driver:
        await driver.opened()
        await driver.app.say("run it")
        driver.app.action_stop()
        await driver.idle()
        assert [ending.status for ending in driver.entries(s.Ending)] == ["interrupted"]
        await driver.app.say("!sleep 60")
        driver.app.action_stop()
        await driver.idle()
        assert driver.entries(s.ShellRun)[-1].exit_code == 130


async def test_a_question_taken_away_by_the_end_of_its_run_stops_nothing_that_follows(open_app, record, monkeypatch):
    async with open_app(record(MEND, turn("Then not."))) as driver:
        await driver.opened()
        await driver.say("mend it")
        await driver.until(lambda: len(driver.app.screen_stack) > 1, "the question")
        driver.app.workbench.interrupt()
        stopped = []
        with monkeypatch.context() as patched:
            patched.setattr(driver.app.workbench, "interrupt", lambda: stopped.append(True))
            await driver.idle()
            await driver.pilot.pause()
        assert len(driver.app.screen_stack) == 1
        assert not stopped


async def test_an_interrupt_closes_the_question(open_app, record, project):
    async with open_app(record(MEND, turn("Then not."))) as driver:
        await driver.opened()
        await driver.say("mend it")
        await driver.until(lambda: len(driver.app.screen_stack) > 1, "the question")
        await driver.pilot.press("ctrl+c")
        await driver.idle()
        assert len(driver.app.screen_stack) == 1
        assert (project / "calc.py").read_text() == FAULTY
        assert driver.entries(s.Ending)[-1].status == "interrupted"


async def test_it_leaves_in_order_when_the_system_says_so(open_app, record):
    async with open_app(record(shell("sleep 60")), **BYPASS) as driver:
        await driver.opened()
        await driver.say("run it")
        await driver.running()
        os.kill(os.getpid(), signal.SIGTERM)
        await driver.until(lambda: driver.app._exit, "the end")
        assert driver.app.exit_code == 128 + signal.SIGTERM


async def test_compiling_at_the_first_use_is_told_on_the_screen(open_app):
    async with open_app(str(demonstration_checkpoint())) as driver:
        await driver.opened()
        driver.app.workbench._desk.model.engine.runner.on_compile()
        await driver.until(lambda: [note.text for note in driver.entries(s.Note)] == [COMPILING], "the note")
        await driver.until(lambda: "kernels are compiled for this machine" in driver.screen_text(), "its line")


async def test_without_a_model_it_is_said_what_the_small_one_does(open_app, record):
    async with open_app(None) as driver:
        await driver.opened()
        assert SMALL_MODEL_NOTE in [note.text for note in driver.entries(s.Note)]
    async with open_app(record(turn("Yes."))) as driver:
        await driver.opened()
        assert driver.entries(s.Note) == []
