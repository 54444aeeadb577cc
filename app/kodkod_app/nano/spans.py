"""Edits of one line as nano writes them: the shortest run of pre-tokens that differs.

A pre-token is what the tokenizer's byte-pair merges never cross. The expression is matched from left to right and looks
behind nothing, so a run of whole pre-tokens splits alone just as it splits inside its line, and has the same token ids.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

PRE_TOKEN = (
    r" {2,}|\t+"
    r"|[0-9]{1,3}(?=(?:[0-9]{3})*(?![0-9]))"
    r"| ?[A-Za-z_][A-Za-z0-9_]*"
    r"| ?(?:\*\*=|//=|>>=|<<=|\*\*|//|>>|<<|==|!=|<=|>=|->|:=|\+=|-=|\*=|/=|%=|@=|&=|\|=|\^=|[-+*/%@&|^~<>=])"
    r"| ?(?:\"\"\"|'''|[()\[\]{},:;.'\"`#\\?$!])"
    r"| ?[^\x00-\x7f]+"
    r"|\n|[\x00-\x7f]"
)
"""In the dialect that Python's `re` and the tokenizers library share, with ASCII classes: both read it alike.

Runs of spaces; digits by threes from the right; names, operators, marks and foreign text, each with at most one space
before it; anything else byte by byte.
"""

_PRE_TOKEN = re.compile(PRE_TOKEN)


class EditDoesNotApply(ValueError):
    """The line is not there, or `old` does not stand on it exactly once."""


@dataclass(frozen=True, slots=True)
class Edit:
    """`old` occurs exactly once on line `line` (from 1); it may go on into the lines after."""

    line: int
    old: str
    new: str


def pre_tokens(text: str) -> list[str]:
    """The pieces, which together are the text."""
    return _PRE_TOKEN.findall(text)


def edit_between(line: int, before: str, after: str) -> Edit:
    """The edit that makes one line of text into another, or into several.

    Where `after` has more lines than the one, `old` is the whole line without its indentation: a statement is put in
    behind it.

    Raises:
        ValueError: the two are the same, or an empty line is to change.
    """
    if before == after or not before.strip():
        raise ValueError("an edit needs a line with text, and a change")
    old, new = pre_tokens(before), pre_tokens(after)
    if "\n" in after:
        start = len(before) - len(before.lstrip())
        return Edit(line, before[start:], after[start:])
    first, last = _differing(old, new)
    first, last = _widened(before, old, first, last)
    kept_behind = len(old) - last
    return Edit(line, "".join(old[first:last]), "".join(new[first : len(new) - kept_behind]))


def applied(source: str, edit: Edit) -> str:
    """The source with the edit made.

    Raises:
        EditDoesNotApply: see there.
    """
    start = _line_start(source, edit.line)
    end = source.find("\n", start)
    at = _only_place(source, edit.old, start, len(source) if end < 0 else end)
    return source[:at] + edit.new + source[at + len(edit.old) :]


def _differing(old: list[str], new: list[str]) -> tuple[int, int]:
    """First and end of the run of `old` that is not in `new`: after the common head, before the common tail."""
    shorter = min(len(old), len(new))
    head = next((i for i in range(shorter) if old[i] != new[i]), shorter)
    tail = next((i for i in range(shorter - head) if old[-1 - i] != new[-1 - i]), shorter - head)
    return head, len(old) - tail


def _widened(line: str, pieces: list[str], first: int, last: int) -> tuple[int, int]:
    """To the right, then to the left, until the run stands once on the line."""
    while not _once(line, "".join(pieces[first:last])):
        if last < len(pieces):
            last += 1
        else:
            first -= 1
    return first, last


def _once(line: str, text: str) -> bool:
    at = line.find(text)
    return bool(text) and at >= 0 and line.find(text, at + 1) < 0


def _line_start(source: str, line: int) -> int:
    start = 0
    for _ in range(line - 1):
        start = source.find("\n", start) + 1
        if not start:
            raise EditDoesNotApply(f"there is no line {line}")
    return start


def _only_place(source: str, old: str, start: int, end: int) -> int:
    """Where `old` begins between the two offsets."""
    at = source.find(old, start) if old else -1
    if not start <= at < end:
        raise EditDoesNotApply(f"{old!r} is not on the line")
    if start <= source.find(old, at + 1) < end:
        raise EditDoesNotApply(f"{old!r} stands more than once on the line")
    return at
