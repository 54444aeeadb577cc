"""Paragraphs, headings, lists, quotes, code, tables: a block of Markdown as lines of a given width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from markdown_it.tree import SyntaxTreeNode
from textual.content import Content
from textual.highlight import HighlightTheme, highlight

from kodkod_app.tui.prose.inline import inline
from kodkod_app.tui.prose.line import Line, filled, folded, indented, wrapped
from kodkod_app.tui.prose.table import table

BULLETS = ("• ", "▪ ", "‣ ", "⭑ ", "◦ ")
"""By depth, and round again."""
CODE_PADDING = 2
FENCE, QUOTE, BAR, MARK = ".prose--fence", ".prose--quote", ".prose--bar", ".prose--mark"
"""Looks, as the widget's style sheet has them."""
_BLANK = Content("")
MAX_CODE_LINES = 400
"""Lines of one block of code that are coloured; of a longer one none is, for that would hold the screen up."""

_STRETCH = 40
"""Lines of code that still grows, coloured at once."""

Highlight = type[HighlightTheme]


@dataclass(frozen=True, slots=True)
class Setting:
    """What a block is laid out for, beside the width."""

    highlight: Highlight
    """How code is coloured."""
    is_growing: bool = False
    """More of it may come."""


def lines_of(node: SyntaxTreeNode, width: int, setting: Setting, depth: int = 0) -> list[Line]:
    """Lay a block out.

    Args:
        width: cells; a narrower block than its marks need is drawn all the same, and cut by the screen.
        setting: what it is laid out for, beside the width.
        depth: of bullet lists around it.
    """
    match node.type:
        case "paragraph":
            return wrapped(inline(node), width)
        case "heading":
            return wrapped(inline(node).stylize("bold $primary"), width)
        case "bullet_list" | "ordered_list":
            return _list(node, width, setting, depth)
        case "blockquote":
            return _quote(node, width, setting, depth)
        case "fence" | "code_block":
            return code(node.content.rstrip("\n"), node.info.partition(" ")[0], width, setting)
        case "table":
            return table(node, width)
        case "hr":
            return [Line(Content.styled("─" * width, "$rule"))]
        case _:
            return _as_written(node, width)


def _as_written(node: SyntaxTreeNode, width: int) -> list[Line]:
    """HTML, and whatever else has no look of its own: nothing that was written is left out."""
    text = node.content if not node.children else "".join(one.content for one in node.walk())
    return wrapped(Content(text.rstrip("\n")), width)


def stacked(nodes: Sequence[SyntaxTreeNode], width: int, setting: Setting, depth: int) -> list[Line]:
    """Blocks one below another."""
    lines: list[Line] = []
    before: SyntaxTreeNode | None = None
    for node in nodes:
        if before is not None and gap_between(before, node):
            lines.append(Line(_BLANK))
        lines += lines_of(node, width, setting, depth)
        before = node
    return lines


def gap_between(before: SyntaxTreeNode, node: SyntaxTreeNode) -> bool:
    """Whether a line is left free: not below a heading, nor between the lines of a tight list."""
    return before.type != "heading" and not (_is_tight(before) and node.type != "fence")


def _is_tight(node: SyntaxTreeNode) -> bool:
    return node.type == "paragraph" and node.hidden


def _list(node: SyntaxTreeNode, width: int, setting: Setting, depth: int) -> list[Line]:
    items = node.children
    is_bulleted = node.type == "bullet_list"
    marks = [BULLETS[depth % len(BULLETS)]] * len(items) if is_bulleted else _numbers(node)
    lines: list[Line] = []
    for mark, item in zip(marks, items, strict=True):
        inside = stacked(item.children, width - len(mark), setting, depth + is_bulleted) or [Line(_BLANK)]
        lines += indented(inside, Content.styled(mark, MARK), Content(" " * len(mark)), is_text=True)
    return lines


def _numbers(node: SyntaxTreeNode) -> list[str]:
    start = int(node.attrs.get("start", 1))
    numbers = [f"{number}. " for number in range(start, start + len(node.children))]
    width = max(map(len, numbers)) + 1
    return [number.rjust(width) for number in numbers]


def _quote(node: SyntaxTreeNode, width: int, setting: Setting, depth: int) -> list[Line]:
    bar = Content.styled("▌ ", BAR)
    inside = stacked(node.children, width - len(bar) - 1, setting, depth)
    return [filled(line, width, QUOTE) for line in indented(inside, bar, bar, is_text=False)]


def code(text: str, language: str, width: int, setting: Setting) -> list[Line]:
    """Code on a ground of its own; lines that are too long go on below."""
    margin = Content(" " * CODE_PADDING)
    is_long = text.count("\n") >= MAX_CODE_LINES
    content = Content(text) if is_long or not language else _coloured(text, language, setting)
    inside = indented(folded(content, width - 2 * CODE_PADDING), margin, margin, is_text=False)
    empty = Line(_BLANK)
    return [filled(line, width, FENCE) for line in (empty, *inside, empty)]


def _coloured(text: str, language: str, setting: Setting) -> Content:
    """Coloured as a whole; while it grows stretch by stretch, of which the last alone is coloured anew."""
    if not setting.is_growing:
        return _coloured_stretch(text, language, setting.highlight)  # type: ignore[arg-type]  # a class has a hash
    rows = text.split("\n")
    stretches = ["\n".join(rows[first : first + _STRETCH]) for first in range(0, len(rows), _STRETCH)]
    coloured = (_coloured_stretch(one, language, setting.highlight) for one in stretches)  # type: ignore[arg-type]
    return Content("\n").join(list(coloured))


@lru_cache(maxsize=64)
def _coloured_stretch(text: str, language: str, theme: Highlight) -> Content:
    """Coloured, where that leaves the text as it is: a lexer may drop what it does not like."""
    content = highlight(text, language=language, theme=theme)
    return content if content.plain == text else Content(text)
