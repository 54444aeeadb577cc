"""The entries of a day."""

from __future__ import annotations

from dataclasses import dataclass, field

from timesheet.durations import format_duration
from timesheet.spans import Span


@dataclass(frozen=True)
class Entry:
    """What was worked on, and when."""

    project: str
    span: Span


@dataclass
class Sheet:
    """One day. Nobody works on two things at a time."""

    entries: list[Entry] = field(default_factory=list)

    def add(self, project: str, start: int, end: int) -> Entry:
        """Enter some work.

        Raises:
            ValueError: something else was entered for a part of that time.
        """
        entry = Entry(project, Span(start, end))
        for other in self.entries:
            if entry.span.overlaps(other.span):
                raise ValueError(f"{project} is at the same time as {other.project}")
        self.entries.append(entry)
        return entry

    def total(self, project: str | None = None) -> int:
        """Minutes, of one project or of all."""
        return sum(entry.span.minutes for entry in self.entries if project in (None, entry.project))

    def at(self, minute: int) -> str | None:
        """What was worked on at that minute."""
        return next((entry.project for entry in self.entries if entry.span.contains(minute)), None)

    def report(self) -> list[str]:
        """A line for each project, the longest first."""
        totals = {entry.project: self.total(entry.project) for entry in self.entries}
        ordered = sorted(totals.items(), key=lambda item: (-item[1], item[0]))
        return [f"{project}: {format_duration(minutes)}" for project, minutes in ordered]
