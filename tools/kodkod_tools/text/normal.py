"""Normal forms of text with the way back: which stretch of the original a stretch of the normal form stands for.

A request that misses by something invisible (a line ending, trailing white space, a curly quotation mark) matches in a
normal form in which both agree; the match is then read back as offsets of the original.
"""

from __future__ import annotations

import re
import unicodedata
from array import array
from dataclasses import dataclass

LINE_END = re.compile(r"(\r*\n)")
r"""`\n`, `\r\n`, and `\r\r\n`, which a conversion done twice leaves."""
_TRAILING = re.compile(r"[ \t\f\v]+(?=\r?\n|\Z)")
_LOOK_ALIKES = {
    **dict.fromkeys("‘’‚‛′＇´", "'"),
    **dict.fromkeys("“”„‟″＂", '"'),
    **dict.fromkeys("‐‑‒–—―−﹣－", "-"),
    **dict.fromkeys(
        "\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000", " "
    ),
    **dict.fromkeys("\u00ad\u200b\u200c\u200d\u2060\ufeff", ""),
    "…": "...",
    "→": "->",
    "⇒": "=>",
    "≤": "<=",
    "≥": ">=",
    "≠": "!=",
}
"""Signs that a reader, or a model, takes for their plain spelling."""


@dataclass(frozen=True, slots=True)
class Normal:
    """A normal form. `starts[i]` is the original offset at which character `i` begins, `ends[i]` where it stops."""

    text: str
    starts: array[int]
    ends: array[int]
    size: int
    """Characters of the original."""

    def original(self, start: int, end: int) -> tuple[int, int]:
        """The original stretch for the normal `start:end`."""
        if start == end:
            at = self.starts[start] if start < len(self.starts) else self.size
            return at, at
        return self.starts[start], self.ends[end - 1]


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch `start:end` of the original that reads `text` in the normal form."""

    start: int
    end: int
    text: str


def identity(text: str) -> Normal:
    """The text itself."""
    return Normal(text, array("I", range(len(text))), array("I", range(1, len(text) + 1)), len(text))


def rewrite(base: Normal, pieces: list[Piece]) -> Normal:
    """`base` with some stretches (ordered, apart, in `base`'s offsets) written differently."""
    text: list[str] = []
    starts, ends = array("I"), array("I")
    position = 0
    for piece in [*pieces, Piece(len(base.text), len(base.text), "")]:
        text.append(base.text[position : piece.start])
        starts += base.starts[position : piece.start]
        ends += base.ends[position : piece.start]
        low, high = base.original(piece.start, piece.end)
        text.append(piece.text)
        starts.extend([low] * len(piece.text))
        ends.extend([high] * len(piece.text))
        position = piece.end
    return Normal("".join(text), starts, ends, base.size)


def line_ends(base: Normal) -> Normal:
    r"""Every line end as `\n`."""
    return rewrite(base, [Piece(found.start(), found.end(), "\n") for found in LINE_END.finditer(base.text)])


def trailing_space(base: Normal) -> Normal:
    """No white space before line ends, nor before the end of the text."""
    return rewrite(base, [Piece(found.start(), found.end(), "") for found in _TRAILING.finditer(base.text)])


def look_alikes(base: Normal) -> Normal:
    """Typographic signs in their plain spelling, invisible ones gone, accents composed."""
    pieces: list[Piece] = []
    for start, end in _clusters(base.text):
        cluster = base.text[start:end]
        normal = "".join(_LOOK_ALIKES.get(sign, sign) for sign in unicodedata.normalize("NFC", cluster))
        if normal != cluster:
            pieces.append(Piece(start, end, normal))
    return rewrite(base, pieces)


def _clusters(text: str) -> list[tuple[int, int]]:
    """Stretches worth a look: each sign outside ASCII, with its combining marks and the sign they sit on."""
    found: list[tuple[int, int]] = []
    for match in re.finditer(r"[^\x00-\x7f]", text):
        at = match.start()
        joins = bool(unicodedata.combining(text[at])) and at > 0
        start = at - 1 if joins else at
        if found and start < found[-1][1]:
            found[-1] = (found[-1][0], at + 1)
        else:
            found.append((start, at + 1))
    return found
