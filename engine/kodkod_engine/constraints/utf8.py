"""UTF-8 as an automaton over bytes: which byte sequences are whole characters, and which are on the way to some.

Plain functions, which `vocabulary` compiles.
"""

from __future__ import annotations

BETWEEN = 0
"""Between characters. States 1 to 3 lack so many bytes; 4 to 7 are behind a first byte that restricts the second."""
NOWHERE = -1


def step(state: int, byte: int) -> int:
    """The state behind one more byte; NOWHERE when no character goes on so."""
    if state == BETWEEN:
        if byte < 0x80:
            return BETWEEN
        if 0xC2 <= byte <= 0xDF:
            return 1
        if 0xE0 <= byte <= 0xEF:
            return 4 if byte == 0xE0 else 5 if byte == 0xED else 2
        if 0xF0 <= byte <= 0xF4:
            return 6 if byte == 0xF0 else 7 if byte == 0xF4 else 3
        return NOWHERE
    low = 0xA0 if state == 4 else 0x90 if state == 6 else 0x80
    high = 0x9F if state == 5 else 0x8F if state == 7 else 0xBF
    if not low <= byte <= high:
        return NOWHERE
    return state - 1 if state <= 3 else 1 if state <= 5 else 2


def advance(state: int, data: bytes) -> int:
    """The state behind some bytes."""
    if state == BETWEEN and data.isascii():
        return BETWEEN
    for byte in data:
        state = step(state, byte)
        if state == NOWHERE:
            break
    return state


def missing(state: int) -> int:
    """How many bytes the character lacks."""
    return state if state <= 3 else 2 if state <= 5 else 3


def is_control(byte: int) -> bool:
    """Whether a byte is a control character of ASCII other than line feed and tab."""
    return (byte < 0x20 and byte not in (0x0A, 0x09)) or byte == 0x7F
