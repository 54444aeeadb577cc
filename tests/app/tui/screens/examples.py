"""What the pictures and the tests show: calls, files, sessions as a person might have them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kodkod_agent.events import ApprovalRequest
from kodkod_agent.rules import Rule
from kodkod_agent.session_folder import ForkPoint, SessionInfo
from kodkod_app.report_text import FileStat
from kodkod_app.session_branches import Branch, Step
from kodkod_app.session_shelf import ShelvedSession
from kodkod_app.session_story import Ending
from kodkod_app.tui.updates import CallFacts
from kodkod_engine.messages import ToolCall
from kodkod_tools.base import FileDiff
from kodkod_tools.files import file_diff

FILES = {
    "timesheet/spans.py": (
        '"""Spans of time."""\n\n\n'
        "class Span:\n"
        "    def __init__(self, start, end):\n"
        "        self.start, self.end = start, end\n\n"
        "    def overlaps(self, other):\n"
        "        return self.start <= other.end and other.start <= self.end\n\n"
        "    def contains(self, moment):\n"
        "        return self.start <= moment < self.end\n"
    )
}


WHERE = "landlock box, no network"


@dataclass(frozen=True)
class Question:
    """A request, and what a person is told beside it."""

    request: ApprovalRequest
    facts: CallFacts


def question(name: str, reason: str, *rules: str, call_id: str = "1", **arguments: Any) -> Question:
    call = ToolCall(id=call_id, name=name, arguments=arguments)
    facts = CallFacts(WHERE, tuple(Rule.read(rule) for rule in rules), _diff(name, arguments))
    return Question(ApprovalRequest(call, reason), facts)


def _diff(name: str, arguments: dict[str, Any]) -> FileDiff | None:
    path = arguments.get("path", "")
    before = FILES.get(path)
    if name == "edit" and before is not None:
        return file_diff(path, before, before.replace(arguments["old"], arguments["new"]))
    return file_diff(path, before, arguments["content"]) if name == "write" else None


SHELL = question(
    "shell", "pytest -x tests/test_spans.py runs code", "shell(pytest *)", command="pytest -x tests/test_spans.py"
)
EDIT = question(
    "edit",
    "timesheet/spans.py would be changed",
    "edit(timesheet/**)",
    call_id="2",
    path="timesheet/spans.py",
    old="return self.start <= moment < self.end",
    new="return self.start <= moment <= self.end",
)
WRITE = question(
    "write",
    "notes.md would be changed",
    "write(/notes.md)",
    call_id="3",
    path="notes.md",
    content="# Notes\n\n- the end of a span is part of it\n",
)
REMOVE = question("shell", "rm -rf build changes files", "shell(rm -rf build)", call_id="4", command="rm -rf build")

PROJECT = Path("/home/mia/timesheet")


def shelved(
    day: int, title: str, steps: int, status: str, reason: str = "", fork: tuple[str, int] | None = None, **more: Any
) -> ShelvedSession:
    session_id = f"202611{day:02}-093000-{day:06x}"
    info = SessionInfo(
        id=session_id,
        created_at=datetime(2026, 11, day, 9, 30, tzinfo=UTC),
        work_tree=more.pop("work_tree", PROJECT),
        title=title,
        forked_from=ForkPoint(session_id=fork[0], step=fork[1]) if fork else None,
    )
    return ShelvedSession(info, Ending(steps, status, reason, **more))


FIRST = shelved(
    20, "The date filter drops the last day. Mend it.", 7, "done", "the tests pass",
    tests_before={"passed": 11, "failed": 1}, tests_after={"passed": 12, "failed": 0},
)  # fmt: skip
SESSIONS = [
    shelved(24, "Round durations to five minutes", 3, "unfinished"),
    shelved(22, "The date filter drops the last day. Mend it.", 9, "unverified", "there are no tests to show that it "
            "works", (FIRST.info.id, 3)),
    FIRST,
    shelved(18, "What does Sheet.total do with spans that overlap?", 2, "done", "answered"),
    shelved(17, "Rename Span to Interval everywhere", 41, "limit", "100 turns"),
    shelved(11, "Write the README of the website", 5, "done", work_tree=Path("/home/mia/website")),
]  # fmt: skip


class Shelf:
    """Sessions in memory."""

    def __init__(self, sessions: list[ShelvedSession] = SESSIONS) -> None:
        self.all = list(sessions)

    def sessions(self) -> list[ShelvedSession]:
        return list(self.all)

    def delete(self, session_id: str) -> None:
        self.all = [one for one in self.all if one.info.id != session_id]


def _step(number: int, text: str, *calls: str, said: str = "", new: int = 212, reused: int = 0) -> Step:
    return Step(number, (said,) if said else (), text, calls, new, reused or 1_840 + 260 * number)


TREE = Branch(
    "one",
    "The date filter drops the last day. Mend it.",
    "done",
    (
        _step(1, "I look at the filter first.", "view timesheet/spans.py",
              said="The date filter drops the last day. Mend it."),
        _step(2, "The test tells which end is meant.", "test tests/test_spans.py"),
        _step(3, "The end of a span is part of it.", "edit timesheet/spans.py", new=96),
        _step(4, "", "test tests/test_spans.py", new=31),
        _step(5, "All twelve tests pass.", "finish", new=44),
        _step(6, "I write it down.", "write notes.md", said="Now write the notes."),
        _step(7, "Done.", "finish", new=20),
    ),
    forks=(
        Branch(
            "two",
            "Leave contains as it is, and mend the caller",
            "unverified",
            (
                _step(4, "The caller can add a day instead.", "search contains(",
                      said="Leave contains as it is, and mend the caller."),
                _step(5, "", "edit timesheet/sheet.py"),
                _step(6, "", "shell pytest -x  refused"),
            ),
            forked_at=3,
            forks=(Branch("three", "Try it with a property", "unfinished", (), forked_at=5),),
        ),
    ),
)  # fmt: skip
CHANGED = (FileStat("timesheet/sheet.py", 2, 1), FileStat("timesheet/spans.py", 1, 1), FileStat("notes.md", 0, 3))
