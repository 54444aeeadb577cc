"""Going on, going back, forking, and what cannot be opened: real sessions on disk."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
import threading
import time

import pytest

from kodkod_agent.private_git import GitFault
from kodkod_agent.session import Session
from kodkod_agent.session_folder import SessionFolder, list_sessions
from kodkod_agent.snapshots import WorkTreeSnapshots
from kodkod_app import paths
from kodkod_app.cli import main
from kodkod_app.commands.fix import find_place
from kodkod_app.session_story import whole_steps
from kodkod_app.tui import store as s
from kodkod_app.tui.history import pending_entries
from kodkod_engine.chat.ledger_state import LedgerFault

from ..conftest import FAULTY, FINISH, LOOK, MEND, MENDED, turn
from .conftest import TIMEOUT_S

BYPASS = {"permission_mode": "bypassPermissions"}


async def test_a_session_is_resumed_with_what_was_said_and_goes_on(open_app, record, project):
    model = record(LOOK, MEND, FINISH, turn("It adds now."))
    async with open_app(model, **BYPASS) as driver:
        await driver.opened()
        await driver.say("mend it")
        await driver.idle()
        session_id = driver.app.session_id
    async with open_app(model, wish={"session_id": session_id}, **BYPASS) as driver:
        await driver.opened()
        assert driver.app.session_id == session_id
        assert [entry.text for entry in driver.entries((s.Said, s.Answer))] == ["mend it", "I look.", "Mend it."]
        edit = driver.entries(s.Call)[1]
        assert (edit.name, edit.state, edit.outcome) == ("edit", s.CallState.DONE, "+1 -1")
        assert edit.diff is not None
        await driver.until(lambda: "return a + b" in driver.screen_text(), "the change")
        await driver.say("and?")
        await driver.idle()
        assert driver.entries(s.Answer)[-1].text == "It adds now."


async def test_a_session_without_a_word_leaves_nothing(open_app, record, project):
    root = paths.sessions_folder()
    async with open_app(record(turn("Yes."))) as driver:
        await driver.opened()
        await driver.say("/new")
        await driver.idle()
        assert len(list_sessions(root)) == 1, "the first has gone"
        await driver.say("Is it?")
        await driver.idle()
        kept = driver.app.session_id
        await driver.say("/new")
        await driver.until(lambda: driver.app.session_id != kept, "another")
        await driver.idle()
    assert [info.id for info in list_sessions(root)] == [kept]
    assert [path.name for path in root.iterdir() if path.is_dir()] == [kept]


async def test_a_conversation_is_shortened_and_the_summary_is_there_to_be_read(open_app, record, project):
    answers = turn("It is long. " * 40), turn("The person asked **how long** it is.")
    async with open_app(record(*answers)) as driver:
        await driver.opened()
        await driver.say("/compact")
        await driver.until(lambda: "nothing to shorten" in driver.screen_text(), "that there is nothing")
        await driver.say("how long is it?")
        await driver.idle()
        before = driver.app.meter.context_tokens
        await driver.say("/compact how long it is")
        await driver.idle()
        assert driver.entries(s.Answer)[-1].text == "The person asked **how long** it is."
        assert "The person asked how long it is." in driver.screen_text()
        assert driver.app.meter.context_tokens < before
        await driver.say("and?")
        await driver.idle()
        assert len(driver.entries(s.Answer)) == 3, "the conversation goes on"
        session_id, told = driver.app.session_id, [entry.text for entry in driver.entries((s.Said, s.Answer))]
    async with open_app(record(*answers), wish={"session_id": session_id}) as driver:
        await driver.opened()
        assert [entry.text.strip() for entry in driver.entries((s.Said, s.Answer))] == [text.strip() for text in told]
        await driver.until(lambda: "it goes on from this summary" in driver.screen_text(), "that it was shortened")


async def test_a_summary_that_was_gone_back_behind_is_not_told(open_app, record):
    answers = [turn("It is long. " * 40), turn("A summary."), turn("Another summary.")]
    async with open_app(record(*answers)) as driver:
        await driver.opened()
        for text in ("how long is it?", "/compact", "/rewind 1"):
            await driver.say(text)
            await driver.idle()
        folder = driver.app.workbench.session.folder
        assert [step.shortened for step in whole_steps(folder)] == [[]]
        assert "summary" not in driver.screen_text()
        await driver.say("and now?")
        await driver.idle()
        await driver.say("/compact")
        await driver.idle()
        told = [[one.summary for one in step.shortened] for step in whole_steps(folder)]
        assert told == [[], ["Another summary."]]
        await driver.say("/fork")
        await driver.until(lambda: driver.app.session_id != folder.path.name, "the fork")
        await driver.idle()
        folder = driver.app.workbench.session.folder
        assert [[one.summary for one in step.shortened] for step in whole_steps(folder)] == told


async def test_shortening_can_be_stopped(open_app, record, project):
    slow = turn("It is long. " * 400)
    async with open_app(record(turn("Yes. " * 200), slow, turn("No."))) as driver:
        await driver.opened()
        await driver.say("is it?")
        await driver.idle()
        said = driver.app.workbench.session.ledger.token_ids
        await driver.say("/compact")
        await driver.pilot.press("escape")
        await driver.idle()
        await driver.until(
            lambda: driver.entries(s.Note)[-1].text.startswith(("that was stopped", "the conv", "it stays"))
        )
        if driver.entries(s.Note)[-1].text.startswith("that was stopped"):
            assert driver.app.workbench.session.ledger.token_ids == said
        await driver.say("no?")
        await driver.idle()


async def test_a_conversation_with_no_room_left_is_shortened_while_the_person_thinks(
    open_app, record, project, monkeypatch
):
    def is_whole(session):
        return session.ledger.branched_from is None and session.steps

    monkeypatch.setattr(Session, "is_nearly_full", property(is_whole))
    async with open_app(record(turn("It is long. " * 400), turn("Of its length."))) as driver:
        await driver.opened()
        await driver.say("how long is it?")
        await driver.until(lambda: driver.entries(s.Answer)[1:], "the summary")
        assert [answer.text for answer in driver.entries(s.Answer)][1:] == ["Of its length."]
        assert not any("being shortened" in note.text for note in driver.entries(s.Note)), "nobody waits for it"
        await driver.until(lambda: "summing up" not in driver.screen_text(), "the end of it")
        await driver.say("and?")
        await driver.idle()
        assert len(driver.entries(s.Answer)) == 3


async def test_who_speaks_while_it_is_shortened_ahead_is_heard_at_once(open_app, record, project, monkeypatch):
    begun = asyncio.Event()

    async def endless(*_):
        begun.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(Session, "is_nearly_full", property(lambda session: len(session.steps) > 1))
    monkeypatch.setattr("kodkod_agent.compaction.shorten", endless)
    async with open_app(record(turn("Yes."), turn("No."))) as driver:
        await driver.opened()
        await driver.say("is it?")
        await driver.until(begun.is_set, "that it is shortened")
        await driver.until(lambda: "summing up ahead" in driver.screen_text(), "that this is told")
        await driver.say("is it not?")
        await driver.until(
            lambda: [answer.text for answer in driver.entries(s.Answer)] == ["Yes.", "No."], "the answer"
        )


async def test_a_full_disk_while_it_is_shortened_ahead_ends_no_session(open_app, record, project, monkeypatch):
    async def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Session, "is_nearly_full", property(lambda session: len(session.steps) > 1))
    monkeypatch.setattr("kodkod_agent.compaction.shorten", full)
    async with open_app(record(turn("Yes."), turn("No."))) as driver:
        await driver.opened()
        await driver.say("is it?")
        await driver.until(lambda: "no room is left" in driver.screen_text(), "that this is told")
        await driver.say("is it not?")
        await driver.until(
            lambda: [answer.text for answer in driver.entries(s.Answer)] == ["Yes.", "No."], "the answer"
        )


def test_the_latest_session_is_one_in_which_something_was_said(project):
    root = paths.sessions_folder()
    for name, title in (("20260101-000000-aaaaaa", "mend it"), ("20260102-000000-bbbbbb", "")):
        (root / name).mkdir()
        SessionFolder(root / name).describe(project, title)
    flags = {"resume": None, "goes_on": True, "fork": False, "folder": project}
    assert find_place(flags).session_id == "20260101-000000-aaaaaa"


async def test_rewind_takes_files_and_conversation_back_and_a_fork_leaves_the_session(open_app, record, project):
    async with open_app(record(LOOK, MEND, FINISH), **BYPASS) as driver:
        await driver.opened()
        await driver.say("mend it")
        await driver.idle()
        first = driver.app.session_id
        assert (project / "calc.py").read_text() == MENDED
        await driver.say("/rewind 1")
        await driver.idle()
        assert (project / "calc.py").read_text() == FAULTY
        assert [call.name for call in driver.entries(s.Call)] == ["view"]
        assert driver.app.session_id == first

        await driver.say("/fork 1")
        await driver.until(lambda: driver.app.session_id != first, "the fork")
        await driver.idle()
        assert (project / "calc.py").read_text() == FAULTY
        await driver.say("mend it here")
        await driver.idle()
        assert (project / "calc.py").read_text() == MENDED

        await driver.say("/new")
        await driver.idle()
        assert not driver.entries(s.Said)


async def test_a_step_that_is_not_there_is_told_and_the_session_stays(open_app, record):
    async with open_app(record(LOOK, FINISH), **BYPASS) as driver:
        await driver.opened()
        await driver.say("look")
        await driver.idle()
        before = driver.app.session_id
        await driver.say("/rewind 77")
        await driver.idle()
        assert "has no step 77" in driver.entries(s.Note)[-1].text
        await driver.say("/fork 88")
        await driver.idle()
        assert "has no step 88" in driver.entries(s.Note)[-1].text
        assert driver.app.session_id == before
        assert driver.app.workbench.session.id == before


async def test_a_model_that_is_not_there_is_told_with_a_way_out(open_app, tmp_path):
    async with open_app(str(tmp_path / "nowhere")) as driver:
        await driver.until(lambda: driver.entries(s.Note), "the fault")
        assert "there is no checkpoint folder" in driver.entries(s.Note)[0].text
        assert driver.app.exit_code == 4
        await driver.say("hi")
        assert not driver.app.queue.messages, "there will be nobody to say it to"
        assert driver.app.prompt.text == "hi"
        driver.app.prompt.put("")
        await driver.say("/quit")
        await driver.until(lambda: driver.app._exit, "the end")
        assert driver.app.return_value == 4 or driver.app._return_value == 4


async def test_a_recording_that_ends_is_a_fault_and_saying_more_is_possible(open_app, record):
    async with open_app(record(turn("Only this."))) as driver:
        await driver.opened()
        await driver.say("one")
        await driver.idle()
        await driver.say("two")
        await driver.until(lambda: driver.entries(s.Ending), "the end")
        await driver.idle()
        assert driver.entries(s.Ending)[-1].status == "fault"
        await driver.until(lambda: "the recording has 1 turns" in driver.screen_text(), "the fault")


KILLED = """
import asyncio, os, sys
from pathlib import Path
from kodkod_app.tui.app import KodkodApp
from kodkod_app.wish import Wish

async def main():
    said = {"model": sys.argv[2], "sandbox": "none", "permission_mode": "bypassPermissions"}
    app = KodkodApp(Wish(Path(sys.argv[1]), said))
    async with app.run_test() as pilot:
        app.prompt.put("mend it")
        await pilot.press("enter")
        while True:
            await pilot.pause(0.05)

asyncio.run(main())
"""


async def test_killed_in_the_middle_it_says_so_and_goes_on(open_app, record, project, home):
    slow = turn("", ("shell", {"command": "touch begun; sleep 30"}))
    model = record(MEND, slow, FINISH)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(project), model], env=environment)
    end_s = time.monotonic() + TIMEOUT_S
    while not (project / "begun").exists():
        assert time.monotonic() < end_s
        time.sleep(0.05)
    process.kill()
    process.wait()
    [folder] = (home / "sessions").iterdir()
    async with open_app(model, wish={"session_id": folder.name}, **BYPASS) as driver:
        await driver.opened()
        assert "cut short" in driver.entries(s.Note)[-1].text
        (project / "begun").unlink()
        await driver.say("/continue")
        await driver.running()
        await driver.until(lambda: (project / "begun").exists(), "the call, run again")
        await driver.pilot.press("escape")
        await driver.idle()
        assert driver.entries(s.Ending)[-1].status == "interrupted"
        assert (project / "calc.py").read_text() == MENDED


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (["-c"], "needs a terminal"),
        (["-C", "/nowhere", "-m", "x"], "needs a terminal"),
        (["--nonsense"], "No such option"),
    ],
)
def test_without_a_terminal_it_says_so(arguments, cause, capsys):
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    assert cause in capsys.readouterr().err


def test_a_terminal_that_draws_nothing_is_told_so(project, monkeypatch, capsys):
    for stream in ("stdin", "stdout"):
        monkeypatch.setattr(f"sys.{stream}", Terminal())
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TERM", "dumb")
    with pytest.raises(SystemExit) as left:
        main(["-C", str(project)])
    assert left.value.code == 2
    assert "TERM=dumb names a terminal that draws nothing" in capsys.readouterr().err


def test_flags_become_a_wish(project, monkeypatch):
    from kodkod_app.commands import chat

    wishes = []
    monkeypatch.setattr(chat, "open_app", lambda wish: wishes.append(wish) or 0)
    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr("sys.stdout", Terminal())
    monkeypatch.setattr("sys.stderr", Terminal())
    for arguments in (["-C", str(project), "--permission-mode", "plan", "--sandbox", "none"], ["-C", str(project)]):
        with pytest.raises(SystemExit) as left:
            main(arguments)
        assert left.value.code == 0
    assert wishes[0].work_tree == project
    assert wishes[0].said == {"permission_mode": "plan", "sandbox": "none"}
    assert wishes[1].said == {}
    for arguments in (["--fork", "x:y"], ["-r", "a", "--fork", "b"], ["--fork"], ["-r"], ["-r", "-c"]):
        with pytest.raises(SystemExit) as left:
            main(arguments)
        assert left.value.code == 2


async def test_settings_that_cannot_be_read_any_more_leave_the_session_open(open_app, record, settings_file):
    """F4 ended the app with a traceback, and the run with it, while the file was being edited."""
    async with open_app(record(turn("Hello."))) as driver:
        await driver.opened()
        settings_file.write_text("[agent")
        await driver.pilot.press("f4")
        await driver.say("hi")
        await driver.idle()
        assert driver.entries(s.Answer)[-1].text == "Hello."
        settings_file.write_text("[agent]\n")
        await driver.pilot.press("f4")
        await driver.until(lambda: "agent.max_turns" in driver.screen_text(), "the settings")
        await driver.pilot.press("escape")


async def test_another_models_session_is_told_how_it_opens(open_app, record, monkeypatch):
    async def another(*_: object) -> None:
        raise LedgerFault("written with another tokenizer; open it with the checkpoint it began with")

    async with open_app(record(turn("Hello."))) as driver:
        await driver.opened()
        monkeypatch.setattr("kodkod_app.tui.desk._open_session", another)
        driver.app._resume("20260101-000000-aaaaaa")
        await driver.until(lambda: "kodkod -r 20260101-000000-aaaaaa," in driver.screen_text(), "how")
        monkeypatch.undo()
        await driver.say("hi")
        await driver.idle()
        assert driver.entries(s.Answer)[-1].text == "Hello."


@pytest.mark.parametrize("command", ["/rewind", "/export", "/branches"])
async def test_a_session_whose_folder_is_gone_does_not_end_the_app(open_app, record, command):
    async with open_app(record(turn("Hello."))) as driver:
        await driver.opened()
        await driver.say("hi")
        await driver.idle()
        folder = driver.app.workbench.session.folder.path
        folder.rename(folder.with_name("away"))
        await driver.say(command)
        await driver.pilot.press("escape")
        folder.with_name("away").rename(folder)
        await driver.say("/export")
        await driver.until(lambda: "Export this session" in driver.screen_text(), "the screen")
        await driver.pilot.press("escape")


@pytest.mark.parametrize("is_said", [True, False])
async def test_who_leaves_is_told_how_to_go_on_where_something_was_said(open_app, record, is_said, capsys):
    from kodkod_app.commands.chat import _tell_way_back

    async with open_app(record(turn("Hello."))) as driver:
        await driver.opened()
        if is_said:
            await driver.say("hi")
            await driver.idle()
        session_id = driver.app.session_id
    _tell_way_back(session_id)
    assert capsys.readouterr().err == (f"kodkod -r {session_id} goes on with this session\n" if is_said else "")


class Terminal:
    """Says that it is one."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None: ...


async def test_what_was_said_last_is_there_again_though_no_turn_followed_it(open_app, record):
    model = record(turn("Hello."))
    async with open_app(model) as driver:
        await driver.opened()
        session_id = driver.app.session_id
        for text in ("hi", "and more than was recorded"):
            await driver.say(text)
            await driver.idle()
        assert len(driver.entries(s.Answer)) == 1
    async with open_app(model, wish={"session_id": session_id}) as driver:
        await driver.opened()
        assert [entry.text for entry in driver.entries(s.Said)] == ["hi", "and more than was recorded"]
        await driver.say("/rewind 0")
        await driver.until(lambda: not driver.entries(s.Said), "the beginning")
    async with open_app(model, wish={"session_id": session_id}) as driver:
        await driver.opened()
        assert not driver.entries(s.Said)


async def test_what_was_said_is_there_again_where_a_run_was_cut_short_in_its_first_calls(open_app, record, home):
    async with open_app(record(turn("I look.", ("shell", {"command": "sleep 30"}))), **BYPASS) as driver:
        await driver.opened()
        await driver.say("mend it")
        await driver.running()
        session = driver.app.workbench.session
        entries = pending_entries(session.folder, session.ledger.view(), session.ledger.pending_calls)
        assert [type(entry) for entry in entries] == [s.Said, s.Answer, s.Call]
        assert [entry.text for entry in entries[:2]] == ["mend it", "I look."]


class Slow:
    """Makes something that snapshots do last until it is let go on."""

    def __init__(self, monkeypatch, place):
        self.begun, self._goes_on = threading.Event(), threading.Event()
        whole = getattr(WorkTreeSnapshots, place)

        def slow(*arguments):
            self.begun.set()
            assert self._goes_on.wait(TIMEOUT_S)
            return whole(*arguments)

        self._undo = lambda: monkeypatch.setattr(WorkTreeSnapshots, place, whole)
        monkeypatch.setattr(WorkTreeSnapshots, place, slow)

    def let_go(self):
        self._goes_on.set()
        self._undo()


async def test_esc_stops_a_rewind_while_the_files_are_recorded(open_app, record, project, monkeypatch):
    async with open_app(record(LOOK, MEND, FINISH), **BYPASS) as driver:
        await driver.opened()
        await driver.say("mend it")
        await driver.idle()
        recording = Slow(monkeypatch, "take")
        await driver.say("/rewind 1")
        await driver.until(recording.begun.is_set, "the recording")
        await driver.pilot.press("escape")
        await driver.until(lambda: "files are as they were" in driver.screen_text(), "the end")
        recording.let_go()
        await driver.idle()
        assert (project / "calc.py").read_text() == MENDED
        assert driver.app.workbench.session.steps == [0, 1, 2, 3]

        moving = Slow(monkeypatch, "restore")
        await driver.say("/rewind 1")
        await driver.until(moving.begun.is_set, "the files")
        await driver.pilot.press("escape")
        moving.let_go()
        await driver.idle()
        assert (project / "calc.py").read_text() == FAULTY
        assert [call.name for call in driver.entries(s.Call)] == ["view"]


async def test_a_fork_says_that_it_goes_on_and_esc_does_not_pretend_to_stop_it(open_app, record, project, monkeypatch):
    async with open_app(record(LOOK, MEND, FINISH), **BYPASS) as driver:
        await driver.opened()
        await driver.say("mend it")
        await driver.idle()
        first = driver.app.session_id
        moving = Slow(monkeypatch, "restore")
        await driver.say("/fork 1")
        await driver.until(moving.begun.is_set, "the files")
        await driver.until(lambda: "a new session is made at step 1" in driver.screen_text(), "what goes on")
        await driver.pilot.press("escape")
        await driver.pilot.pause()
        assert "stopping" not in driver.screen_text()
        moving.let_go()
        await driver.until(lambda: driver.app.session_id != first, "the fork")
        await driver.idle()
        assert (project / "calc.py").read_text() == FAULTY


async def test_a_fork_that_fails_is_told_and_the_session_stays_open(open_app, record, project, monkeypatch):
    async with open_app(record(LOOK, MEND, FINISH), **BYPASS) as driver:
        await driver.opened()
        await driver.say("mend it")
        await driver.idle()
        first, whole = driver.app.session_id, WorkTreeSnapshots.restore

        def full(snapshots, snapshot):
            monkeypatch.setattr(WorkTreeSnapshots, "restore", whole)
            raise GitFault("git read-tree: No space left on device")

        monkeypatch.setattr(WorkTreeSnapshots, "restore", full)
        await driver.say("/fork 1")
        await driver.until(lambda: "No space left" in driver.screen_text(), "the fault")
        await driver.idle()
        assert driver.app.session_id == first == driver.app.workbench.session.id
        assert [info.id for info in list_sessions(paths.sessions_folder())] == [first]
        assert (project / "calc.py").read_text() == MENDED


async def test_a_project_that_is_gone_for_a_while_leaves_the_session_open(open_app, record, project):
    async with open_app(record(LOOK, MEND, FINISH, turn("It adds now.")), **BYPASS) as driver:
        await driver.opened()
        await driver.say("mend it")
        await driver.idle()
        session_id = driver.app.session_id
        project.rename(project.with_name("away"))
        for command in ("/fork 1", "/rewind 1", "/new"):
            await driver.say(command)
            await driver.until(lambda: "is gone; put it back" in driver.screen_text(), "what is wrong")
            await driver.idle()
            driver.app.store.reset([])
        project.with_name("away").rename(project)
        await driver.say("and?")
        await driver.until(lambda: "It adds now." in driver.screen_text(), "the answer")
        await driver.idle()
        assert driver.app.session_id == session_id
        assert (project / "calc.py").read_text() == MENDED
    assert [info.id for info in list_sessions(paths.sessions_folder())] == [session_id]


@pytest.mark.parametrize(("command", "shown"), [("/fork", 2), ("/fork 1", 1)])
async def test_a_fork_shows_what_nobody_answered_where_it_is_part_of_it(open_app, record, command, shown):
    said = ["hi", "and more than was recorded"]
    async with open_app(record(turn("Hello."))) as driver:
        await driver.opened()
        for text in said:
            await driver.say(text)
            await driver.idle()
        first = driver.app.session_id
        await driver.say(command)
        await driver.until(lambda: driver.app.session_id != first, "the fork")
        await driver.idle()
        assert [entry.text for entry in driver.entries(s.Said)] == said[:shown]
        view = driver.app.workbench.session.ledger.view()
        assert [text for text in said if any(getattr(one, "text", "") == text for one in view)] == said[:shown]
