"""All that a session's screen could show, in order. The transcript mounts a window of it. Knows no widgets.

Text is inert here already (`inert.py`): whatever shows an entry may trust that it holds no control characters.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from enum import StrEnum

from kodkod_app.tui.inert import beginning, cut_lines, inert

MAX_OUTPUT_CHARS = 100_000
"""Kept of one command's output for the screen: its end. The whole is in the session's logs."""
_MAX_LOOKED_AT_CHARS = 4 * MAX_OUTPUT_CHARS
"""Made fit to be shown, of one piece of it: megabytes would take seconds, in which the screen stands still."""
MAX_SAID_LINES, MAX_SAID_CHARS = 200, 20_000
"""Kept of what the person said. The whole is in the conversation."""


class CallState(StrEnum):
    """Where a call stands."""

    WRITING = "writing"
    ASKED = "asked"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    REFUSED = "refused"
    CUT = "cut short"

    @property
    def is_over(self) -> bool:
        """Nothing more will come."""
        return self not in (CallState.WRITING, CallState.ASKED, CallState.RUNNING)


class NoteKind(StrEnum):
    """How much a note matters."""

    INFO = "info"
    WARNING = "warning"
    FAULT = "fault"


@dataclass(slots=True, eq=False)
class Entry:
    """One thing in the transcript."""

    number: int = field(default=-1, init=False)
    """Its place in the store."""


@dataclass(slots=True, eq=False)
class Welcome(Entry):
    """The head of the transcript."""

    folder: str
    version: str
    title: str = ""


@dataclass(slots=True, eq=False)
class Said(Entry):
    """The person spoke."""

    text: str
    """Of very much the beginning."""

    def __post_init__(self) -> None:
        self.text = beginning(self.text, MAX_SAID_LINES, MAX_SAID_CHARS)


@dataclass(slots=True, eq=False)
class Answer(Entry):
    """The model's prose, and the thinking before it."""

    text: str = ""
    reasoning: str = ""
    is_open: bool = False
    """More may come."""


@dataclass(slots=True, eq=False)
class Diff:
    """A change to one file."""

    path: str
    unified: str
    added: int
    removed: int
    is_new_file: bool = False


@dataclass(slots=True, eq=False)
class Call(Entry):
    """A call of a tool."""

    call_id: str
    name: str
    arguments: dict[str, str] = field(default_factory=dict)
    """As text."""
    state: CallState = CallState.WRITING
    output: str = ""
    dropped_chars: int = 0
    """Of the output's beginning."""
    outcome: str = ""
    """In a few words."""
    diff: Diff | None = None
    duration_s: float = 0.0
    is_unfolded: bool | None = None
    """As the reader wants it; None leaves it to what there is to see."""

    @property
    def subject(self) -> str:
        """What it is about, in one line."""
        for key in _TELLING:
            if value := self.arguments.get(key):
                return value
        return ""

    def say(self, text: str) -> None:
        """Append output; of very much the end is kept."""
        self.output, dropped = _with_end(self.output, text)
        self.dropped_chars += dropped


_TELLING = ("command", "path", "pattern", "query", "targets", "subcommand", "action", "job_id", "job", "summary")
"""Arguments that tell what a call is about, the most telling first."""


def _with_end(output: str, text: str) -> tuple[str, int]:
    """Output and more of it, cut to its end, and how many characters that leaves out."""
    unseen = max(0, len(text) - _MAX_LOOKED_AT_CHARS)
    whole = output + cut_lines(inert(text[unseen:]))
    dropped = max(0, len(whole) - MAX_OUTPUT_CHARS)
    return whole[dropped:], unseen + dropped


@dataclass(slots=True, eq=False)
class ShellRun(Entry):
    """A command the person ran in the box."""

    command: str
    output: str = ""
    dropped_chars: int = 0
    exit_code: int | None = None
    """None while it runs."""
    duration_s: float = 0.0
    is_unfolded: bool | None = None
    """See `Call`."""

    def say(self, text: str) -> None:
        """Append output; of very much the end is kept."""
        self.output, dropped = _with_end(self.output, text)
        self.dropped_chars += dropped


@dataclass(slots=True, eq=False)
class Note(Entry):
    """A fact for the person."""

    text: str
    kind: NoteKind = NoteKind.INFO


@dataclass(slots=True, eq=False)
class Checks(Entry):
    """A test run by the agent itself."""

    is_before: bool
    told: str
    """Counts, in a few words."""
    passed: bool
    text: str = ""


@dataclass(slots=True, eq=False)
class Ending(Entry):
    """How a run ended, what it changed and what it cost."""

    status: str
    reason: str
    summary: str = ""
    files: tuple[tuple[str, int, int], ...] = ()
    """Path, lines added, lines removed."""
    tests: str = ""
    cost: str = ""
    """Empty while an interrupted run is not reported."""

    def take(self, known: Ending) -> None:
        """Be what is known by now."""
        for part in fields(self):
            if part.name != "number":
                setattr(self, part.name, getattr(known, part.name))


class PlanState(StrEnum):
    """Where a step of the plan stands."""

    PENDING = "pending"
    ACTIVE = "in_progress"
    DONE = "completed"


@dataclass(frozen=True, slots=True)
class PlanStep:
    """One step of what the model means to do."""

    text: str
    state: PlanState


class Store:
    """The entries of one session."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.plan: tuple[PlanStep, ...] = ()
        self.generation = 0
        """Changes when the entries are others than before, not only more."""
        self._changed: set[int] = set()

    def __len__(self) -> int:
        return len(self.entries)

    def add(self, entry: Entry) -> None:
        """Append an entry."""
        entry.number = len(self.entries)
        self.entries.append(entry)

    def touch(self, entry: Entry) -> None:
        """Say that an entry is not what it was."""
        self._changed.add(entry.number)

    def take_changed(self) -> set[int]:
        """Numbers of the entries that were touched since the last time."""
        changed, self._changed = self._changed, set()
        return changed

    def reset(self, entries: Iterable[Entry]) -> None:
        """Begin anew with these."""
        self.entries, self.plan = [], ()
        self._changed.clear()
        self.generation += 1
        for entry in entries:
            self.add(entry)
