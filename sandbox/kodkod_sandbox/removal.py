"""Removing a folder in which commands worked, whatever they made there.

Python's own way calls itself and holds a descriptor for each level: folders a thousand deep in each other end it. Here
what lies deeper is lifted up to the first level before it is removed.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path


def remove_tree(folder: Path) -> None:
    """Remove a folder with all that is in it, as far as that is permitted. No link is followed."""
    with suppress(OSError):
        top = _opened(folder)
        try:
            _empty(top)
        finally:
            os.close(top)
        folder.rmdir()


def _empty(top: int) -> None:
    waiting = _cleared(top, top)
    while waiting:
        name = waiting.pop()
        with suppress(OSError):  # not ours: it stays
            here = _opened(name, top)
            try:
                waiting += _cleared(here, top)
            finally:
                os.close(here)
            os.rmdir(name, dir_fd=top)


def _cleared(here: int, top: int) -> list[str]:
    """Remove a folder's files and lift its folders up; the names these have there."""
    with os.scandir(here) as entries:
        found = list(entries)
    folders: list[str] = []
    for entry in found:
        with suppress(OSError):
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.name, dir_fd=here)
            else:
                folders.append(entry.name if here == top else _lifted(entry.name, here, top))
    return folders


def _lifted(name: str, here: int, top: int) -> str:
    os.close(_opened(name, here))  # one that may not be written to is not moved
    new = secrets.token_hex(8)
    os.rename(name, new, src_dir_fd=here, dst_dir_fd=top)
    return new


def _opened(name: str | Path, parent: int | None = None) -> int:
    """A folder, by descriptor and without following a link, open to its owner from here on."""
    held = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    try:
        with suppress(PermissionError):  # another's
            Path(f"/proc/self/fd/{held}").chmod(0o700)
        return os.open(f"/proc/self/fd/{held}", os.O_RDONLY | os.O_DIRECTORY)
    finally:
        os.close(held)
