"""The view tool: a window on a file, or a folder's entries."""

from __future__ import annotations

import asyncio
import os
import stat
from typing import BinaryIO, Self

from pydantic import Field, model_validator

from kodkod_tools.base import Arguments, Effect, ErrorCode, ToolContext, ToolError, ToolResult, ToolStream
from kodkod_tools.config import ToolsConfig
from kodkod_tools.paths import Place, open_file, opened_folder, resolve_readable, system_error
from kodkod_tools.schema import declare
from kodkod_tools.text.encoding import SNIFFED_BYTES, UTF8, Encoding, NotText, decode, detect
from kodkod_tools.text.lines import Window, read_window, split
from kodkod_tools.text.truncate import cut_line

_AROUND = 30
"""Lines shown on either side of `around`."""


class ViewArguments(Arguments):
    """Which file and where."""

    path: str = Field(description="File or folder")
    start: int | None = Field(default=None, ge=1, description="First line")
    end: int | None = Field(default=None, ge=1, description="Last line")
    around: int | None = Field(default=None, ge=1, description="Instead of start and end: the lines around this one")

    @model_validator(mode="after")
    def _one_range(self) -> Self:
        if self.around is not None and (self.start is not None or self.end is not None):
            raise ValueError("give either around, or start and end")
        if self.start is not None and self.end is not None and self.end < self.start:
            raise ValueError(f"end ({self.end}) must not be before start ({self.start})")
        return self


class View:
    """Facts: `total_lines`, `first_line`, `last_line` of a file; `entries` of a folder."""

    effect = Effect.READS
    arguments = ViewArguments
    spec = declare("view", ViewArguments)

    async def run(self, arguments: ViewArguments, context: ToolContext) -> ToolStream:
        """Read in a thread: the disk may be slow and the file large."""
        yield await asyncio.to_thread(_view, arguments, context)


def _view(arguments: ViewArguments, context: ToolContext) -> ToolResult:
    place = resolve_readable(context, arguments.path)
    if place.absolute.is_dir():
        return _view_folder(place, context.config)
    try:
        descriptor = open_file(place)
    except OSError as error:
        raise system_error(place, error) from error
    with os.fdopen(descriptor, "rb") as file:
        return _view_file(place, file, arguments, context.config)


def _view_folder(place: Place, config: ToolsConfig) -> ToolResult:
    try:
        with opened_folder(place, place.parts) as folder, os.scandir(folder) as found:
            entries = [_entry(folder, name) for name in sorted(entry.name for entry in found)]
    except OSError as error:
        raise system_error(place, error) from error
    shown = entries[: config.max_entries]
    more = f"\n[{len(entries) - len(shown):,} more entries: use find]" if len(entries) > len(shown) else ""
    text = f"{place.relative}/ has {len(entries):,} entries\n" + "\n".join(shown) + more
    return ToolResult(text.rstrip("\n"), for_person=text.split("\n", 1)[0], facts={"entries": len(entries)})


def _entry(folder: int, name: str) -> str:
    status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if stat.S_ISDIR(status.st_mode):
        return f"{name}/"
    if stat.S_ISLNK(status.st_mode):
        return f"{name} -> {os.readlink(name, dir_fd=folder)}"
    return f"{name}  {status.st_size:,} bytes"


def _view_file(place: Place, file: BinaryIO, arguments: ViewArguments, config: ToolsConfig) -> ToolResult:
    size = os.fstat(file.fileno()).st_size
    try:
        # A file that can be edited is read as an edit reads it: what is shown can be quoted.
        sniffed = max(SNIFFED_BYTES, size if size <= config.max_edit_bytes else 0)
        encoding = detect(file.read(sniffed), whole=size <= sniffed)
    except NotText as error:
        raise ToolError(
            ErrorCode.BINARY, f"{place.relative} is a binary file of {size:,} bytes; use shell to look into it"
        ) from error
    start, count = _range(arguments, config.view_lines)
    file.seek(0)
    if encoding.codec.startswith("utf-16") or encoding.codec.startswith("utf-32"):
        window = _wide_window(place, file, start, count, config)
    else:
        window = _narrow_window(file, start, count, config)
        if start == 1 and encoding.mark and window.lines:
            window = Window(
                (window.lines[0].removeprefix(encoding.mark), *window.lines[1:]),
                window.dropped_bytes,
                window.total_lines,
            )
    return _told(place, encoding, start, window, config)


def _range(arguments: ViewArguments, most: int) -> tuple[int, int]:
    """First line and number of lines."""
    if arguments.around is not None:
        start = max(1, arguments.around - _AROUND)
        return start, min(most, arguments.around + _AROUND - start + 1)
    start = arguments.start or max(1, (arguments.end or most) - most + 1)
    return start, min(most, (arguments.end or start + most) - start + 1)


def _narrow_window(file: BinaryIO, start: int, count: int, config: ToolsConfig) -> Window:
    return read_window(file, start, count, 4 * config.max_line_chars)


def _wide_window(place: Place, file: BinaryIO, start: int, count: int, config: ToolsConfig) -> Window:
    """Of a file whose line feeds are not single bytes: read whole, up to a limit."""
    data = file.read(config.max_edit_bytes + 1)
    if len(data) > config.max_edit_bytes:
        raise ToolError(
            ErrorCode.TOO_LARGE,
            f"{place.relative} is UTF-16 or UTF-32 and too large to show; convert it with shell (iconv)",
        )
    try:
        text, _ = decode(data)
    except NotText as error:
        raise ToolError(ErrorCode.BINARY, f"{place.relative} is not valid text; use shell to look into it") from error
    lines = split(text)
    shown = tuple(line.encode("utf-8", "replace") for line in lines[start - 1 : start - 1 + count])
    return Window(shown, (0,) * len(shown), len(lines))


def _told(place: Place, encoding: Encoding, start: int, window: Window, config: ToolsConfig) -> ToolResult:
    last, total = start + len(window.lines) - 1, window.total_lines
    facts = {"total_lines": total, "first_line": start, "last_line": last}
    if not window.lines:
        if start > 1 and total < start:
            raise ToolError(ErrorCode.BAD_ARGUMENTS, f"start: {place.relative} has {total:,} lines only", **facts)
        return ToolResult(f"{place.relative} is empty", facts=facts)
    codec = "latin-1" if encoding.codec == "latin-1" else "utf-8"
    lines = [
        cut_line(_line(raw, more, codec, config), config.max_line_chars + 60)
        for raw, more in zip(window.lines, window.dropped_bytes, strict=True)
    ]
    body, fitting = _fit(lines, start, config.max_result_chars)
    last = start + fitting - 1
    head = f"{place.relative}, lines {start}-{last} of {total:,}{'' if encoding == UTF8 else f' ({encoding.name})'}"
    tail = f"\n[{total - last:,} more lines: view with start={last + 1}]" if last < total else ""
    return ToolResult(f"{head}\n{body}{tail}", for_person=head, facts={**facts, "last_line": last})


def _line(raw: bytes, dropped_bytes: int, codec: str, config: ToolsConfig) -> str:
    text = raw.decode(codec, "replace")
    if not dropped_bytes:
        return text
    return f"{text[: config.max_line_chars]}… [{dropped_bytes + len(raw):,} bytes in this line]"


def _fit(lines: list[str], start: int, max_chars: int) -> tuple[str, int]:
    """As many of the lines, numbered, as fit; at least one."""
    shown: list[str] = []
    room = max_chars - 200
    for number, line in enumerate(lines, start):
        text = f"{number}|{line}"
        room -= len(text) + 1
        if shown and room < 0:
            break
        shown.append(text)
    return "\n".join(shown), len(shown)
