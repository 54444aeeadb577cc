"""Signs that a terminal obeys, or that are not seen: what stands before a person must not hold them."""

from __future__ import annotations

CONTROLS = "\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029"
"""C0 and C1 but for line feeds and tabs, and line ends that terminals do not know."""
MARKS = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
"""They turn the direction of writing, which can make code read as it is not."""
EMPTY = "\u200b\u2060-\u2065\ufeff\ufff9-\ufffb\u115f\u1160\u3164\uffa0\U000e0000-\U000e007f\U000e0100-\U000e01ef"
"""Without width or picture: spaces, fillers, annotations, tags and rare variations, in which words can be hidden."""
SURROGATES = "\ud800-\udfff"
"""Half characters, which no terminal can be sent."""
