"""The files of a tree as git sees them: `.gitignore` honoured, links not followed, always in the same order.

Imports nothing heavy: the search worker starts with it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pathspec import GitIgnoreSpec

from kodkod_tools.small_files import read_small

_NEVER = frozenset({".git"})
_GLOB_SIGNS = re.compile(r"[*?\[{]")
_MAX_ALTERNATIVES = 64
_MAX_IGNORE_BYTES = 1024**2


@dataclass(frozen=True, slots=True)
class _Ignores:
    """The `.gitignore` of one folder, and those of the folders above it up to the repository's root."""

    folder: str
    """Absolute."""
    spec: GitIgnoreSpec
    above: _Ignores | None

    def ignores(self, path: str, *, is_folder: bool) -> bool:
        """Whether the entry at the absolute `path` is ignored; the nearest rule that says anything decides."""
        level: _Ignores | None = self
        while level is not None:
            below = path[len(level.folder.rstrip("/")) + 1 :]
            verdict = level.spec.check_file(f"{below}/" if is_folder else below).include
            if verdict is not None:
                return verdict
            level = level.above
        return False


def walk(root: Path, start: str = ".", *, ignores: bool = True) -> Iterator[str]:
    """Regular files under `root/start`, as paths relative to `root` with `/`, folder by folder in byte order.

    Ignored files, links and git's own folder are left out; a folder that cannot be read counts as empty.
    """
    folder = str(root) if start == "." else f"{root}/{start}"
    yield from _walk(str(root), folder, _above(folder) if ignores else None, honour=ignores)


def is_ignored(root: Path, start: str) -> bool:
    """Whether `root/start` or a folder on the way to it is ignored."""
    if start == ".":
        return False
    path = root
    for part in start.split("/"):
        level = _level(str(path), _above(str(path)))
        path = path / part
        if level and level.ignores(str(path), is_folder=path.is_dir()):
            return True
    return False


def _above(folder: str) -> _Ignores | None:
    """The ignore rules of the folders over `folder`, up to the root of the repository it lies in."""
    if _is_repository(folder):
        return None
    chain: list[str] = []
    for parent in Path(folder).parents:
        chain.append(str(parent))
        if _is_repository(str(parent)):
            break
    level: _Ignores | None = None
    for parent_path in reversed(chain):
        level = _level(parent_path, level)
    return level


def _is_repository(folder: str) -> bool:
    try:
        return Path(folder, ".git").exists()
    except OSError:  # a folder whose names alone may be read, or too deep for another name
        return False


def _level(folder: str, above: _Ignores | None) -> _Ignores | None:
    try:
        # git does not follow a link in its place either.
        data = read_small(Path(folder, ".gitignore"), _MAX_IGNORE_BYTES, follows_links=False)
    except OSError:
        return above
    text = data.decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    return _Ignores(folder, GitIgnoreSpec.from_lines(_valid(text)), above)


def _valid(text: str) -> list[str]:
    """The patterns that can be read; git passes over the others too."""
    good: list[str] = []
    for line in text.splitlines():
        try:
            _spec([line])
        except ValueError:
            continue
        good.append(line)
    return good


def _spec(patterns: list[str]) -> GitIgnoreSpec:
    """The patterns, read.

    Raises:
        ValueError: one of them is none. The library makes regular expressions of them, and not each of these is one.
    """
    try:
        return GitIgnoreSpec.from_lines(patterns)
    except re.error as error:
        raise ValueError(str(error)) from error


def _walk(root: str, folder: str, above: _Ignores | None, *, honour: bool) -> Iterator[str]:
    # On a stack of its own: folders may lie deeper inside each other than Python's calls may.
    opened = [_entries(folder, above, honour=honour)]
    while opened:
        entry, level = next(opened[-1], (None, None))
        if entry is None:
            opened.pop()
        elif entry.is_dir(follow_symlinks=False):
            opened.append(_entries(entry.path, level, honour=honour))
        elif entry.is_file(follow_symlinks=False):
            yield os.path.relpath(entry.path, root)


def _entries(
    folder: str, above: _Ignores | None, *, honour: bool
) -> Iterator[tuple[os.DirEntry[str], _Ignores | None]]:
    """What is seen of a folder, in order, each entry with the rules that hold there."""
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: os.fsencode(entry.name))
    except OSError:
        return
    # A repository inside another does not hear the outer one's rules.
    level = _level(folder, None if _is_repository(folder) else above) if honour else None
    for entry in found:
        if entry.name in _NEVER or entry.is_symlink():
            continue
        if level is None or not level.ignores(entry.path, is_folder=entry.is_dir(follow_symlinks=False)):
            yield entry, level


def is_glob(text: str) -> bool:
    """Whether `text` asks for more than one name."""
    return bool(_GLOB_SIGNS.search(text))


def glob_filter(glob: str) -> Callable[[str], bool]:
    """Whether a relative path matches: `*.py` at any depth, `src/*.py` from the root, `**` any folders, `{a,b}` either.

    A plain name is a file or folder of that name, at any depth, with all that is in it.

    Raises:
        ValueError: no such glob.
    """
    if glob.startswith("!"):
        raise ValueError("a glob with ! in front is not supported; name what to include")
    spec = _spec(_alternatives(glob.removeprefix("./")))
    return lambda path: spec.check_file(path).include is True


def _alternatives(glob: str) -> list[str]:
    """`*.{js,ts}` as `*.js` and `*.ts`."""
    pending, done = [glob], []
    while pending:
        current = pending.pop(0)
        found = re.search(r"\{([^{}]*,[^{}]*)\}", current)
        if found is None:
            done.append(current)
            continue
        pending += [current[: found.start()] + choice + current[found.end() :] for choice in found[1].split(",")]
        if len(pending) + len(done) > _MAX_ALTERNATIVES:
            raise ValueError(f"more than {_MAX_ALTERNATIVES} alternatives")
    return done
