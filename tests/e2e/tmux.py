"""A terminal that is driven by keys and read back as a person sees it."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

TIMEOUT_S = 300.0
NEEDED = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")


class Tmux:
    """One window of a server of its own."""

    def __init__(self, name: str) -> None:
        self._name = name

    def run(self, *words: str) -> str:
        """A tmux command; its output."""
        command = ["tmux", "-L", self._name, "-f", "/dev/null", *words]
        # The environment by name: readline puts the size of pytest's own terminal into what is inherited otherwise.
        return subprocess.run(command, check=True, capture_output=True, text=True, env=dict(os.environ)).stdout

    def screen(self) -> str:
        """What is on the screen."""
        return self.run("capture-pane", "-p", "-t", "work")

    def keys(self, *names: str) -> None:
        """Press keys by their names in tmux: `Enter`, `Escape`, `F3`, `y`."""
        self.run("send-keys", "-t", "work", *names)

    def say(self, text: str) -> None:
        """Write and submit."""
        self.run("send-keys", "-t", "work", "-l", text)
        self.keys("Enter")

    def until(self, *texts: str, without: str = "", timeout_s: float = TIMEOUT_S) -> str:
        """Wait until one of the texts is on the screen; the screen."""
        return self.wait(
            lambda shown: any(text in shown for text in texts) and (not without or without not in shown),
            f"none of {texts}",
            timeout_s,
        )

    def wait(self, is_so: Callable[[str], bool], what: str, timeout_s: float = TIMEOUT_S) -> str:
        """Wait for a state of the screen."""
        end_s = time.monotonic() + timeout_s
        while not is_so(shown := self.screen()):
            assert time.monotonic() < end_s, f"{what} in {timeout_s:.0f} s; the screen:\n{shown}"
            time.sleep(0.05)
        return shown

    def pid(self) -> int:
        """Of the program in the window."""
        return int(self.run("list-panes", "-t", "work", "-F", "#{pane_pid}"))


@contextmanager
def opened(project: Path, *arguments: str, size: tuple[int, int] = (120, 40), **more: str) -> Iterator[Tmux]:
    """`kodkod` in a terminal, in the middle of a project; the window stays when the program ends."""
    tmux = Tmux(f"kodkod-{secrets.token_hex(4)}")
    words = [sys.executable, "-m", "kodkod_app", "-C", str(project), *arguments]
    environment = [word for name, value in _kept(more).items() for word in ("-e", f"{name}={value}")]
    sizes = ("-x", str(size[0]), "-y", str(size[1]))
    try:
        tmux.run("new-session", "-d", "-s", "work", *sizes, *environment, *words, ";", "set", "remain-on-exit", "on")
        yield tmux
    finally:
        subprocess.run(["tmux", "-L", tmux._name, "kill-server"], check=False, capture_output=True)


def _kept(more: Mapping[str, str]) -> dict[str, str]:
    """What the program sees of this process: where kodkod keeps its things."""
    return {"KODKOD_HOME": os.environ["KODKOD_HOME"], "TERM": "xterm-256color", **more}
