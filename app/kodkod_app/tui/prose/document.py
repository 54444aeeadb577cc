"""Markdown that may still be growing: what is finished is parsed, laid out and drawn once."""

from __future__ import annotations

from dataclasses import replace

from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode
from textual.content import Content

from kodkod_app.tui.prose.blocks import Highlight, Setting, gap_between, lines_of
from kodkod_app.tui.prose.flow import Flow
from kodkod_app.tui.prose.line import Line, wrapped

MAX_CHARS = 60_000
"""A longer text is not parsed any further, and shown as it was written: it would hold the screen up."""
_LONG_BLOCK_CHARS = 4_000
_LONG_BLOCK_SHARE = 16
"""A block that is longer is parsed anew when a sixteenth of it is new: all in all a few times, not at every token."""
_BLANK = Line(Content(""))


class Block:
    """One block, laid out once per width."""

    def __init__(self, node: SyntaxTreeNode, before: SyntaxTreeNode | None, *, is_growing: bool) -> None:
        self.node = node
        self.is_growing = is_growing
        self._has_gap = before is not None and gap_between(before, node)
        self._laid_out: tuple[int, Setting | None] = (-1, None)
        self._lines: list[Line] = []

    def take_over(self, before: Block) -> None:
        """Be what another grew to: of its lines, those that are the same still are the same objects."""
        self._lines = before._lines

    def lines(self, width: int, highlight: Highlight) -> list[Line]:
        """The same objects, as long as width and colours are the same."""
        setting = Setting(highlight, self.is_growing)
        if (width, setting) != self._laid_out:
            self._laid_out = width, setting
            lines = [*([Line(Content(""))] if self._has_gap else []), *lines_of(self.node, width, setting)]
            self._lines = kept(self._lines, lines)
        return self._lines


def kept(before: list[Line], lines: list[Line]) -> list[Line]:
    """Lines, with those that were there before at the same place as the objects they were."""
    return [
        before[place] if place < len(before) and is_same(before[place], line) else line
        for place, line in enumerate(lines)
    ]


def is_same(one: Line, other: Line) -> bool:
    """Whether two lines are the same in all that is seen and copied."""
    return (one.joint, one.margin) == (other.joint, other.margin) and one.content.is_same(other.content)


class Document(Flow):
    """Prose with thinking before it."""

    def __init__(self, text: str = "", reasoning: str = "") -> None:
        super().__init__()
        self._parser = MarkdownIt("gfm-like")
        self._done: list[Block] = []
        """Blocks that nothing that comes can change."""
        self._growing: list[Block] = []
        """The last one, and what an unfinished line adds to it: parsed anew with what comes."""
        self._tail = ""
        """The source of the last block, and of what has not been parsed yet."""
        self._num_parsed = 0
        """Characters of the tail."""
        self._num_chars = 0
        self._reasoning = reasoning
        self._thought: tuple[int, str, list[Line]] = (-1, "", [])
        self.has_links = False
        self.append(text, is_last=True)

    @property
    def num_chars(self) -> int:
        """Characters of the text so far."""
        return self._num_chars

    def append(self, text: str, *, is_last: bool = False) -> None:
        """Let the text go on. What comes is parsed at once, unless it goes on a very long block and more will come."""
        self._num_chars += len(text)
        self._tail += text
        unparsed = len(self._tail) - self._num_parsed
        if self._num_chars <= MAX_CHARS and (is_last or (unparsed and self._is_worth_it(unparsed))):
            self._parse(is_last)

    def _is_worth_it(self, unparsed: int) -> bool:
        is_code = len(self._growing) == 1 and self._growing[0].node.type == "fence"
        return is_code or unparsed * _LONG_BLOCK_SHARE >= len(self._tail) or len(self._tail) <= _LONG_BLOCK_CHARS

    def think(self, reasoning: str) -> None:
        """Thinking that is shown before the text; it replaces what was there."""
        self._reasoning = reasoning

    def _parse(self, is_last: bool) -> None:
        nodes = SyntaxTreeNode(self._parser.parse(self._tail)).children
        self.has_links = self.has_links or any(one.type in ("link", "image") for node in nodes for one in node.walk())
        before = self._done[-1].node if self._done else None
        blocks: list[Block] = []
        for node in nodes:
            blocks.append(Block(node, before, is_growing=not is_last))
            before = node
        for block, was in zip(blocks, self._growing, strict=False):
            block.take_over(was)
        self._growing = blocks
        self._settle()
        self._num_parsed = len(self._tail)

    def _settle(self) -> None:
        """Blocks are done when another begins after them. A line that is not whole may yet turn out to be theirs."""
        whole_lines = self._tail.count("\n")
        starts = [block.node.map[0] if block.node.map else 0 for block in self._growing]
        last = max((number for number, start in enumerate(starts) if start < whole_lines), default=0)
        if last:
            for block in self._growing[:last]:
                block.is_growing = False
            self._done += self._growing[:last]
            self._growing = self._growing[last:]
            self._tail = "\n".join(self._tail.split("\n")[starts[last] :])

    def lines(self, width: int) -> list[Line]:
        """Thinking, a free line, the blocks, and what has not been parsed as it was written."""
        lines = self._thinking(width)
        for block in (*self._done, *self._growing):
            lines += block.lines(width, self.look.code)
        if self._num_parsed < len(self._tail):
            lines += self._rest(lines.pop() if lines else _BLANK, width)
        return lines

    def _rest(self, last: Line, width: int) -> list[Line]:
        """The last line, and after it what has not been parsed."""
        text = self._tail[self._num_parsed :].rstrip("\n")
        gap = " " if self._tail[self._num_parsed - 1 : self._num_parsed].isspace() else ""
        first, *more = wrapped(last.content + gap + text, width)
        return [replace(first, joint=last.joint, margin=last.margin), *more]

    def _thinking(self, width: int) -> list[Line]:
        if not self._reasoning:
            return []
        if self._thought[:2] != (width, self._reasoning):
            lines = wrapped(Content.styled(self._reasoning, "italic $muted"), width)
            self._thought = width, self._reasoning, kept(self._thought[2], lines)
        return [*self._thought[2], _BLANK] if self._num_chars else [*self._thought[2]]
