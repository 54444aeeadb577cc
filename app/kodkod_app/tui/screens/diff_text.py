"""A change to a file as text for the screen: line numbers, and in changed lines the words that changed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher

from textual.content import Content

from kodkod_app.render import for_terminal
from kodkod_tools.base import FileDiff

_HUNK = re.compile(r"@@ -(\d+)(?:,\d+)? \+(\d+)(?:,\d+)? @@")
_WORD = re.compile(r"\w+|\s+|[^\w\s]")
_MAX_LINE_CHARS = 400
_MAX_LINES = 400
_ALIKE = 0.4
"""Lines less alike than this are shown as one gone and one new, for nobody finds the words in confetti."""


@dataclass(frozen=True, slots=True)
class DiffLine:
    """One line of a change."""

    kind: str
    """`-`, `+` or a space; `@` between two hunks."""
    number: int
    """In the file as it was for `-`, as it will be otherwise."""
    text: str
    changed: tuple[tuple[int, int], ...] = ()
    """Where words differ from the line's counterpart: start and end in `text`."""


def diff_lines(unified: str) -> list[DiffLine]:
    """The lines of a unified diff of one file, its two header lines left out."""
    lines: list[DiffLine] = []
    old = new = 0
    for line in unified.split("\n"):
        if found := _HUNK.match(line):
            old, new = int(found[1]), int(found[2])
            if lines:
                lines.append(DiffLine("@", 0, ""))
        elif new or old:
            kind, text = line[:1], _shown(line[1:])
            if kind == "-":
                lines.append(DiffLine("-", old, text))
            elif kind in ("+", " "):
                lines.append(DiffLine(kind, new, text))
            old += kind in ("-", " ")
            new += kind in ("+", " ")
    return list(_with_words(lines))


def _shown(text: str) -> str:
    text = for_terminal(text[: _MAX_LINE_CHARS + 1]).expandtabs(4)
    return text if len(text) <= _MAX_LINE_CHARS else f"{text[:_MAX_LINE_CHARS]}…"


def _with_words(lines: list[DiffLine]) -> Iterator[DiffLine]:
    """Lines that were taken away, and those that came in their place one by one, with their changed words."""
    at = 0
    while at < len(lines):
        gone = _run(lines, at, "-")
        came = _run(lines, at + len(gone), "+")
        pairs = [_words(a, b) for a, b in zip(gone, came, strict=False)] if len(gone) == len(came) else []
        yield from (a for a, _ in pairs) if pairs else gone
        yield from (b for _, b in pairs) if pairs else came
        at += len(gone) + len(came)
        if not gone and not came:
            yield lines[at]
            at += 1


def _run(lines: list[DiffLine], start: int, kind: str) -> list[DiffLine]:
    end = start
    while end < len(lines) and lines[end].kind == kind:
        end += 1
    return lines[start:end]


def _words(old: DiffLine, new: DiffLine) -> tuple[DiffLine, DiffLine]:
    before, after = _WORD.findall(old.text), _WORD.findall(new.text)
    matcher = SequenceMatcher(None, before, after, autojunk=False)
    if matcher.ratio() < _ALIKE:
        return old, new
    spans: tuple[list[tuple[int, int]], list[tuple[int, int]]] = ([], [])
    for tag, a, b, c, d in matcher.get_opcodes():
        if tag != "equal":
            _add_span(spans[0], before, a, b)
            _add_span(spans[1], after, c, d)
    return (
        DiffLine("-", old.number, old.text, tuple(spans[0])),
        DiffLine("+", new.number, new.text, tuple(spans[1])),
    )


def _add_span(spans: list[tuple[int, int]], words: list[str], start: int, end: int) -> None:
    if start < end:
        first = sum(map(len, words[:start]))
        spans.append((first, first + sum(map(len, words[start:end]))))


def diff_content(diff: FileDiff) -> Content:
    """The change in colours that also tell themselves apart without: signs, and changed words bold."""
    lines = diff_lines(diff.unified)
    if not lines:
        return Content.styled(for_terminal(diff.unified.strip()) or "no change", "dim")
    width = len(str(max(line.number for line in lines)))
    shown = [_line(line, width) for line in lines[:_MAX_LINES]]
    if len(lines) > _MAX_LINES:
        shown.append(Content.styled(f"… {len(lines) - _MAX_LINES:,} more lines", "$text-warning"))
    return Content("\n").join(shown)


def _line(line: DiffLine, width: int) -> Content:
    if line.kind == "@":
        return Content.styled(f"{'⋮':>{width}}", "dim")
    colour = {"-": "$text-error", "+": "$text-success", " ": ""}[line.kind]
    number = Content.styled(f"{line.number:>{width}} ", "dim")
    body = Content.styled(f"{line.kind} {line.text}", colour)
    for start, end in line.changed:
        body = body.stylize("bold reverse", start + 2, end + 2)
    return number + body
