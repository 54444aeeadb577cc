"""A change to a file, line by line, the changed words marked."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import lru_cache

from textual.content import Content

from kodkod_app.tui.inert import inert_line
from kodkod_app.tui.prose.flow import Flow, FlowView
from kodkod_app.tui.prose.line import Line, filled, folded, indented

MAX_LINES = 400
"""Shown of one change; the rest is counted."""
_MAX_COMPARED_CHARS = 1_000
"""Of two lines: what longer ones have in common takes seconds to find, minutes for a file in one line."""
_HUNK = re.compile(r"@@ -(\d+)(?:,\d+)? \+(\d+)(?:,\d+)? @@")
_WORD = re.compile(r"\w+|\s+|.")
_MIN_LIKENESS = 0.4
"""Lines that are less alike are two lines, not one that changed."""


@dataclass(frozen=True, slots=True)
class DiffLine:
    """One line of a change."""

    kind: str
    """`+`, `-`, a space, or `@` between two stretches."""
    number: int | None
    """In the file after the change; before it for a line that goes."""
    text: str
    spans: tuple[tuple[int, int], ...] = ()
    """Changed words, from and to."""


def read_unified(unified: str) -> list[DiffLine]:
    """The lines of one file's unified diff, with line numbers and changed words."""
    return list(_paired(_numbered(unified)))


def _numbered(unified: str) -> Iterator[DiffLine]:
    old = new = 0
    is_inside = False
    for line in unified.split("\n"):
        if hunk := _HUNK.match(line):
            if is_inside:
                yield DiffLine("@", None, "")
            old, new, is_inside = int(hunk[1]), int(hunk[2]), True
        elif not is_inside or line.startswith("\\"):
            continue
        elif line.startswith("-"):
            yield DiffLine("-", old or None, line[1:])
            old += 1
        elif line.startswith("+"):
            yield DiffLine("+", new or None, line[1:])
            new += 1
        elif line:
            yield DiffLine(" ", new or None, line[1:])
            old, new = old + 1, new + 1


def _paired(lines: Iterator[DiffLine]) -> Iterator[DiffLine]:
    """A run of lines that go, then of lines that come: the n-th of each are compared."""
    going: list[DiffLine] = []
    coming: list[DiffLine] = []
    for line in lines:
        if line.kind == "-" and not coming:
            going.append(line)
        elif line.kind == "+":
            coming.append(line)
        else:
            yield from _compared(going, coming)
            going, coming = ([line], []) if line.kind == "-" else ([], [])
            if line.kind != "-":
                yield line
    yield from _compared(going, coming)


def _compared(going: list[DiffLine], coming: list[DiffLine]) -> Iterator[DiffLine]:
    marked = [_changed_words(old.text, new.text) for old, new in zip(going, coming, strict=False)]
    for index, line in enumerate(going):
        yield DiffLine("-", line.number, line.text, marked[index][0] if index < len(marked) else ())
    for index, line in enumerate(coming):
        yield DiffLine("+", line.number, line.text, marked[index][1] if index < len(marked) else ())


_Spans = tuple[tuple[int, int], ...]


def _changed_words(old: str, new: str) -> tuple[_Spans, _Spans]:
    if max(len(old), len(new)) > _MAX_COMPARED_CHARS:
        return (), ()
    old_words, new_words = _WORD.findall(old), _WORD.findall(new)
    matcher = SequenceMatcher(None, old_words, new_words, autojunk=False)
    if matcher.ratio() < _MIN_LIKENESS:
        return (), ()
    changes = [op for op in matcher.get_opcodes() if op[0] != "equal"]
    return (
        _spans(old_words, [(first, last) for _, first, last, _, _ in changes]),
        _spans(new_words, [(first, last) for _, _, _, first, last in changes]),
    )


def _spans(words: Sequence[str], ranges: list[tuple[int, int]]) -> _Spans:
    starts = [0]
    for word in words:
        starts.append(starts[-1] + len(word))
    return tuple((starts[first], starts[last]) for first, last in ranges if last > first)


class DiffFlow(Flow):
    """A unified diff of one file at a width; lines that are too long go on below."""

    def __init__(self, unified: str, path: str, max_lines: int) -> None:
        super().__init__()
        self._unified = unified
        self._path = path
        self._max_lines = max_lines
        self._rows: list[tuple[DiffLine, Content]] | None = None
        self._num_left_out = 0
        self._laid_out: tuple[int, list[Line]] = (-1, [])

    def restyle(self) -> None:
        """Backgrounds and marks are others."""
        self._laid_out = (-1, [])

    def lines(self, width: int) -> list[Line]:
        """Number, sign and code of each, the code folded to what is left of the width."""
        if self._laid_out[0] != width:
            self._laid_out = width, list(self._lines(width))
        return self._laid_out[1]

    def _lines(self, width: int) -> Iterator[Line]:
        rows = self._read()
        digits = max((len(str(line.number)) for line, _ in rows if line.number is not None), default=1)
        marks = "underline " if self.look.is_ansi else ""
        for line, code in rows:
            yield from _drawn(line, code, digits, width, marks)
        if self._num_left_out:
            yield Line(Content.styled(f"… {self._num_left_out:,} more lines", "$muted"))

    def _read(self) -> list[tuple[DiffLine, Content]]:
        """Once: to compare words and to colour code takes longer than to draw it."""
        if self._rows is None:
            lines = read_unified(self._unified)
            self._num_left_out = max(0, len(lines) - self._max_lines)
            self._rows = list(_coded(lines[: self._max_lines], self._path))
        return self._rows


class DiffView(FlowView):
    """Shows a unified diff of one file. Its text is taken as it stands: pass it through `inert` first."""

    DEFAULT_CSS = """
    DiffView {
        height: auto;
        width: 1fr;
    }
    """

    def __init__(self, unified: str, path: str = "", *, max_lines: int = MAX_LINES) -> None:
        """`path` chooses how the code is coloured."""
        super().__init__()
        self.auto_links = False
        self.flow = DiffFlow(unified, path, max_lines)


def _coded(lines: Sequence[DiffLine], path: str) -> Iterator[tuple[DiffLine, Content]]:
    """Each line with its code coloured; the lines are coloured together, for a string may span several."""
    from textual.highlight import highlight

    text = "\n".join(inert_line(line.text) for line in lines)
    coloured = highlight(text, language=_language(path)).split("\n", allow_blank=True)
    plain = text.split("\n")
    fits = [content.plain for content in coloured[: len(plain)]] == plain
    yield from zip(lines, coloured if fits else map(Content, plain), strict=False)


@lru_cache(maxsize=256)
def _language(path: str) -> str:
    """By the end of its name, as lexers are called; to look at the code takes longer than to colour it."""
    from pygments.lexers import get_lexer_by_name
    from pygments.util import ClassNotFound

    name = path.rpartition("/")[2].rpartition(".")[2].lower()
    try:
        return str(get_lexer_by_name(name).aliases[0]) if name else "text"
    except ClassNotFound:
        return "text"


_BACKGROUNDS = {"+": ("$diff-add", "$diff-add-word"), "-": ("$diff-remove", "$diff-remove-word")}
_SIGN_COLOURS = {"+": "$success", "-": "$error"}


def _drawn(line: DiffLine, code: Content, digits: int, width: int, marks: str) -> Iterable[Line]:
    """One line of the change as those it takes on the screen."""
    if line.kind == "@":
        return [Line(Content.styled(" " * digits + "  ⋮", "$muted"), margin=digits + 3)]
    number = "" if line.number is None else str(line.number)
    head = Content.assemble((f"{number:>{digits}} ", "$muted"), (f"{line.kind} ", _SIGN_COLOURS.get(line.kind, "")))
    whole, word = _BACKGROUNDS.get(line.kind, ("", ""))
    for first, last in line.spans:
        code = code.stylize(f"{marks}on {word}", first, last)
    parts = indented(folded(code, width - len(head)), head, _goes_on(digits), is_text=False)
    return [filled(part, width, f"on {whole}") for part in parts] if whole else parts


def _goes_on(digits: int) -> Content:
    """What stands before the rest of a line that was too long."""
    return Content.styled(f"{'':>{digits}} ↪ ", "$muted")
