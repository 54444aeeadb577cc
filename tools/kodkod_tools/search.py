"""The search tool: lines that match, in the files git would see."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncGenerator
from dataclasses import asdict
from itertools import groupby
from pathlib import Path

from pydantic import Field

from kodkod_tools import ripgrep
from kodkod_tools.base import (
    Arguments,
    Effect,
    ErrorCode,
    ToolContext,
    ToolError,
    ToolResult,
    ToolStream,
    require_passable,
)
from kodkod_tools.config import ToolsConfig
from kodkod_tools.grep import Line, Request, readable
from kodkod_tools.grep import read as read_file
from kodkod_tools.output import keep_text
from kodkod_tools.paths import Place, resolve_readable
from kodkod_tools.schema import declare
from kodkod_tools.text.lines import split
from kodkod_tools.text.regex import BadPattern, Pattern, read
from kodkod_tools.text.truncate import cut_line
from kodkod_tools.walk import glob_filter, is_ignored

_BEFORE_MATCH_CHARS = 80
_RIPGREP_ENDS = (0, 1, 2)
"""Something found; nothing; not all could be read."""
_WORKER = "import sys; sys.path.insert(0, sys.argv[1]); from kodkod_tools.grep import main; main()"


class SearchArguments(Arguments):
    """What to search for."""

    pattern: str = Field(min_length=1, description="Regular expression, matched line by line")
    path: str = Field(default=".", description="File or folder; default: the project")
    glob: str | None = Field(default=None, description="Only these files, e.g. *.py or src/**/*.ts")
    literal: bool = Field(default=False, description="Take the pattern as plain text")
    ignore_case: bool = False
    context: int = Field(default=0, ge=0, le=20, description="Lines shown around each match")


class Search:
    """Facts: `matches` (lines shown), `files`, `complete` (false when a limit or the time cut the search short)."""

    effect = Effect.READS
    arguments = SearchArguments
    spec = declare("search", SearchArguments)

    async def run(self, arguments: SearchArguments, context: ToolContext) -> ToolStream:
        """Search in a process of its own, with ripgrep where it is installed."""
        pattern = _pattern(arguments)
        place = resolve_readable(context, arguments.path)
        if not place.absolute.exists():
            raise ToolError(ErrorCode.NOT_FOUND, f"{arguments.path} does not exist; use find to look for it")
        if place.absolute.is_file() and place.absolute.stat().st_size > context.config.max_search_file_bytes:
            raise ToolError(ErrorCode.TOO_LARGE, f"{arguments.path} is too large to search; use shell (grep)")
        request = _request(arguments, context, place, pattern)
        lines, complete = await _collect(request, pattern, context)
        yield _result(arguments, context, place, lines, complete)


def _pattern(arguments: SearchArguments) -> Pattern:
    require_passable(arguments.pattern)
    try:
        pattern = read(arguments.pattern, literal=arguments.literal)
        if arguments.glob:
            glob_filter(arguments.glob)
    except BadPattern as error:
        message = f"pattern: no valid regular expression: {error}; escape special signs with \\ or set literal"
        raise ToolError(ErrorCode.BAD_ARGUMENTS, message) from error
    except ValueError as error:
        raise ToolError(ErrorCode.BAD_ARGUMENTS, f"glob: {error}") from error
    return pattern


def _request(arguments: SearchArguments, context: ToolContext, place: Place, pattern: Pattern) -> Request:
    return Request(
        root=str(place.root),
        start=place.relative,
        python=pattern.python,
        python_strict=pattern.python_strict,
        ignore_case=arguments.ignore_case,
        glob=arguments.glob,
        max_file_bytes=context.config.max_search_file_bytes,
        # What is ignored and asked for by name is searched all the same, with all that is in it.
        ignores=not is_ignored(place.root, place.relative),
    )


async def _collect(request: Request, pattern: Pattern, context: ToolContext) -> tuple[list[Line], bool]:
    """The first matches, and whether they are all."""
    limit = context.config.max_matches
    lines: list[Line] = []
    try:
        async with (
            asyncio.timeout(context.config.search_timeout_s),
            contextlib.aclosing(_matches(request, pattern, context, limit + 1)) as found,
        ):
            async for line in found:
                lines.append(line)
                if len(lines) > limit:
                    return lines[:limit], False
    except TimeoutError:
        if lines:
            return lines, False
        message = f"no match in {context.config.search_timeout_s:g} s; give a path or glob, or a simpler pattern"
        raise ToolError(ErrorCode.TIMEOUT, message) from None
    return lines, True


async def _matches(request: Request, pattern: Pattern, context: ToolContext, limit: int) -> AsyncGenerator[Line, None]:
    program = shutil.which("rg") if context.config.use_ripgrep and pattern.ripgrep is not None else None
    if program and pattern.ripgrep is not None:
        wanted = glob_filter(request.glob) if request.glob else None
        reader = ripgrep.Reader(limit)
        command = ripgrep.command(program, request, pattern.ripgrep)
        searched = False
        async with contextlib.aclosing(_output(command, request, b"", _RIPGREP_ENDS)) as output:
            async for raw in output:
                searched = True
                for line in reader.read(raw):
                    if wanted is None or wanted(line.path):
                        yield line
        if searched:
            return
        # It ends with a count whatever it finds; silent, it took the pattern for none, or for too large a one.
    home = str(Path(__file__).parents[1])
    worker = [sys.executable, "-I", "-c", _WORKER, home]
    async with contextlib.aclosing(_output(worker, request, json.dumps(asdict(request)).encode())) as output:
        async for raw in output:
            yield Line(*json.loads(raw))


async def _output(
    command: list[str], request: Request, stdin: bytes, ends: tuple[int, ...] = (0,)
) -> AsyncGenerator[bytes, None]:
    """The output lines of a worker, which is ended when nobody reads on; `ends` are the exit codes of a whole search.

    Raises:
        ToolError: `FAILED`; what it did not come to would be taken for nothing found.
    """
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=request.root,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        limit=16 * request.max_file_bytes,
        env={"PATH": os.defpath, "LC_ALL": "C.UTF-8"},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(stdin)
        process.stdin.close()
        while raw := await process.stdout.readline():
            yield raw
        if (code := await process.wait()) not in ends:
            raise ToolError(
                ErrorCode.FAILED, f"the search broke off (exit code {code}); give a path, or use shell (grep)"
            )
    finally:
        if process.returncode is None:
            # process.kill() asks after the worker's end first, and asyncio then complains that it never heard of it.
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        await process.wait()


def _result(
    arguments: SearchArguments, context: ToolContext, place: Place, lines: list[Line], complete: bool
) -> ToolResult:
    facts = {"matches": len(lines), "files": len({line.path for line in lines}), "complete": complete}
    if not lines:
        return ToolResult(f"no match for {arguments.pattern!r} in {arguments.path}", facts=facts)
    blocks = [
        f"{path}\n{_block(place.root / path, list(group), arguments.context, context.config)}"
        for path, group in groupby(lines, key=lambda line: line.path)
    ]
    more = "" if complete else "\n[there are more: narrow the pattern, the path or the glob]"
    text = "\n".join(blocks)
    kept = keep_text(text, context.log_folder, "search", context.config.max_result_chars - len(more))
    summary = f"{facts['matches']}{'' if complete else '+'} lines in {facts['files']} files"
    return ToolResult(kept.for_model + more, for_person=summary, for_log=kept.for_log, facts=facts)


def _block(path: Path, lines: list[Line], around: int, config: ToolsConfig) -> str:
    """The matches of one file as `12:text`, lines around them as `11-text`, gaps as `--`."""
    shown = {line.number: f"{line.number}:{_around_match(line, config.max_line_chars)}" for line in lines}
    if not around:
        return "\n".join(shown.values())
    there = [readable(text) for text in split(read_file(path, config.max_search_file_bytes) or "")]
    wanted = sorted({n for line in lines for n in range(line.number - around, line.number + around + 1)})
    block: list[str] = []
    last = 0
    for number in wanted:
        if number not in shown and not 1 <= number <= len(there):
            continue
        if last and number > last + 1:
            block.append("--")
        block.append(shown.get(number) or f"{number}-{cut_line(there[number - 1], config.max_line_chars)}")
        last = number
    return "\n".join(block)


def _around_match(line: Line, max_chars: int) -> str:
    """The line, or of a long one the part where the match begins."""
    skipped = line.column - _BEFORE_MATCH_CHARS
    if len(line.text) <= max_chars or skipped <= 0:
        return cut_line(line.text, max_chars)
    return f"[{skipped:,} characters] …{cut_line(line.text[skipped:], max_chars)}"
