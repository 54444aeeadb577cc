"""Text files read whole and written whole, atomically, keeping what a change of text should not change."""

from __future__ import annotations

import ast
import contextlib
import difflib
import os
import re
import secrets
import threading
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import takewhile

from kodkod_tools.base import ErrorCode, FileDiff, ToolError
from kodkod_tools.paths import Place, open_file, opened_folder, system_error
from kodkod_tools.text.encoding import UTF8, Encoding, NotText, decode, encode
from kodkod_tools.text.lines import with_ends

_MAX_DIFF_LINES = 20_000
"""Of both sides together, from where they begin to differ to where they end."""
_CONTEXT_LINES = 3
_WRITABLE = 0o222
_HUNK = re.compile(r"^@@ -(?P<old>\d+)(?P<of_old>(?:,\d+)?) \+(?P<new>\d+)(?P<of_new>(?:,\d+)?) @@")
syntax_lock = threading.Lock()  # `warnings.catch_warnings` is not safe from several threads at once


@dataclass(frozen=True, slots=True)
class TextFile:
    """A file as it was read."""

    place: Place
    text: str
    encoding: Encoding
    stamp: tuple[int, int, int]
    """Inode, size, modification time in ns: what tells that someone else wrote meanwhile."""
    mode: int
    owner: tuple[int, int]
    attributes: Mapping[str, bytes] = field(default_factory=dict)
    """Extended ones, an access control list among them."""


def read_text(place: Place, max_bytes: int) -> TextFile:
    """The file at `place`.

    Raises:
        ToolError: `NOT_FOUND`, `NOT_A_FILE`, `PERMISSION`, `SYSTEM`, `TOO_LARGE`, `BINARY`.
    """
    try:
        descriptor = open_file(place)
    except OSError as error:
        raise system_error(place, error) from error
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        data = file.read(max_bytes + 1)
        attributes = _attributes(descriptor)
    if len(data) > max_bytes:
        raise ToolError(
            ErrorCode.TOO_LARGE,
            f"{place.relative} has {status.st_size:,} bytes, more than {max_bytes:,}; use shell (sed)",
        )
    try:
        text, encoding = decode(data)
    except NotText as error:
        raise ToolError(ErrorCode.BINARY, f"{place.relative} is a binary file; use shell to work on it") from error
    owner = (status.st_uid, status.st_gid)
    return TextFile(place, text, encoding, _stamp(status), status.st_mode & 0o7777, owner, attributes)


def _attributes(descriptor: int) -> dict[str, bytes]:
    try:
        return {name: os.getxattr(descriptor, name) for name in os.listxattr(descriptor)}
    except OSError:  # a file system without any
        return {}


def write_text(place: Place, text: str, before: TextFile | None) -> None:
    """Put `text` at `place` in one step: a reader sees the old file or the new one, never a part.

    Args:
        place: where.
        text: what, without a byte-order mark.
        before: the file that is replaced, whose encoding, mode, owner and attributes are kept; None for a new one,
            whose parent folders are made.

    Raises:
        ToolError: `ENCODING`, `PERMISSION`, `SYSTEM`; `CONFLICT` when changed since `before`, or no longer absent.
    """
    data = _encoded(place, text, before.encoding if before else UTF8)
    if before is not None and not before.mode & _WRITABLE:
        # A file is replaced, which its folder's rights allow; that somebody protected it would go unnoticed.
        raise ToolError(ErrorCode.PERMISSION, f"{place.relative} is write-protected (mode {before.mode:o}); leave it")
    try:
        with opened_folder(place, place.parts[:-1], create=before is None) as folder:
            _replace(folder, place, data, before)
    except OSError as error:
        raise system_error(place, error) from error


def _encoded(place: Place, text: str, encoding: Encoding) -> bytes:
    try:
        return encode(text, encoding)
    except UnicodeEncodeError as error:
        raise ToolError(
            ErrorCode.ENCODING,
            f"{place.relative} is {encoding.name}, which has no {error.object[error.start]!r}; leave it out",
        ) from error


def _replace(folder: int, place: Place, data: bytes, before: TextFile | None) -> None:
    name, temporary = place.parts[-1], f".kodkod-{secrets.token_hex(6)}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with os.fdopen(os.open(temporary, flags, 0o666, dir_fd=folder), "wb") as file:
        try:
            file.write(data)
            file.flush()
            if before is not None:
                _copy_mode(file.fileno(), before)
            _refuse_changed(folder, place, before)
            os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            os.unlink(temporary, dir_fd=folder)
            raise


def _refuse_changed(folder: int, place: Place, before: TextFile | None) -> None:
    try:
        now = _stamp(os.stat(place.parts[-1], dir_fd=folder, follow_symlinks=False))
    except FileNotFoundError:
        now = None
    if now != (before.stamp if before else None):
        raise ToolError(ErrorCode.CONFLICT, f"{place.relative} was changed meanwhile; view it and try again")


def _copy_mode(descriptor: int, before: TextFile) -> None:
    with contextlib.suppress(PermissionError):  # a file of another owner, which only root could keep so
        os.fchown(descriptor, *before.owner)
    os.fchmod(descriptor, before.mode)
    for name, value in before.attributes.items():
        with contextlib.suppress(OSError):  # one that only root, or the system itself, may set
            os.setxattr(descriptor, name, value)


def _stamp(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_size, status.st_mtime_ns


def file_diff(path: str, before: str | None, after: str) -> FileDiff:
    """The change as a unified diff with its counts; `before` is None for a new file."""
    old, new = with_ends(before or ""), with_ends(after)
    summary = f"(too large to compare: {len(old):,} lines before, {len(new):,} after)\n"
    first = 0
    if len(old) + len(new) > _MAX_DIFF_LINES:
        first, old, new = _where_they_differ(old, new)
    if len(old) + len(new) > _MAX_DIFF_LINES:
        return FileDiff(path, summary, len(new), len(old), before is None)
    lines = list(difflib.unified_diff(old, new, f"a/{path}" if before is not None else "/dev/null", f"b/{path}"))
    head, body = lines[:2], [_HUNK.sub(partial(_moved, first), line) for line in lines[2:]]
    return FileDiff(
        path,
        "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in (*head, *body)),
        sum(line.startswith("+") for line in body),
        sum(line.startswith("-") for line in body),
        before is None,
    )


def _where_they_differ(old: list[str], new: list[str]) -> tuple[int, list[str], list[str]]:
    """Both without what they begin and end with alike, but for some lines around; and how many lines went before."""
    alike = sum(1 for _ in takewhile(_are_alike, zip(old, new, strict=False)))
    first = max(0, alike - _CONTEXT_LINES)
    ends = zip(reversed(old[alike:]), reversed(new[alike:]), strict=False)
    last = max(0, sum(1 for _ in takewhile(_are_alike, ends)) - _CONTEXT_LINES)
    return first, old[first : len(old) - last], new[first : len(new) - last]


def _are_alike(pair: tuple[str, str]) -> bool:
    return pair[0] == pair[1]


def _moved(num_lines: int, hunk: re.Match[str]) -> str:
    """A hunk's place in a file that begins so many lines earlier."""
    old, new = (int(hunk[name]) + num_lines for name in ("old", "new"))
    return f"@@ -{old}{hunk['of_old']} +{new}{hunk['of_new']} @@"


def syntax_note(path: str, before: str | None, after: str, max_bytes: int) -> str:
    """One line when `after` is Python that does not parse, saying whether `before` did; empty when all is well."""
    if not path.endswith((".py", ".pyi")) or len(after) > max_bytes:
        return ""
    fault = _syntax_fault(after)
    if not fault:
        return ""
    already = before is not None and _syntax_fault(before)
    return f"Syntax: {fault}" + (" (the file did not parse before this change either)" if already else "")


def parse_python(text: str) -> ast.Module:
    """The syntax tree of a Python file; what the compiler would remark on its spelling is not told.

    Raises:
        SyntaxError, ValueError, RecursionError, MemoryError: it cannot be parsed.
    """
    with syntax_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(text)


def _syntax_fault(text: str) -> str:
    try:
        parse_python(text)
    except SyntaxError as error:
        return f"line {error.lineno}: {error.msg}"
    except (ValueError, RecursionError, MemoryError) as error:
        return f"cannot be parsed: {error or type(error).__name__}"
    return ""
