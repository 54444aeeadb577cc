"""What a person may be shown of text that a model or a tool wrote."""

from __future__ import annotations

import re

from kodkod_app import unseen
from kodkod_engine.chat.surrogates import without_lone_surrogates

_UNSEEN = re.compile(f"[{unseen.CONTROLS}{unseen.MARKS}{unseen.EMPTY}]")


def for_terminal(text: str) -> str:
    """Text with its control characters and what is not seen made visible: no escape sequence reaches the terminal.

    Line feeds and tabs stay.
    """
    return _UNSEEN.sub("\N{REPLACEMENT CHARACTER}", text)


def one_line(text: str, max_chars: int) -> str:
    """Text of any origin on one line of bounded length, without control characters."""
    text = for_terminal(without_lone_surrogates(text[: max_chars + 1].replace("\n", " ").replace("\t", " ")))
    return text if len(text) <= max_chars else text[: max_chars - 1] + "\N{HORIZONTAL ELLIPSIS}"


def counted(count: int, noun: str) -> str:
    """`1 step`, `2 steps`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
