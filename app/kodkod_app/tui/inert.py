"""Text that models, tools and files wrote, made safe to show: nothing in it is a command to the terminal.

Control characters become their pictures (`␛`), directions and other invisible marks become `�`, lone surrogates too;
markup stays as it stands, for whoever shows it takes it as plain text.
"""

from __future__ import annotations

import re

from kodkod_app import unseen

MAX_LINE_CHARS = 2_000
"""Longest line that is shown; the rest of it is counted."""

_UNSEEN = re.compile(f"[{unseen.CONTROLS}{unseen.MARKS}{unseen.EMPTY}{unseen.SURROGATES}]")
_LINE_END = re.compile("\r\n")
_TAB = "    "


def inert(text: str) -> str:
    """Lines of text that can be shown."""
    return visible(text).replace("\t", _TAB)


def visible(text: str) -> str:
    """Lines of text in which nothing is hidden; tabs stay tabs, for more is done with it than showing it."""
    return _UNSEEN.sub(_picture, _LINE_END.sub("\n", text))


def inert_line(text: str, max_chars: int = MAX_LINE_CHARS) -> str:
    """One line that can be shown: line feeds too become pictures, and what is longer is cut."""
    # Twice as much as is wanted, for two characters may become one: a very long line costs no more than another.
    line = inert(text[: 2 * max_chars + 2]).replace("\n", "\N{SYMBOL FOR NEWLINE}")
    return line if len(line) <= max_chars else f"{line[: max_chars - 1]}…"


def cut_lines(text: str, max_chars: int = MAX_LINE_CHARS) -> str:
    """Text whose overlong lines are cut, with the number of characters left out."""
    if len(text) <= max_chars:
        return text
    return "\n".join(_cut(line, max_chars) for line in text.split("\n"))


def beginning(text: str, max_lines: int, max_chars: int) -> str:
    """The first lines of a text that is too long, and how much more there is."""
    lines = text.split("\n", max_lines)
    shown = "\n".join(lines[:max_lines])[:max_chars]
    return text if len(shown) == len(text) else f"{shown}\n… [{len(text) - len(shown):,} more characters]"


def _cut(line: str, max_chars: int) -> str:
    more = len(line) - max_chars
    return line if more <= 0 else f"{line[:max_chars]}… [{more:,} more characters]"


def _picture(found: re.Match[str]) -> str:
    code = ord(found.group())
    if code < 0x20:
        return chr(0x2400 + code)
    return "\N{SYMBOL FOR DELETE}" if code == 0x7F else "\N{REPLACEMENT CHARACTER}"
