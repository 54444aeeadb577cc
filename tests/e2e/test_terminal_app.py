"""The terminal app in a real terminal, driven by keys, its screen read back."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from kodkod_app import paths
from kodkod_app.bootstrap import demonstration_checkpoint
from kodkod_sandbox import landlock
from reachable import let_others_in

from .conftest import Call, git, turn
from .tmux import NEEDED, Tmux, opened

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), NEEDED]

FAULTY, MENDED = "def add(a, b):\n    return a - b\n", "def add(a, b):\n    return a + b\n"
PYTHON = str(Path(pytest.__file__).parents[4])
"""The environment that has pytest, as a person's own."""
LOOK = turn("I look.", Call("view", {"path": "calc.py"}))
MEND = turn("I mend it.", Call("edit", {"path": "calc.py", "old": "return a - b", "new": "return a + b"}))
FINISH = turn("", Call("finish", {"summary": "add adds"}))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository with one fault and a test that shows it, where other users may come."""
    folder = (tmp_path / "project").resolve()
    folder.mkdir()
    let_others_in(folder)
    (folder / "calc.py").write_text(FAULTY)
    (folder / "test_calc.py").write_text("from calc import add\n\n\ndef test_add():\n    assert add(1, 2) == 3\n")
    (folder / ".gitignore").write_text("__pycache__/\n.kodkod/\n.pytest_cache/\n")
    git(folder, "init", "-q", "-b", "main")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "first")
    return folder


@pytest.fixture(autouse=True)
def opened_before(home: Path) -> None:
    """The doctor of the first start was seen."""
    assert paths.is_first_start()


def calc(project: Path) -> str:
    return (project / "calc.py").read_text()


@pytest.mark.skipif(landlock.missing() is not None, reason=str(landlock.missing()))
def test_a_whole_repair_with_the_model_that_comes_along(project: Path) -> None:
    """From words typed before the app is there, by way of approved edits, to green tests; each edit is asked about."""
    with opened(project, "--sandbox", "landlock", "--env", PYTHON, KODKOD_ENGINE__THREADS="1") as tmux:
        tmux.say("A test fails. Mend it.")
        tmux.until("nano  landlock")
        asked = 0
        while True:
            shown = tmux.until("May it change a file?", "test passes ·", "test fails", "✗ ")
            if "May it" not in shown:
                shown = tmux.until("May it change a file?", "turns ·")
            if "May it" not in shown:
                break
            assert "calc.py  +1 −1" in shown
            assert "asked because calc.py would be changed" in shown
            asked += 1
            tmux.keys("y")
            tmux.until("working", "turns ·", without="May it")
        assert asked >= 1
        assert "✓ done" in shown
        assert "1 passed" in shown
    assert calc(project) == MENDED


def test_an_interrupt_in_the_middle_of_decoding(project: Path) -> None:
    """Esc ends the run at once and in order, and what is said next is answered."""
    model = str(demonstration_checkpoint())
    with opened(project, "-m", model, "--sandbox", "none") as tmux:
        tmux.until("demonstration-1")
        for number in range(20):
            tmux.say(f"write on and on, {number}")
            tmux.until("tok/s")
            pressed_s = time.monotonic()
            tmux.keys("Escape")
            shown = tmux.wait(lambda shown: "esc stops" not in shown and "stopping" not in shown, "the end")
            took_s = time.monotonic() - pressed_s
            if "interrupted" in shown:
                break  # a random model ends its turn at times before the key is there
            tmux.say("/new")
            tmux.until("demonstration-1", without="tok/s")
        assert "the user interrupted it" in shown
        tmux.say("and again")
        tmux.until("and again")
        tmux.until("esc stops")
        tmux.keys("Escape")
        tmux.wait(lambda shown: "esc stops" not in shown and "stopping" not in shown, "the second end")
    assert took_s < 5, "the limit is 0.1 s on a machine with nothing else to do"


def test_a_fork_keeps_the_conversation_and_takes_the_files_back(project: Path, record: Callable[..., str]) -> None:
    with opened(project, "-m", record(LOOK, MEND, FINISH, turn("From here.")), "--sandbox", "none",
                "--permission-mode", "acceptEdits") as tmux:  # fmt: skip
        tmux.until("acceptEdits")
        tmux.say("mend add")
        tmux.until("turns ·")
        assert calc(project) == MENDED
        tmux.keys("F3")
        tmux.until("1 session, 3 steps")
        tmux.keys("Home", "Down", "Down")  # the session, what was said, step 1
        tmux.until("takes this session back to step 1")
        tmux.until("calc.py  +1 −1")
        tmux.keys("f")
        tmux.wait(
            lambda shown: "I look." in shown and "I mend it." not in shown and "Branches" not in shown, "the fork"
        )
        assert calc(project) == FAULTY
        tmux.keys("F3")
        shown = tmux.until("2 sessions, 3 steps")
        assert "↳ mend add" in shown or "● mend add" in shown
        tmux.keys("Escape")
    forked = [json.loads(path.read_text()) for path in paths.sessions_folder().glob("*/session.json")]
    assert sorted(one["forked_from"] is not None for one in forked) == [False, True]


def test_a_session_goes_on_after_its_process_was_killed(project: Path, record: Callable[..., str]) -> None:
    slow = "test -e .kodkod/slow || { mkdir -p .kodkod; touch .kodkod/slow; sleep 3417; }; echo once >> counted.txt"
    model = record(MEND, turn("Now a slow thing.", Call("shell", {"command": slow})), FINISH)
    flags = ("-m", model, "--sandbox", "none", "--permission-mode", "bypassPermissions")
    with opened(project, *flags) as tmux:
        tmux.until("bypassPermissions")
        tmux.say("mend add")
        tmux.until("Now a slow thing.")
        wait_for(sleeping)
        os.kill(tmux.pid(), signal.SIGKILL)
        tmux.until("Pane is dead")
    wait_for(lambda: not sleeping())
    with opened(project, "-c") as tmux:
        tmux.until("a run was cut short here")
        tmux.wait(lambda shown: "I mend it." in shown and "loading" not in shown, "the conversation")
        tmux.say("/continue")
        tmux.until("turns ·")
    assert calc(project) == MENDED
    assert (project / "counted.txt").read_text() == "once\n"
    assert len(list(paths.sessions_folder().glob("*/session.json"))) == 1


def test_the_first_start_shows_the_doctor_and_every_screen_opens_on_a_small_terminal(
    project: Path, record: Callable[..., str], home: Path
) -> None:
    (home / "sessions" / ".welcomed").unlink()
    with opened(project, "-m", record(turn("Hello.")), "--sandbox", "none", size=(80, 24)) as tmux:
        shown = tmux.until("all is well", "missing")
        assert "Welcome to kodkod." in shown
        tmux.keys("Escape")
        tmux.until("default", without="Welcome to kodkod.")
        tmux.say("hi")
        tmux.until("Hello.")
        tmux.wait(lambda shown: "working" not in shown, "the end")
        for command, title in (
            ("/help", "keys and commands"),
            ("/sessions", "Sessions  1 of"),
            ("/branches", "1 session, 1 step"),
            ("/rewind", "Back to"),
            ("/export", "Export this session"),
            ("/settings", "agent.max_turns"),
            ("/doctor", "Doctor"),
        ):
            tmux.say(command)
            tmux.until(title)
            tmux.keys("Escape")
            tmux.wait(lambda shown, title=title: title not in shown, f"the end of {command}")  # type: ignore[misc]
        tmux.keys("Escape", "Escape")
        tmux.until("Back to")
        tmux.keys("Escape")
        quit_app(tmux)


def quit_app(tmux: Tmux) -> None:
    tmux.wait(lambda shown: "Back to" not in shown, "the chat")
    tmux.say("/quit")
    tmux.until("goes on with this session")
    tmux.until("Pane is dead (status 0")


def sleeping() -> bool:
    """Whether the slow command runs."""
    found: list[Any] = []
    for process in psutil.process_iter():
        try:
            found += [process] if process.cmdline() == ["sleep", "3417"] else []
        except psutil.Error:
            continue
    return bool(found)


def wait_for(condition: Callable[[], bool], timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.1)
