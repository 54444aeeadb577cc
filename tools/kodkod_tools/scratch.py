"""A hidden folder in the work tree for what passes between the box and us; gone without a trace afterwards."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kodkod_sandbox.removal import remove_tree
from kodkod_tools.base import ErrorCode, ToolError
from kodkod_tools.paths import Place, open_file, opened_folder

_FOLDERS = (".kodkod", "tmp")


@contextmanager
def scratch(work_tree: Path) -> Iterator[Place]:
    """A fresh folder `.kodkod/tmp/XXXX`, writable from the box, that git does not see.

    Raises:
        ToolError: `SYSTEM` when it cannot be made.
    """
    made: list[Path] = []
    name = secrets.token_hex(4)
    place = Place(work_tree, (*_FOLDERS, name))
    try:
        _make(work_tree, name, made)
        yield place
    except OSError as error:
        raise ToolError(ErrorCode.SYSTEM, f"{place.relative} cannot be made: {error.strerror}") from error
    finally:
        remove_tree(place.absolute)
        for folder in reversed(made):
            _remove(folder)


def _make(work_tree: Path, name: str, made: list[Path]) -> None:
    # By descriptors throughout: a command that runs meanwhile may put a link in any folder's place.
    for count in range(1, len(_FOLDERS) + 1):
        folder = work_tree.joinpath(*_FOLDERS[:count])
        made += [] if os.path.lexists(folder) else [folder]
    with opened_folder(Place(work_tree, _FOLDERS), _FOLDERS, create=True) as folder_fd:
        with contextlib.suppress(FileExistsError):
            _write(folder_fd, ".gitignore", b"*\n")
        os.mkdir(name, dir_fd=folder_fd)
        own = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder_fd)
    try:
        os.fchmod(own, 0o777)  # commands in the box may run as another user
    finally:
        os.close(own)


def _write(folder: int, name: str, data: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with os.fdopen(os.open(name, flags, 0o644, dir_fd=folder), "wb") as file:
        os.fchmod(file.fileno(), 0o644)
        file.write(data)


def _remove(folder: Path) -> None:
    """Remove a folder of ours, unless someone else uses it by now."""
    with contextlib.suppress(OSError):
        ignore = folder / ".gitignore"
        if [*folder.iterdir()] == [ignore] and folder.name == _FOLDERS[-1]:
            ignore.unlink()
        folder.rmdir()


def write_scratch(place: Place, name: str, data: bytes) -> None:
    """A new file there for the box to read.

    Raises:
        OSError: it cannot be written, or is there already.
    """
    with opened_folder(place, place.parts) as folder:
        _write(folder, name, data)


def read_scratch(place: Place, name: str, max_bytes: int) -> bytes | None:
    """A file written there by the box, opened without following links; None when missing, too large or no file."""
    try:
        descriptor = open_file(Place(place.root, (*place.parts, name)))
    except (OSError, ToolError):
        return None
    with os.fdopen(descriptor, "rb") as file:
        data = file.read(max_bytes + 1)
    return data if len(data) <= max_bytes else None
