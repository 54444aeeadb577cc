"""Where a path in a call leads: an ordinary project file, or something that needs a second look.

Paths are judged twice, as written and with symbolic links followed; the stricter finding counts. Nothing is opened.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Places:
    """The project as paths see it."""

    work_tree: Path
    """Absolute and resolved."""
    boxed: bool = False
    """Commands run in a box, with a `/tmp` of its own."""
    moved: bool = False
    """A command may stand in another folder of the project than its root: `..` leads nowhere sure."""

    def relative(self, path: str) -> str:
        """The path from the project's root, as written; it begins with `..` when it leads out."""
        return os.path.relpath(os.path.normpath(self.work_tree / path), self.work_tree)

    def real(self, path: str) -> str:
        """As `relative`, symbolic links followed."""
        return os.path.relpath(os.path.realpath(self.work_tree / path), os.path.realpath(self.work_tree))

    def is_outside(self, path: str) -> bool:
        """Whether it leads out of the project, by its parts or by a link."""
        return any(_leads_out(place) for place in (self.relative(path), self.real(path)))

    def writing(self, word: Word) -> Finding | None:
        """What is to be said against changing this path; None when it is a project file like others."""
        path = word.text
        if path is None or word.is_pattern or "\0" in path or self._is_lost(path):
            return Finding(Reach.UNSURE, f"changes a file that is only known when it runs ({word.source})")
        if path in _SINKS or (self.boxed and self._is_under(path, _BOX_OWN)):
            return Finding(Reach.READS, "leaves the project as it is")
        if self.is_outside(path):
            return Finding(Reach.OUTSIDE, f"reaches outside the project ({word.source})")
        parts = f"{self.relative(path)}/{self.real(path)}".casefold().split("/")
        if _PROTECTED & set(parts):
            return Finding(Reach.OUTSIDE, f"changes what other programs obey ({word.source})")
        return None

    def reading(self, word: Word) -> Finding | None:
        """What is to be said against reading this path; None when it is in the project or tells nothing."""
        path = word.text
        if path is None or "\0" in path:
            return Finding(Reach.RUNS, f"has words that are only known when it runs ({word.source})")
        if path in _SOURCES or self._is_under(path, _SYSTEM + (_BOX_OWN if self.boxed else ())):
            return None
        if self._is_lost(path):
            return Finding(Reach.UNSURE, f"reads a file that is not known for sure ({word.source})")
        return Finding(Reach.OUTSIDE, f"reaches outside the project ({word.source})") if self.is_outside(path) else None

    def _is_lost(self, path: str) -> bool:
        return self.moved and ".." in path.split("/")

    def _is_under(self, path: str, folders: tuple[str, ...]) -> bool:
        return path.startswith("/") and f"{os.path.normpath(path)}/".startswith(folders)


def _leads_out(path: str) -> bool:
    return path == ".." or path.startswith("../")
