"""Lines of text with their numbers, and a window on a file of any size without holding it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import BinaryIO

from kodkod_tools.text.truncate import cut_line

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Window:
    """Some lines of a file, as bytes without their line feeds, and how many there are in all."""

    lines: tuple[bytes, ...]
    dropped_bytes: tuple[int, ...]
    """For each line, what was left out of its end because it was too long."""
    total_lines: int


def split(text: str) -> list[str]:
    r"""The lines of `text` without their ends: `\n`, and each `\r` before it. No empty last line."""
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    return [line.rstrip("\r") for line in lines]


def with_ends(text: str) -> list[str]:
    r"""The lines of `text`, each with its `\n`; the last one may lack it."""
    lines = text.split("\n")
    return [f"{line}\n" for line in lines[:-1]] + [line for line in lines[-1:] if line]


def numbered(lines: Iterable[str], first: int, max_line_chars: int) -> str:
    """Each line as `12|text`, long ones cut."""
    return "\n".join(f"{number}|{cut_line(line, max_line_chars)}" for number, line in enumerate(lines, first))


def line_of(text: str, offset: int) -> int:
    """The 1-based number of the line that holds `offset`."""
    return text.count("\n", 0, offset) + 1


def line_span(text: str, line: int) -> tuple[int, int]:
    """The offsets of a 1-based line's first character and of its line feed (or the end); (size, size) beyond."""
    start = 0
    for _ in range(line - 1):
        start = text.find("\n", start) + 1
        if not start:
            return len(text), len(text)
    end = text.find("\n", start)
    return start, len(text) if end < 0 else end


def read_window(file: BinaryIO, start: int, count: int, max_line_bytes: int) -> Window:
    """Lines `start` to `start + count - 1` (1-based) of a seekable file; memory stays at about the window's size.

    The whole file is read once, in chunks, to count its lines; no line is held beyond `max_line_bytes`.
    """
    ends = _skip_ends(file, start - 1)
    lines: list[bytes] = []
    dropped: list[int] = []
    while len(lines) < count and (line := file.readline(max_line_bytes + 2)):
        more, ended = (0, True) if line.endswith(b"\n") else _finish_line(file)
        content = line.removesuffix(b"\n").rstrip(b"\r")
        lines.append(content[:max_line_bytes])
        dropped.append(len(content[max_line_bytes:]) + more)
        ends += ended
    while chunk := file.read(_CHUNK_BYTES):
        ends += chunk.count(b"\n")
    return Window(tuple(lines), tuple(dropped), ends + _last_line_is_open(file))


def _skip_ends(file: BinaryIO, wanted: int) -> int:
    """Move behind the `wanted`-th line end; how many there were, when fewer."""
    seen = 0
    while seen < wanted and (chunk := file.read(_CHUNK_BYTES)):
        here = chunk.count(b"\n")
        if seen + here < wanted:
            seen += here
            continue
        position = -1
        while seen < wanted:
            position = chunk.index(b"\n", position + 1)
            seen += 1
        file.seek(position + 1 - len(chunk), 1)
    return seen


def _finish_line(file: BinaryIO) -> tuple[int, bool]:
    """Read to the end of the line begun: the bytes passed over, and whether a line feed ended it."""
    passed = 0
    while piece := file.readline(_CHUNK_BYTES):
        passed += len(piece)
        if piece.endswith(b"\n"):
            return passed - 1, True
    return passed, False


def _last_line_is_open(file: BinaryIO) -> bool:
    """Whether the last line lacks its line feed; leaves the position at the end."""
    if file.seek(0, 2) == 0:
        return False
    file.seek(-1, 2)
    return file.read(1) != b"\n"
