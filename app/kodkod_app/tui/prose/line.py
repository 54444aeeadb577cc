"""What everything that is laid out comes down to: lines, each of which knows what of it a copy takes along."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from textual.content import Content


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the screen."""

    content: Content
    joint: str = "\n"
    """What is between it and the line before in a copy: a line feed, or what stood where the text was wrapped."""
    margin: int = 0
    """Characters at its head that are no part of the text: indentation, bars, line numbers."""
    filling: int = 0
    """Characters at its end that are none either."""

    @property
    def end(self) -> int:
        """Where the text ends, in characters."""
        return len(self.content.plain) - self.filling


def indented(lines: Iterable[Line], first: Content, rest: Content, *, is_text: bool) -> list[Line]:
    """Lines with something before each of them; `is_text` says that a copy takes it along.

    A line that goes on from another, and one with a margin of its own, is copied without it all the same.
    """
    return [_behind(first if number == 0 else rest, line, is_text) for number, line in enumerate(lines)]


def _behind(head: Content, line: Line, is_text: bool) -> Line:
    is_copied = is_text and line.joint == "\n" and not line.margin
    return replace(line, content=head + line.content, margin=0 if is_copied else len(head) + line.margin)


def wrapped(content: Content, width: int) -> list[Line]:
    """Text wrapped between its words; words that are too long are broken."""
    lines: list[Line] = []
    for hard in content.split("\n", allow_blank=True):
        parts = hard.wrap(max(1, width))
        joints = ["\n", *(_joint(hard, parts))]
        lines += [Line(part, joint) for part, joint in zip(parts, joints, strict=True)]
    return lines


def _joint(hard: Content, parts: list[Content]) -> list[str]:
    """What stood between the parts of a line: a space, or nothing in the middle of a word."""
    joints, at, text = [], 0, hard.plain
    for part in parts[:-1]:
        at += len(part.plain)
        rest = text[at:]
        gap = len(rest) - len(rest.lstrip(" "))
        at += gap
        joints.append(" " if gap else "")
    return joints


def folded(content: Content, width: int) -> list[Line]:
    """Code: broken where the width ends, its spaces kept."""
    lines: list[Line] = []
    for hard in content.split("\n", allow_blank=True):
        parts = hard.fold(max(2, width)) or [hard]
        lines += [Line(part, "" if number else "\n") for number, part in enumerate(parts)]
    return lines


def filled(line: Line, width: int, style: str) -> Line:
    """A line whose background reaches to the edge."""
    missing = max(0, width - line.content.cell_length)
    content = (line.content + Content(" " * missing)).stylize_before(style)
    return replace(line, content=content, filling=line.filling + missing)


def selected_text(lines: list[Line], first: tuple[int, int], last: tuple[int, int]) -> str:
    """What a copy says of the lines between two places, each a line and a character in it."""
    parts: list[str] = []
    for number in range(first[0], min(last[0], len(lines) - 1) + 1):
        line = lines[number]
        start = max(line.margin, first[1] if number == first[0] else 0)
        end = min(line.end, last[1]) if number == last[0] else line.end
        joint = line.joint if parts else ""
        parts.append(joint + line.content.plain[start:end])
    return "".join(parts)
