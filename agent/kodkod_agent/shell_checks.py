"""Where an editor's grammar and bash may part: what a reader of shell commands checks before it trusts its tree."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

from tree_sitter import Node

from kodkod_agent.shell_words import HIDDEN_EXPANSION

_DELIMITER = re.compile(r"(?P<quote>['\"]?)(?P<name>[A-Za-z_][A-Za-z_0-9]*)(?P=quote)")
_BETWEEN = re.compile(r"(?:[ \t\n]|\\\n)*")
_JOINED_LINES = re.compile(r"(?<![ \t])\\\n|\\\n[ \t]*#")


def joins_lines(source: bytes) -> bool:
    """Whether a line is continued in the middle of a word."""
    return _JOINED_LINES.search(source.decode()) is not None


def uncovered(source: bytes, root: Node) -> list[str]:
    """Doubts, where anything but white space lies between the leaves, or behind the last."""
    end, doubts = 0, []
    for leaf in _leaves(root):
        if not _is_blank(source[end : leaf.start_byte]):
            doubts.append("a part of it cannot be parsed")
        end = max(end, leaf.end_byte)
    if not _is_blank(source[end:]):
        doubts.append("its end cannot be parsed")
    return doubts


def ends_inside(source: bytes, node: Node) -> bool:
    """Whether a line ends between two parts of a node."""
    gaps = (source[left.end_byte : right.start_byte] for left, right in pairwise(node.children))
    return any(b"\n" in gap.replace(b"\\\n", b"") for gap in gaps)


def is_odd_substitution(text: str) -> bool:
    """Whether bash may take it for arithmetic, or takes the backslashes in it away first."""
    return text.startswith("$((") or (text.startswith("`") and "\\" in text)


def heredoc_is_sure(source: bytes, node: Node) -> bool:
    """Whether the text ends where bash ends it, at the first line that is the delimiter, and hides no command."""
    if _is_substituted(node):
        return False  # bash prints what it substitutes and reads it again, and may lose the end of a command then
    named = {child.type: child for child in node.children}
    start, end = named.get("heredoc_start"), named.get("heredoc_end")
    delimiter = _DELIMITER.fullmatch(_text(source, start)) if start else None
    if start is None or end is None or delimiter is None or _text(source, node).count("<<") > 1:
        return False
    first = source.find(b"\n", start.end_byte) + 1
    at, line = _line_of(source, first, delimiter["name"], strips_tabs="<<-" in named)
    body = source[first:at].decode()
    expands = not delimiter["quote"] and (HIDDEN_EXPANSION.search(body) or "\\\n" in body)
    return at <= end.start_byte <= at + len(line) and not expands


def _is_substituted(node: Node) -> bool:
    above = node.parent
    while above is not None and not above.type.endswith("_substitution"):
        above = above.parent
    return above is not None


def _line_of(source: bytes, first: int, name: str, *, strips_tabs: bool) -> tuple[int, str]:
    """Where the first line from `first` on begins that is the delimiter, and that line; the end, and the last line."""
    at, line = first, ""
    for line in source[first:].decode().split("\n"):
        if (line.lstrip("\t") if strips_tabs else line) == name:
            break
        at += len(line.encode()) + 1
    return at, line


def _text(source: bytes, node: Node) -> str:
    return source[node.start_byte : node.end_byte].decode()


def _is_blank(gap: bytes) -> bool:
    return _BETWEEN.fullmatch(gap.decode("utf-8", "replace")) is not None


def _leaves(node: Node) -> Iterator[Node]:
    """The leaves from left to right, without recursion."""
    waiting = [node]
    while waiting:
        current = waiting.pop()
        if current.child_count and current.type not in ("heredoc_body", "string"):
            waiting += reversed(current.children)
        else:
            yield current
