"""What stands in one paragraph: emphasis, code, links. Text in, styled text out; nothing of it is markup to Textual."""

from __future__ import annotations

import re
from collections.abc import Sequence

from markdown_it.tree import SyntaxTreeNode
from textual.content import Content, Span
from textual.style import Style

_SPACES = re.compile(r"\s+")
_BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)
_STYLES = {"em": "italic", "strong": "bold", "s": "strike"}
CODE = ".prose--code"
"""The look of code in a line, as the widget's style sheet has it."""


def inline(node: SyntaxTreeNode) -> Content:
    """The content of an `inline` node, or of all those in a node."""
    writer = _Writer()
    writer.write(node.children if node.type == "inline" else [one for one in node.walk() if one.type == "inline"])
    return Content("".join(writer.texts), writer.spans)


class _Writer:
    """Text, and the stretches of it that look otherwise."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.spans: list[Span] = []
        self._length = 0

    def write(self, nodes: Sequence[SyntaxTreeNode]) -> None:
        """Append nodes, one after another."""
        for node in nodes:
            start = self._length
            if node.type == "image" or not node.children:
                self._add(_text(node))
            else:
                self.write(node.children)
            if (style := _style(node)) is not None and self._length > start:
                self.spans.append(Span(start, self._length, style))

    def _add(self, text: str) -> None:
        self.texts.append(text)
        self._length += len(text)


def _text(node: SyntaxTreeNode) -> str:
    match node.type:
        case "text":
            return _SPACES.sub(" ", node.content)
        case "softbreak":
            return " "
        case "hardbreak":
            return "\n"
        case "image":
            return f"🖼  {node.content or node.attrs.get('src', '')}"
        case "html_inline" if _BREAK.fullmatch(node.content):
            return "\n"
        case _:
            return node.content


def _style(node: SyntaxTreeNode) -> Style | str | None:
    match node.type:
        case "code_inline":
            return CODE
        case "link" | "image":
            target = str(node.attrs.get("href" if node.type == "link" else "src", ""))
            return Style.from_meta({"@click": f"link({target!r})"})
        case kind:
            return _STYLES.get(kind)
