"""The program in a terminal of its own: of what a model and its tools write, no command reaches the terminal."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from kodkod_agent.session_folder import SessionFolder

CLIPBOARD = "\x1b]52;c;aG9zdGlsZQ==\x07"
HOSTILE = f"{CLIPBOARD}\x1b]0;title-of-mine\x07\x1b[13;37H\x1b[6n\x1bP+q544e\x1b\\\x9b13;37H\x9d52;c;aG9zdGlsZQ==\x9c"
TRACES = (b"]52;", b"]0;", b"[13;37H", b"[6n", b"P+q", b"\xc2\x9b", b"\xc2\x9d")
"""What the terminal would see of them, each behind its escape."""
_SEQUENCE = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|[PX^_\]].*?(?:\x1b\\|\x07)|[ -/]*[0-~])", re.DOTALL)
TIMEOUT_S = 120.0
UNFOLD_ALL = "\x0f"
"""Ctrl+O."""


class Terminal:
    """What the program wrote so far."""

    def __init__(self, pid: int, fd: int) -> None:
        self.pid, self._fd = pid, fd
        self.raw = b""

    def until(self, is_so: Callable[[str], bool], what: str) -> None:
        """Read on until the text is as wanted."""
        end_s = time.monotonic() + TIMEOUT_S
        while not is_so(self.text):
            assert time.monotonic() < end_s, f"{what} never came: {self.text[-600:]!r}"
            if select.select([self._fd], [], [], 0.1)[0]:
                with suppress(OSError):
                    self.raw += os.read(self._fd, 1 << 20)

    @property
    def text(self) -> str:
        """Without escape sequences."""
        return _SEQUENCE.sub(b"", self.raw).decode("utf-8", "replace")

    def close(self) -> None:
        """As a window that is closed: nothing is read and nothing can be written any more."""
        os.close(self._fd)

    @property
    def edits_lines(self) -> bool:
        """Whether it treats what is typed as a shell wants it: shown, and line by line."""
        wanted: int = termios.ECHO | termios.ICANON
        return bool(termios.tcgetattr(self._fd)[3] & wanted == wanted)

    def press(self, keys: str) -> None:
        """Type."""
        os.write(self._fd, keys.encode())


@contextmanager
def opened(project: Path, *arguments: str) -> Iterator[Terminal]:
    command = [sys.executable, "-m", "kodkod_app", "-C", str(project), *arguments]
    pid, fd = pty.fork()
    if pid == 0:
        os.environ["TERM"] = "xterm-256color"
        os.execv(command[0], command)
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    try:
        yield Terminal(pid, fd)
    finally:
        with suppress(psutil.NoSuchProcess):
            psutil.Process(pid).kill()
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)
        with suppress(OSError):
            os.close(fd)


def test_nothing_moves_the_cursor_or_sets_the_clipboard(project: Path, home: Path, tmp_path: Path) -> None:
    (home / "sessions").mkdir(parents=True)
    (home / "sessions" / ".welcomed").touch()
    (project / "evil.txt").write_text(f"line {HOSTILE} of the file\n")
    (project / f"n{HOSTILE[:20].replace('/', '')}.py").write_text("x = 1\n")
    turns = [
        {"text": f"I say {HOSTILE}\n\n`{HOSTILE}`\n\n```\n{HOSTILE}\n```\n", "calls": [
            {"name": "shell", "arguments": {"command": f"cat evil.txt; ls -N # {HOSTILE}"}},
            {"name": f"un{HOSTILE}known", "arguments": {}},
        ]},
        {"text": "That was all.", "calls": []},
    ]  # fmt: skip
    recording = tmp_path / "recording.jsonl"
    recording.write_text("".join(json.dumps(turn) + "\n" for turn in turns))
    with opened(project, "-m", f"script:{recording}", "--sandbox", "none") as terminal:
        terminal.until(lambda text: "script" in text or "recording" in text, "the session")
        terminal.press("look\r")
        terminal.until(lambda text: "May it run a command" in text, "the question")
        terminal.press("y")
        terminal.until(lambda text: "That was all." in text, "the end")
        terminal.press(UNFOLD_ALL)
        terminal.until(lambda text: "of the file" in text, "what the command wrote, which folds when it ends")
        shown = terminal.text
        before = terminal.raw
    assert "aG9zdGlsZQ==" in shown, "it was shown, as text"
    assert "of the file" in shown
    for trace in TRACES:
        assert b"\x1b" + trace not in before
        assert not trace.startswith(b"\xc2") or trace not in before


@pytest.mark.parametrize("is_busy", [False, True])
def test_a_terminal_that_is_closed_ends_the_program_in_order(
    project: Path, home: Path, tmp_path: Path, is_busy: bool
) -> None:
    (home / "sessions").mkdir(parents=True)
    (home / "sessions" / ".welcomed").touch()
    turns = [{"text": "", "calls": [{"name": "shell", "arguments": {"command": "while :; do date; sleep 0.02; done"}}]}]
    recording = tmp_path / "recording.jsonl"
    recording.write_text("".join(json.dumps(turn) + "\n" for turn in turns))
    with opened(project, "-m", f"script:{recording}", "--sandbox", "none") as terminal:
        terminal.until(lambda text: "script" in text or "recording" in text, "the session")
        if is_busy:
            terminal.press("look\r")
            terminal.until(lambda text: text.count("UTC") > 2, "the output")
        terminal.close()
        assert exit_code_of(terminal.pid) == 128 + signal.SIGHUP


def test_what_was_stopped_from_outside_goes_on_and_leaves_the_terminal_as_it_was(
    project: Path, home: Path, tmp_path: Path
) -> None:
    (home / "sessions").mkdir(parents=True)
    (home / "sessions" / ".welcomed").touch()
    recording = tmp_path / "recording.jsonl"
    recording.write_text(json.dumps({"text": "", "calls": []}) + "\n")
    with opened(project, "-m", f"script:{recording}", "--sandbox", "none") as terminal:
        terminal.until(lambda text: "recording" in text, "the session")
        assert not terminal.edits_lines
        for typed in ("/q", "ui", "t"):
            os.kill(terminal.pid, signal.SIGSTOP)
            wait_for(lambda: psutil.Process(terminal.pid).status() == psutil.STATUS_STOPPED)
            terminal.press(typed)
            seen = len(terminal.raw)
            os.kill(terminal.pid, signal.SIGCONT)
            terminal.until(lambda _, seen=seen: b"\x1b[?1049h" in terminal.raw[seen:], "the terminal taken again")
        terminal.until(lambda text: "leave; the session is kept" in text, "the command")
        terminal.press("\r")
        assert exit_code_of(terminal.pid) == 0
        assert terminal.edits_lines


def test_the_screen_is_drawn_in_utf_8_whatever_the_locale(
    project: Path, home: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    (home / "sessions").mkdir(parents=True)
    (home / "sessions" / ".welcomed").touch()
    recording = tmp_path / "recording.jsonl"
    recording.write_text(json.dumps({"text": "Hello.", "calls": []}) + "\n")
    with opened(project, "-m", f"script:{recording}", "--sandbox", "none") as terminal:
        terminal.until(lambda text: "recording" in text, "the session")
        assert "\u256d" in terminal.text
        assert "\\u256d" not in terminal.text


def test_a_session_that_is_open_elsewhere_is_told_before_a_screen_is_painted(project: Path, home: Path) -> None:
    folder = SessionFolder.make(home / "sessions")
    folder.describe(project)
    with folder.locked(), opened(project, "-r", folder.path.name) as terminal:
        assert exit_code_of(terminal.pid) == 2
        terminal.until(lambda text: f"kodkod --fork {folder.path.name}" in text, "the way out")
        assert b"\x1b[?1049h" not in terminal.raw


def wait_for(is_so: Callable[[], bool]) -> None:
    end_s = time.monotonic() + TIMEOUT_S
    while not is_so():
        assert time.monotonic() < end_s, "it did not come to pass"
        time.sleep(0.01)


def exit_code_of(pid: int) -> int:
    end_s = time.monotonic() + TIMEOUT_S
    while time.monotonic() < end_s:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    raise AssertionError("it goes on without a terminal")
