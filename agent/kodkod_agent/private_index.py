"""The index that snapshots have of their own: how the files differ from it, and bringing it up to date.

What changed is always asked of git. The user's index is read, for a tracked file is part of the project, ignored or
not; it is never written.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kodkod_agent.loose_objects import ancestors
from kodkod_agent.private_git import Git, GitFault, Repository, split

_FEW_FILES, _FEW_BYTES = 64, 1024**2
"""Up to here, changes are written anew with every snapshot: quicker than to bring the index up to date."""
_MAX_HASH_BYTES = 32


@dataclass(frozen=True, slots=True)
class Changes:
    """How the files differ from the private index; names are relative to the work tree."""

    taken: Mapping[bytes, os.stat_result | None]
    """None: not there any more."""
    left_out: Sequence[bytes]
    """Files too large, unreadable or of another kind; repositories inside this one, whose names end with a slash."""

    @property
    def lost(self) -> list[bytes]:
        """Files that are left out, which may have been taken before."""
        return [name for name in self.left_out if not name.endswith(b"/")]

    @property
    def are_few(self) -> bool:
        """Whether it is quicker to leave the index as it is."""
        num_bytes = sum(status.st_size for status in self.taken.values() if status)
        return len(self.taken) <= _FEW_FILES and num_bytes <= _FEW_BYTES

    def among(self, names: Container[bytes]) -> Changes:
        """Those that are taken, of these names."""
        return Changes({name: status for name, status in self.taken.items() if name in names}, ())


class PrivateIndex:
    """Of one session, in its private folder. Blocking; one call at a time."""

    def __init__(
        self, folder: Path, work_tree: Path, git: Git, repository: Repository | None, *, max_file_bytes: int
    ) -> None:
        """`git` is the private one; `repository` is the user's; a file above `max_file_bytes` is left out."""
        self._folder = folder
        self._work_tree = work_tree
        self._git = git
        self._repository = repository
        self._max_file_bytes = max_file_bytes
        self._user_index: tuple[int, int] | None = None

    def mark(self) -> bytes:
        """Names its content: git ends the file with a hash of all before it."""
        try:
            with (self._folder / "index").open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - _MAX_HASH_BYTES))
                return file.read()
        except FileNotFoundError:
            return b""

    def changes(self) -> Changes:
        """How the files differ from it now.

        Raises:
            GitFault: git refused, or a file cannot be looked at.
        """
        self._follow_user_index()
        listed = self._git.must("ls-files", "-z", "-m", "-d", "-o", *self._excludes(), "--", ".")
        names = sorted(set(split(listed)))
        linked = {folder for folder in ancestors(names) if (self._work_tree / os.fsdecode(folder)).is_symlink()}
        taken: dict[bytes, os.stat_result | None] = {}
        left_out = []
        for name in names:
            try:
                status = None if linked and linked & ancestors([name]) else self._status(name)
            except PermissionError:  # in a folder of which the names alone may be read
                left_out.append(name)
                continue
            if self._fits(name, status):
                taken[name] = status
            else:
                left_out.append(name)
        return Changes(taken, left_out)

    def tracked(self) -> set[bytes]:
        """What the user tracks, ignored or not."""
        return set(split(self._repository.git.must("ls-files", "-z", "--", "."))) if self._repository else set()

    def record(self, changes: Changes) -> None:
        """Bring it to the state of the files."""
        self._update([name for name, status in changes.taken.items() if status], "--add", "--remove", "--replace")
        self.forget([*(name for name, status in changes.taken.items() if status is None), *changes.lost])

    def forget(self, names: Sequence[bytes]) -> None:
        """Take these out of it; the files stay."""
        self._update(names, "--force-remove")

    def _update(self, names: Sequence[bytes], *options: str) -> None:
        if names:
            data = b"".join(name + b"\0" for name in names)
            self._git.must("update-index", "-z", *options, "--stdin", data=data)

    def _excludes(self) -> Sequence[str]:
        files = self._repository.exclude_files if self._repository else ()
        excludes = ["--exclude-per-directory=.gitignore", *(f"--exclude-from={path}" for path in files)]
        top = self._repository.top if self._repository else self._work_tree
        if self._folder.is_relative_to(top):
            excludes.append(f"--exclude=/{self._folder.relative_to(top)}/")
        return excludes

    def _status(self, name: bytes) -> os.stat_result | None:
        try:
            return (self._work_tree / os.fsdecode(name)).lstat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except PermissionError:
            raise
        except OSError as error:
            raise GitFault(f"{os.fsdecode(name)!r} cannot be looked at ({error.strerror}), for a snapshot") from error

    def _fits(self, name: bytes, status: os.stat_result | None) -> bool:
        """Whether a listed path goes into the snapshot; a deleted one does."""
        if name.endswith(b"/"):  # a repository inside this one
            return False
        if status is None or stat.S_ISLNK(status.st_mode) or stat.S_ISDIR(status.st_mode):
            return True
        if not stat.S_ISREG(status.st_mode):  # a pipe or a socket where a file was
            return False
        return status.st_size <= self._max_file_bytes and os.access(self._work_tree / os.fsdecode(name), os.R_OK)

    def _follow_user_index(self) -> None:
        """Take up what the user tracks."""
        if self._repository is None:
            return
        try:
            status = self._repository.index.stat()
        except FileNotFoundError:
            return
        if self._user_index == (status.st_mtime_ns, status.st_size):
            return
        tracked = split(self._repository.git.must("ls-files", "-z", "-s", "--full-name", "--", "."))
        known = set(split(self._git.must("ls-files", "-z", "--full-name")))
        self._add_entries(entry for entry in tracked if entry.partition(b"\t")[2] not in known)
        self._user_index = (status.st_mtime_ns, status.st_size)

    def _add_entries(self, entries: Iterable[bytes]) -> None:
        """Entries as `mode id stage TAB path`; of a path in conflict, which has several, the last counts."""
        unstaged = (re.sub(rb"^(\S+ \S+) \d\t", rb"\1 0\t", entry) + b"\0" for entry in entries)
        if lines := b"".join(unstaged):
            self._git.must("update-index", "-z", "--index-info", data=lines)
            self._git.run("update-index", "-q", "--really-refresh")  # exits with 1 where files differ: most do not
