"""What a person may be shown of text that a model or a tool wrote."""

from __future__ import annotations

import re

from kodkod_engine.chat.surrogates import without_lone_surrogates

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""C0, C1, line separators, and the signs that turn the direction of writing, which can make code read as it is not."""


def for_terminal(text: str) -> str:
    """Text with its control characters made visible, so that no escape sequence reaches the terminal.

    Line feeds and tabs stay.
    """
    return _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text)


def one_line(text: str, max_chars: int) -> str:
    """Text of any origin on one line of bounded length, without control characters."""
    text = for_terminal(without_lone_surrogates(text[: max_chars + 1].replace("\n", " ").replace("\t", " ")))
    return text if len(text) <= max_chars else text[: max_chars - 1] + "\N{HORIZONTAL ELLIPSIS}"
