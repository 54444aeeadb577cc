"""A project whose fault sits in a function, and what tells a session to be guided."""

from __future__ import annotations

import sys
from pathlib import Path

from kodkod_agent.profile import Profile
from kodkod_tools.config import ToolsConfig

GUIDED = Profile(tools=("test", "view", "edit", "git", "finish"), declare_tools=False, system=False, guided=True)
TRACED = ToolsConfig(
    test_command=(sys.executable, "-m", "pytest", "--disable-plugin-autoload", "-p", "no:cacheprovider")
)
FAILING = "test_clip.py::test_top"
CLIP = """\
def clip(value, low, high):
    \"\"\"Into the range.\"\"\"
    if value < low:
        return low
    if value > high:
        return low
    return value


def other(value):
    return value
"""
TESTS = """\
from clip import clip, other


def test_top():
    assert clip(5, 1, 3) == 3


def test_bottom():
    assert clip(0, 1, 3) == 1


def test_other():
    assert other(1) == 1
"""


def make_faulty(folder: Path) -> None:
    """Put the files where a project is."""
    (folder / "clip.py").write_text(CLIP)
    (folder / "test_clip.py").write_text(TESTS)
    for name in ("calc.py", "test_calc.py"):
        (folder / name).unlink(missing_ok=True)
