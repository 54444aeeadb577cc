"""A stranger's text, before it is told to anybody."""

from __future__ import annotations

import re

from kodkod_tools.text.truncate import plain

_UNSEEN = re.compile(
    "[\u061c\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\u115f\u1160\u3164\uffa0\U000e0000-\U000e007f\U000e0100-\U000e01ef]"
)
"""Marks that hide what a person is shown, or turn it round."""


def cleaned(text: str) -> str:
    """Text without escape sequences, control characters, marks that are not seen, and lone surrogates."""
    return _UNSEEN.sub("", plain(text)).encode("utf-8", "replace").decode("utf-8")


def one_line(text: object, max_chars: int = 300) -> str:
    """The same on one line, cut."""
    line = " ".join(cleaned(str(text)).split())
    return line if len(line) <= max_chars else f"{line[: max_chars - 1]}…"
