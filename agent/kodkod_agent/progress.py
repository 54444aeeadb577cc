"""How far a repair has come, read from the conversation alone.

What the tools answered is in the ledger as text, and so it is there in a fork and after a resume as well. It is read
with care: an answer that does not look as the tool writes it tells nothing, and a test's output may hold anything, so
of blocks that a tool writes last the last one counts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from kodkod_engine.messages import AssistantMessage, Message, ToolCall, ToolMessage

SUSPECTS = "Run by the failing tests, most suspicious first:\n"
_SUSPECT = re.compile(r"(?P<path>.+):(?P<first>\d+)-(?P<last>\d+) (?P<function>\S+): (?P<lines>\d+(?: \d+)*)")
_EXIT_CODE = re.compile(r"\[exit code (-?\d+)[],]")
_CHANGED = re.compile(r"\[the user changed this call before it was run: .*\]\nedited ")
_NUMBERED = re.compile(r"^(\d+)\|(.*)$", re.MULTILINE)


class Tests(StrEnum):
    """What the last run of the tests says of the files as they are."""

    __test__ = False  # not a test class, whatever its name says to pytest

    UNKNOWN = "unknown"
    """None was run yet, or something was changed since."""
    PASSED = "passed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Suspect:
    """A stretch of a file that failing tests run."""

    path: str
    first_line: int
    last_line: int
    lines: tuple[int, ...]
    """The most suspicious first."""
    function: str = ""

    @property
    def as_row(self) -> tuple[str, str, str]:
        """As a view names it."""
        return self.path, str(self.first_line), str(self.last_line)


@dataclass(frozen=True, slots=True)
class TriedEdit:
    """One line of a file as it was and as an edit left it."""

    path: str
    line: int
    before: str
    after: str
    """May have several lines."""


@dataclass(slots=True)
class Progress:
    """Built up by `read_progress`, then only read."""

    tests: Tests = Tests.UNKNOWN
    suspects: tuple[Suspect, ...] = ()
    output: str = ""
    """Of the run that named the suspects."""
    views: set[tuple[str, str, str]] = field(default_factory=set)
    """(path, start, end) of the views asked for."""
    shown: dict[str, dict[int, str]] = field(default_factory=dict)
    """By path and number, the lines that were shown."""
    tried: list[TriedEdit] = field(default_factory=list)
    standing: TriedEdit | None = None
    """The edit that is in the files now."""
    edits: int = 0
    """That were asked for, those that came to nothing among them."""

    def line(self, path: str, number: int) -> str | None:
        """A line as it was last shown."""
        return self.shown.get(path, {}).get(number)


def read_progress(messages: Sequence[Message]) -> Progress:
    """Follow a conversation from its start."""
    progress = Progress()
    calls: dict[str, ToolCall] = {}
    for message in messages:
        if isinstance(message, AssistantMessage):
            calls |= {call.id: call for call in message.calls}
        elif isinstance(message, ToolMessage) and (call := calls.get(message.call_id)) is not None:
            reader = _READERS.get(call.name)
            if reader is not None:
                reader(progress, call.arguments, message.text)
    return progress


def _after_test(progress: Progress, arguments: Mapping[str, object], text: str) -> None:
    del arguments
    codes = _EXIT_CODE.findall(text)
    progress.tests = Tests.PASSED if codes and codes[-1] == "0" else Tests.FAILED
    _, heading, block = text.rpartition(SUSPECTS)
    if heading:
        found = map(_SUSPECT.fullmatch, block.partition("\n\n")[0].split("\n"))
        progress.suspects = tuple(_suspect(match) for match in found if match is not None)
        progress.output = text


def _suspect(match: re.Match[str]) -> Suspect:
    lines = tuple(int(number) for number in match["lines"].split())
    return Suspect(match["path"], int(match["first"]), int(match["last"]), lines, match["function"])


def _after_view(progress: Progress, arguments: Mapping[str, object], text: str) -> None:
    path = str(arguments.get("path"))
    progress.views.add((path, str(arguments.get("start")), str(arguments.get("end"))))
    if text.startswith(f"{path}, lines "):
        shown = {int(number): line for number, line in _NUMBERED.findall(text)}
        progress.shown[path] = {**progress.shown.get(path, {}), **shown}


def _after_edit(progress: Progress, arguments: Mapping[str, object], text: str) -> None:
    path, line, old, new = (arguments.get(key) for key in ("path", "line", "old", "new"))
    if not (isinstance(path, str) and isinstance(line, int) and isinstance(old, str) and isinstance(new, str)):
        return
    if _CHANGED.match(text):
        # What is in the file is the person's: it is tested, and never taken back.
        progress.edits, progress.standing, progress.tests = progress.edits + 1, None, Tests.UNKNOWN
        return
    if (standing := progress.standing) is not None and standing == TriedEdit(path, line, new, old):
        progress.standing = None
        return
    progress.edits += 1
    before = progress.line(path, line)
    if before is None or before.count(old) != 1:
        return
    edit = TriedEdit(path, line, before, before.replace(old, new))
    progress.tried.append(edit)
    if text.startswith("edited "):
        progress.standing, progress.tests = edit, Tests.UNKNOWN


def _after_git(progress: Progress, arguments: Mapping[str, object], text: str) -> None:
    del text  # one that was refused is not asked for again
    if arguments.get("action") == "restore":
        progress.standing = None


def _after_finish(progress: Progress, arguments: Mapping[str, object], text: str) -> None:
    """A conversation that goes on behind it does so because somebody has another view of the matter."""
    del arguments, text
    if progress.tests is Tests.PASSED:
        progress.tests = Tests.UNKNOWN


_READERS = MappingProxyType(
    {
        "test": _after_test,
        "view": _after_view,
        "edit": _after_edit,
        "git": _after_git,
        "finish": _after_finish,
    }
)
