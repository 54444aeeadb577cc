"""Where a path in a call leads: an ordinary project file, or something that needs a second look.

Paths are judged twice, as written and with symbolic links followed; the stricter finding counts. Nothing is opened.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from kodkod_agent.shell_reach import Finding, Reach
from kodkod_agent.shell_script import Word, names

_PROTECTED = names(
    ".git .gitmodules .gitattributes .kodkod .agents .mcp.json .envrc .vscode .idea .husky .github agents.md"
)
"""Names that other programs, or kodkod itself, obey (lower case): changing them is never a mere edit."""
_SYSTEM = ("/usr/", "/lib/", "/lib64/", "/opt/", "/bin/", "/sbin/")
"""Programs and libraries: reading them tells nothing about the user."""
_BOX_OWN = ("/tmp/",)
_SOURCES = frozenset({"/dev/null", "/dev/stdin", "/dev/zero", "/dev/urandom"})
_SINKS = frozenset({"/dev/null", "/dev/stdout", "/dev/stderr", "/dev/tty", "/dev/fd/1", "/dev/fd/2"})


_MAX_FOLDERS = 64
_MAX_MATCHES = 10_000


@dataclass(frozen=True, slots=True)
class Places:
    """The project as paths see it."""

    work_tree: Path
    """Absolute and resolved."""
    boxed: bool = False
    """Commands run in a box, with a `/tmp` of its own."""
    folders: tuple[str, ...] = (".",)
    """Where a command may stand, relative to the root. In more than one, `..` leads nowhere sure; in none, nothing."""

    def gone_to(self, names: Iterable[str]) -> Places:
        """The same where a script goes to these folders, in any order and any number of times."""
        found, waiting, known = {".": None}, ["."], set(names)
        while waiting and len(found) <= _MAX_FOLDERS:
            folder = waiting.pop()
            for name in known:
                there = self._real(str(Path(folder, name)))
                if there not in found and _may_be((self.work_tree / there).is_dir):
                    found[there] = None
                    waiting.append(there)
        return replace(self, folders=tuple(found) if len(found) <= _MAX_FOLDERS else ())

    @property
    def has_moved(self) -> bool:
        """A command may stand elsewhere than in the project's root."""
        return self.folders != (".",)

    def relative(self, path: str) -> str:
        """The path from the project's root, as written; it begins with `..` when it leads out."""
        return self._relative(path)

    def real(self, path: str) -> str:
        """As `relative`, symbolic links followed."""
        return self._real(path)

    def is_outside(self, path: str) -> bool:
        """Whether it leads out of the project, by its parts or by a link."""
        return any(_leads_out(place) for place in self._all(path))

    def is_root(self, path: str) -> bool:
        """Whether it is the project itself."""
        return "." in self._all(path)

    def is_folder(self, path: str) -> bool:
        """Whether there is a folder."""
        return any(_may_be((self.work_tree / place).is_dir) for place in self._all(path))

    def writing(self, word: Word) -> Finding | None:
        """What is to be said against changing this path; None when it is a project file like others."""
        if (found := self.entering(word)) is not None:
            return found
        if word.text is not None and self._is_of_another_repository(word.text):
            told = "lies in a repository of its own or a closed folder, which no snapshot holds"
            return Finding(Reach.OUTSIDE, f"{told} ({word.source})")
        return None

    def entering(self, word: Word) -> Finding | None:
        """What is to be said against being where it may be changed."""
        path = word.text
        if path is None or word.is_pattern or "\0" in path or self._is_lost(path):
            return Finding(Reach.UNSURE, f"changes a file that is only known when it runs ({word.source})")
        if path in _SINKS or self._is_of_box(path):
            return Finding(Reach.READS, "leaves the project as it is")
        if self.is_outside(path):
            return Finding(Reach.OUTSIDE, f"reaches outside the project ({word.source})")
        parts = "/".join(self._all(path)).casefold().split("/")
        if _PROTECTED & set(parts):
            return Finding(Reach.OUTSIDE, f"changes what other programs obey ({word.source})")
        return None

    def reading(self, word: Word) -> Finding | None:
        """What is to be said against reading this path; None when it is in the project or tells nothing."""
        path = word.text
        if path is None or "\0" in path:
            return Finding(Reach.RUNS, f"has words that are only known when it runs ({word.source})")
        if path in _SOURCES or _is_of_system(path) or self._is_of_box(path):
            return None
        if self._is_lost(path):
            return Finding(Reach.UNSURE, f"reads a file that is not known for sure ({word.source})")
        leads_out = self.is_outside(path) or (word.is_pattern and not self.boxed and self._may_match_outside(path))
        return Finding(Reach.OUTSIDE, f"reaches outside the project ({word.source})") if leads_out else None

    def _relative(self, path: str) -> str:
        return os.path.relpath(os.path.normpath(self.work_tree / path), self.work_tree)

    def _real(self, path: str) -> str:
        try:
            real = os.path.realpath(self.work_tree / path)
        except ValueError:  # a zero byte: there is no such path, and no link in it
            return self._relative(path)
        return os.path.relpath(real, os.path.realpath(self.work_tree))

    def _all(self, path: str) -> list[str]:
        """Where it may lead, from every folder, as written and by links."""
        joined = [str(Path(folder, path)) for folder in self.folders]
        return [place for one in joined for place in (self._relative(one), self._real(one))]

    def _is_of_another_repository(self, path: str) -> bool:
        """A submodule, or a clone that lies in the project: what it holds is that repository's to record. A folder that
        is closed to the person may be one, and no snapshot holds it either.
        """
        folders = {folder for place in self._all(path) for folder in (Path(place), *Path(place).parents)}
        return any(_may_be((self.work_tree / folder / ".git").exists) for folder in folders - {Path()})

    def _is_lost(self, path: str) -> bool:
        return not self.folders or (self.has_moved and ".." in path.split("/"))

    def _is_of_box(self, path: str) -> bool:
        return self.boxed and _is_under(os.path.normpath(path), _BOX_OWN) and self.is_outside(path)

    def _may_match_outside(self, pattern: str) -> bool:
        """Whether a link that leads out may be among the names that bash puts in the pattern's place."""
        found = [self.work_tree / folder for folder in self.folders]
        for part in pattern.split("/"):
            found = [path for folder in found for path in _matches(folder, part)]
            if len(found) > _MAX_MATCHES or any(self.is_outside(str(path)) for path in found if path.is_symlink()):
                return True
        return False


def _may_be(look: Callable[[], bool]) -> bool:
    """What lies in a folder that is closed to the person may be anything; behind a name too long there is nothing."""
    try:
        return look()
    except OSError as fault:
        return isinstance(fault, PermissionError)


def _matches(folder: Path, part: str) -> list[Path]:
    """What bash may find there, or more."""
    if not any(sign in part for sign in "*?["):
        return [folder / part]
    try:
        return [path for path in folder.iterdir() if "[" in part or fnmatchcase(path.name, part)]
    except OSError:
        return []


def _is_of_system(path: str) -> bool:
    return _is_under(os.path.normpath(path), _SYSTEM) and _is_under(os.path.realpath(path), _SYSTEM)


def _is_under(path: str, folders: tuple[str, ...]) -> bool:
    return path.startswith("/") and f"{path}/".startswith(folders)


def _leads_out(path: str) -> bool:
    return path == ".." or path.startswith("../")
