"""A table in a frame: columns as wide as they need, narrower where they do not fit, their cells wrapped."""

from __future__ import annotations

from collections.abc import Sequence

from markdown_it.tree import SyntaxTreeNode
from textual.content import Content

from kodkod_app.tui.prose.inline import inline
from kodkod_app.tui.prose.line import Line, wrapped

_MIN_CELLS = 3
_FRAME = "$foreground 25%"
_ALIGN = {"text-align:right": "right", "text-align:center": "center"}

Row = list[list[Content]]
"""Cells, each a list of lines."""


def table(node: SyntaxTreeNode, width: int) -> list[Line]:
    """Lay a table out: its head in bold, a rule below it, and between rows where one has more than a line."""
    cells = [[inline(cell) for cell in row.children] for part in node.children for row in part.children]
    aligns = [_align(cell) for cell in node.children[0].children[0].children]
    widths = fitted([_widest(column) for column in zip(*cells, strict=True)], width - 3 * len(aligns) - 1)
    rows = [[_lines(cell, size) for cell, size in zip(row, widths, strict=True)] for row in cells]
    rows[0] = [[line.stylize("bold $primary") for line in cell] for cell in rows[0]]
    is_ruled = any(len(cell) > 1 for row in rows[1:] for cell in row)
    lines = [_rule("╭┬╮", widths)]
    for number, row in enumerate(rows):
        lines += _drawn(row, widths, aligns)
        if number == 0 or (is_ruled and number < len(rows) - 1):
            lines.append(_rule("├┼┤", widths))
    lines = lines[:-1] if len(rows) == 1 else lines
    return [Line(line) for line in (*lines, _rule("╰┴╯", widths))]


def fitted(wanted: Sequence[int], room: int) -> list[int]:
    """Widths of columns that want so much and have so much room: the widest give way first."""
    widths = [max(_MIN_CELLS, one) for one in wanted]
    while sum(widths) > max(room, _MIN_CELLS * len(widths)):
        widest = max(widths)
        second = max((one for one in widths if one < widest), default=_MIN_CELLS)
        giving = [number for number, one in enumerate(widths) if one == widest]
        each = max(1, min(widest - second, -(-(sum(widths) - room) // len(giving))))
        for number in giving:
            widths[number] = max(_MIN_CELLS, widest - each)
    return widths


def _align(cell: SyntaxTreeNode) -> str:
    return _ALIGN.get(str(cell.attrs.get("style", "")), "left")


def _widest(column: Sequence[Content]) -> int:
    return max(line.cell_length for cell in column for line in cell.split("\n", allow_blank=True))


def _lines(cell: Content, width: int) -> list[Content]:
    return [line.content for line in wrapped(cell, width)]


def _drawn(row: Row, widths: Sequence[int], aligns: Sequence[str]) -> list[Content]:
    bar = Content.styled("│", _FRAME)
    height = max(map(len, row))
    drawn = []
    for number in range(height):
        parts: list[Content | str] = [bar]
        for cell, width, align in zip(row, widths, aligns, strict=True):
            line = cell[number] if number < len(cell) else Content("")
            parts += [" ", _aligned(line, width, align), " ", bar]
        drawn.append(Content("").join(parts))
    return drawn


def _aligned(line: Content, width: int, align: str) -> Content:
    missing = max(0, width - line.cell_length)
    before = {"left": 0, "right": missing, "center": missing // 2}[align]
    return line.pad(before, missing - before) if missing else line


def _rule(corners: str, widths: Sequence[int]) -> Content:
    left, middle, right = tuple(corners)
    return Content.styled(left + middle.join("─" * (width + 2) for width in widths) + right, _FRAME)
