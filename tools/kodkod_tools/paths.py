"""Paths a model names: where they lead, and opening them so that they still lead there.

A path is resolved once, symbolic links and all, and must lie in the work tree. It is then opened component by component
from the tree's own descriptor without following any link, so a folder swapped for a link meanwhile is refused, not
followed.
"""

from __future__ import annotations

import difflib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kodkod_tools.base import ErrorCode, ToolContext, ToolError

_MAX_SUGGESTIONS = 3


@dataclass(frozen=True, slots=True)
class Place:
    """A resolved path under one of the folders a tool may touch."""

    root: Path
    """Absolute, resolved."""
    parts: tuple[str, ...]
    """Below the root, free of links when resolved; empty for the root itself."""

    @property
    def absolute(self) -> Path:
        """The whole path."""
        return self.root.joinpath(*self.parts)

    @property
    def relative(self) -> str:
        """As results name it: below the root, with `/`; `.` for the root itself."""
        return "/".join(self.parts) or "."


def resolve(context: ToolContext, path: str) -> Place:
    """Where `path` (relative to the work tree, or absolute inside it) leads; it need not exist.

    Raises:
        ToolError: `OUTSIDE_TREE`, or `BAD_ARGUMENTS` for what can be no path.
    """
    return _under(context.work_tree, path, f"{path} is outside the project folder {context.work_tree}; stay inside it")


def resolve_readable(context: ToolContext, path: str) -> Place:
    """As `resolve`, and kept outputs in the log folder too."""
    logs = context.log_folder.resolve()
    if Path(path).is_absolute() and logs in _resolved(path, Path(path)).parents:
        return _under(logs, path, "")
    return resolve(context, path)


def resolve_writable(context: ToolContext, path: str) -> Place:
    """As `resolve`, refusing the root and git's own files (`PROTECTED`)."""
    return _writable(resolve(context, path), path)


def resolve_entry(context: ToolContext, path: str, *, writable: bool = False) -> Place:
    """As `resolve` (`resolve_writable`), but for a link at the path's end, which git has as a file of its own."""
    named = context.work_tree / path
    if not named.is_symlink():
        return resolve_writable(context, path) if writable else resolve(context, path)
    folder = resolve(context, str(named.parent))
    place = Place(folder.root, (*folder.parts, named.name))
    return _writable(place, path) if writable else place


def _writable(place: Place, path: str) -> Place:
    if not place.parts:
        raise ToolError(ErrorCode.NOT_A_FILE, f"{path} is the project folder; name a file in it")
    if any(part.casefold() == ".git" for part in place.parts):
        raise ToolError(ErrorCode.PROTECTED, f"{path} belongs to git and is not written directly; use the git tool")
    return place


def _under(root: Path, path: str, outside: str) -> Place:
    resolved = _resolved(path, root / path)
    if not resolved.is_relative_to(root):
        raise ToolError(ErrorCode.OUTSIDE_TREE, outside)
    return Place(root, resolved.relative_to(root).parts)


def _resolved(said: str, path: Path) -> Path:
    if not said.strip() or not _may_be_a_name(said):
        raise ToolError(ErrorCode.BAD_ARGUMENTS, "path: must name a file or folder in the project")
    try:
        return path.resolve()
    except (RuntimeError, OSError) as error:
        reason = "links to itself" if isinstance(error, RuntimeError) else error.strerror
        raise ToolError(ErrorCode.SYSTEM, f"{said[:200]}: {reason}") from error


def _may_be_a_name(path: str) -> bool:
    try:
        return b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        return False


@contextmanager
def opened_folder(place: Place, parts: tuple[str, ...], *, create: bool = False) -> Iterator[int]:
    """A descriptor of the folder `parts` below `place.root`, reached without following a link.

    Raises:
        FileNotFoundError, NotADirectoryError: not there, or a component became a link.
    """
    descriptor = os.open(place.root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in parts:
            if create:
                _make_folder(part, descriptor)
            deeper = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = deeper
        yield descriptor
    finally:
        os.close(descriptor)


def _make_folder(name: str, parent: int) -> None:
    try:
        os.mkdir(name, dir_fd=parent)
    except FileExistsError:
        return


def open_file(place: Place) -> int:
    """A descriptor, for reading, of the regular file at `place`.

    Raises:
        ToolError: `NOT_A_FILE` for a folder, pipe or device.
        OSError: as `opened_folder`; `system_error` words it.
    """
    if not place.parts:
        raise ToolError(ErrorCode.NOT_A_FILE, f"{place.relative} is a folder")
    with opened_folder(place, place.parts[:-1]) as folder:
        # Without O_NONBLOCK, opening a pipe that nobody writes to would wait for ever.
        descriptor = os.open(place.parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    kind = "a folder" if stat.S_ISDIR(mode) else "neither a file nor a folder"
    raise ToolError(ErrorCode.NOT_A_FILE, f"{place.relative} is {kind}")


def system_error(place: Place, error: OSError) -> ToolError:
    """An operating system's refusal as a result: what is wrong, and the nearest names where nothing is there."""
    if isinstance(error, FileNotFoundError):
        return ToolError(ErrorCode.NOT_FOUND, f"{place.relative} does not exist{_suggest(place)}")
    if isinstance(error, PermissionError):
        return ToolError(ErrorCode.PERMISSION, f"{place.relative}: permission denied")
    if isinstance(error, NotADirectoryError):
        return ToolError(ErrorCode.NOT_FOUND, f"{place.relative}: a part of this path is not a folder")
    return ToolError(ErrorCode.SYSTEM, f"{place.relative}: {error.strerror or error}")


def _suggest(place: Place) -> str:
    """The nearest names in the deepest folder of the path that exists."""
    folder, parts = place.root, place.parts
    while len(parts) > 1 and (folder / parts[0]).is_dir():
        folder, parts = folder / parts[0], parts[1:]
    try:
        names = sorted(entry.name for entry in folder.iterdir() if entry.name != ".git")
    except OSError:
        return ""
    near = difflib.get_close_matches(parts[0], names, n=_MAX_SUGGESTIONS, cutoff=0.6) if parts else []
    shown = [(folder / name).relative_to(place.root).as_posix() for name in near]
    return f"; did you mean {' or '.join(shown)}?" if shown else "; use find to look for it"
