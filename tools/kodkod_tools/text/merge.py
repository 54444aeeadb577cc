"""The new text of a tolerant match, in the file's own spelling wherever the request changes nothing."""

from __future__ import annotations

import bisect
import difflib
from collections.abc import Callable

from kodkod_tools.text.encoding import line_ending
from kodkod_tools.text.indent import Shift
from kodkod_tools.text.normal import LINE_END, Normal


def with_ending(text: str, start: int, end: int, new: str) -> str:
    r"""`new` with bare `\n` as `\r\n` where the lines around `start:end` end so, and `new` does not say otherwise."""
    if "\r\n" in new or "\n" not in new or local_ending(text, start, end) == "\n":
        return new
    return new.replace("\n", "\r\n")


def local_ending(text: str, start: int, end: int) -> str:
    """How the lines touched by `start:end` end; where none of them ends, how the text's lines do."""
    first = text.rfind("\n", 0, start) + 1
    stop = text.find("\n", max(start, end - 1))
    touched = text[first:] if stop < 0 else text[first : stop + 1]
    ending = line_ending(touched if "\n" in touched else text)
    return "\r\n" if ending == "\r\n" else "\n"


def merge(
    text: str, span: tuple[int, int], old: str, new: str, shift: Shift | None, normal_form: Callable[[str], Normal]
) -> str | None:
    """What to put in `text` at `span`, which reads as `old` but for white space and look-alikes.

    Lines that `new` shares with `old` stay as the file has them; of a changed line, its unchanged head and tail do. New
    lines take the file's indentation (`shift`) and line ending. None when an indentation cannot be carried over.
    """
    parts, ending = LINE_END.split(text[span[0] : span[1]]), local_ending(text, *span)
    there, ends = parts[::2], [*parts[1::2], ending]
    asked, wanted = _without_dropped_space(there, _lines(old), _lines(new))
    carry = shift.carry if shift else _as_it_is
    merged: list[tuple[str, str]] = []
    for tag, a0, a1, b0, b1 in difflib.SequenceMatcher(None, asked, wanted, autojunk=False).get_opcodes():
        if tag == "equal":
            merged += zip(there[a0:a1], ends[a0:a1], strict=True)
            continue
        paired = a1 - a0 == b1 - b0
        for offset in range(b1 - b0):
            line = carry(wanted[b0 + offset])
            if line is None:
                return None
            if paired and (before := carry(asked[a0 + offset])) is not None:
                line = _keep_unchanged(there[a0 + offset], before, line, normal_form)
            merged.append((line, ends[a0 + offset] if paired else ending))
    return _join(merged)


def _lines(text: str) -> list[str]:
    return LINE_END.split(text)[::2]


def _as_it_is(line: str) -> str | None:
    return line


def _join(lines: list[tuple[str, str]]) -> str:
    """Lines and their ends; behind the last one the text goes on with what ended the stretch."""
    return "".join(line + end for line, end in lines[:-1]) + "".join(line for line, _ in lines[-1:])


def _without_dropped_space(there: list[str], asked: list[str], wanted: list[str]) -> tuple[list[str], list[str]]:
    """White space at the very end of the quotation that the file does not have is not put in by the replacement."""
    tail = asked[-1][len(asked[-1].rstrip(" \t")) :]
    if not tail or there[-1].endswith(tail):
        return asked, wanted
    return [*asked[:-1], asked[-1].removesuffix(tail)], [*wanted[:-1], wanted[-1].removesuffix(tail)]


def _keep_unchanged(there: str, asked: str, wanted: str, normal_form: Callable[[str], Normal]) -> str:
    """`wanted`, with the head and tail it shares with `asked` as `there` spells them."""
    form, quoted = normal_form(there), normal_form(asked)
    if form.text != quoted.text:
        return wanted
    if asked == asked.rstrip():
        there = there.rstrip(" \t")  # trailing space that the request does not quote goes with the change
        form = normal_form(there)
    head = _common(asked, wanted)
    tail = _common(asked[head:][::-1], wanted[head:][::-1])
    low = bisect.bisect_right(quoted.ends, head)
    while low and not _is_border(form, low):
        low -= 1
    high = bisect.bisect_left(quoted.starts, len(asked) - tail)
    while high < len(form.text) and not _is_border(form, high):
        high += 1
    if low > high or not tail:
        high = len(form.text)
    kept_head = quoted.ends[low - 1] if low else 0
    kept_tail = quoted.starts[high] if high < len(quoted.text) else len(asked)
    start = form.ends[low - 1] if low else 0
    stop = form.starts[high] if high < len(form.text) else len(there)
    middle = wanted[kept_head : len(wanted) - (len(asked) - kept_tail)]
    return there[:start] + middle + there[stop:]


def _common(one: str, other: str) -> int:
    """How many characters both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def _is_border(form: Normal, at: int) -> bool:
    """Whether the characters before and at `at` stand for different characters of the original."""
    return at >= len(form.text) or form.starts[at] >= form.ends[at - 1]
