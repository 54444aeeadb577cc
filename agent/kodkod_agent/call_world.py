"""The work tree as calls may name it: which paths there are, what an edit may quote, how many lines a file has.

Read when a call first asks, and kept for the turn. What the turn's own calls change is laid over it: they are done one
after another, so the second edit quotes the file as the first one leaves it.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from kodkod_engine.chat.tokenizer import Tokenizer
from kodkod_engine.constraints.file_text import MAX_BYTES, StretchOf
from kodkod_engine.constraints.paths import Entry
from kodkod_tools.base import ToolContext, ToolError
from kodkod_tools.files import read_text
from kodkod_tools.paths import resolve, resolve_readable, resolve_writable
from kodkod_tools.text.encoding import UTF8, Encoding, NotText, detect, encode
from kodkod_tools.text.lines import split
from kodkod_tools.text.replace import Applied, replace, telling_lines, tells_one_place

if TYPE_CHECKING:
    from kodkod_engine.constraints.turn_constraint import Made

_KEPT_AUTOMATA = 4
_SNIFFED_BYTES = 4096
_MAX_LOOKED_INTO = 200
"""Folders that are looked into for something that may be named; beyond that it is taken for granted."""
_MAX_PLACES = 2_000
"""That a line of an edit may choose among: where a quotation stands more often, one of the first of them."""
_NEVER = ".git"


class Kind(StrEnum):
    """What a path is to lead to."""

    ANYTHING = "anything"
    FOLDER = "folder"
    TEXT = "text"
    """A file that an edit can quote: text, not empty, not too large."""


class Automata:
    """The automata of files, by their text: the same file is edited again and again."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._kept: OrderedDict[str, Future[StretchOf]] = OrderedDict()
        self._worker = ThreadPoolExecutor(1, "kodkod-automata")

    def prepare(self, text: str) -> Future[StretchOf]:
        """Begin to build in a thread of its own, while the model goes on."""
        found = self._kept.pop(text, None)
        if found is None:
            found = self._worker.submit(StretchOf, self._tokenizer, text)
        self._kept[text] = found
        while len(self._kept) > _KEPT_AUTOMATA:
            self._kept.popitem(last=False)
        return found

    def close(self) -> None:
        """End the thread, and let go of what it built: tens of megabytes for large files."""
        self._worker.shutdown(wait=False, cancel_futures=True)
        self._kept.clear()


@dataclass
class CallWorld:
    """One turn's view of the work tree. Used from the engine thread."""

    tools: ToolContext
    automata: Automata
    _listed: dict[tuple[Kind, str], list[Entry]] = field(default_factory=dict)
    _read: dict[str, str | None] = field(default_factory=dict)
    _encodings: dict[str, Encoding] = field(default_factory=dict)

    def after(self, made: Sequence[Made]) -> ChangedWorld:
        """The world as some calls of the turn will leave it."""
        changed: dict[str, str] = {}
        world = ChangedWorld(self, changed)
        for name, given in made:
            path = self.relative(given.get("path", ""))
            if path is None:
                continue
            text = world.text(path)
            if name == "write":
                text = given.get("content", "")
            elif name == "edit":
                text = None if text is None else _edited(text, given)
            else:
                continue
            if text is not None and self._can_be_kept(path, text):
                changed[path] = text
        return world

    def _can_be_kept(self, path: str, text: str) -> bool:
        """Whether the file's encoding has all of it."""
        try:
            encode(text, self._encodings.get(path, UTF8))
        except UnicodeEncodeError:
            return False
        return True

    def relative(self, path: str) -> str | None:
        """A path as tools name it; None when it leads out of the tree."""
        try:
            return resolve(self.tools, path).relative
        except ToolError:
            return None

    def text(self, path: str) -> str | None:
        """A file's text; None when an edit could not read it."""
        if path not in self._read:
            try:
                place = resolve_writable(self.tools, path)
                file = read_text(place, self.tools.config.max_edit_bytes)
                self._read[path], self._encodings[path] = file.text, file.encoding
            except (ToolError, OSError):
                self._read[path] = None
        return self._read[path]

    def log_text(self, path: str) -> str | None:
        """That of a kept output, outside of the tree; None when it cannot be read."""
        if path not in self._read:
            try:
                self._read[path] = read_text(resolve_readable(self.tools, path), self.tools.config.max_edit_bytes).text
            except (ToolError, OSError):
                self._read[path] = None
        return self._read[path]

    def entries(self, kind: Kind, folder: str) -> list[Entry]:
        """What is in a folder below the work tree, its path with a slash or empty, as far as it leads to that kind."""
        key = (kind, folder)
        if key not in self._listed:
            self._listed[key] = [entry for entry in self._scan(kind, folder) if entry.may_be_named or entry.is_folder]
        return self._listed[key]

    def closed(self, folder: str) -> set[bytes]:
        """See `ChangedWorld`, without what the turn's own calls write."""
        try:
            with os.scandir(self.tools.work_tree / folder) as found:
                return {os.fsencode(entry.name) for entry in found if not (self._is_inside(entry) and entry.is_dir())}
        except OSError:
            return set()

    def _scan(self, kind: Kind, folder: str) -> Iterable[Entry]:
        try:
            with os.scandir(self.tools.work_tree / folder) as found:
                listed = sorted(found, key=lambda entry: entry.name)
        except OSError:
            return
        for entry in listed:
            if entry.name == _NEVER or not self._is_inside(entry):
                continue
            if entry.is_dir():
                if kind is not Kind.TEXT or self._holds_text(Path(entry.path), _Count()):
                    yield Entry(os.fsencode(entry.name), is_folder=True, may_be_named=kind is not Kind.TEXT)
            elif (kind is Kind.ANYTHING and entry.is_file()) or (kind is Kind.TEXT and _is_text(entry)):
                yield Entry(os.fsencode(entry.name))

    def _is_inside(self, entry: os.DirEntry[str]) -> bool:
        """Whether it is text that a path can hold, and no link out of the tree or into nothing."""
        try:
            entry.name.encode()
            if entry.is_symlink():
                return Path(entry.path).resolve(strict=True).is_relative_to(self.tools.work_tree)
        except (OSError, RuntimeError, UnicodeEncodeError):
            return False
        return True

    def _holds_text(self, folder: Path, count: _Count) -> bool:
        count.looked += 1
        if count.looked > _MAX_LOOKED_INTO:
            return True
        try:
            with os.scandir(folder) as found:
                listed = [entry for entry in found if entry.name != _NEVER and not entry.is_symlink()]
        except OSError:
            return False
        if any(not entry.is_dir() and _is_text(entry) for entry in listed):
            return True
        return any(entry.is_dir() and self._holds_text(Path(entry.path), count) for entry in listed)


@dataclass(slots=True)
class _Count:
    looked: int = 0


def _is_text(entry: os.DirEntry[str]) -> bool:
    try:
        if not entry.is_file() or not 0 < entry.stat().st_size <= MAX_BYTES:
            return False
        with open(entry.path, "rb") as file:  # noqa: PTH123  # a DirEntry's path is text, and this is asked of many
            head = file.read(_SNIFFED_BYTES)
        detect(head, whole=False)
    except (OSError, NotText):
        return False
    return True


def _edited(text: str, given: Mapping[str, str]) -> str | None:
    line = given.get("line", "")
    outcome = replace(
        text,
        given.get("old", ""),
        given.get("new", ""),
        replace_all=given.get("replace_all") == "true",
        line=int(line) if line.isdecimal() else None,
    )
    return outcome.text if isinstance(outcome, Applied) else None


@dataclass(frozen=True)
class ChangedWorld:
    """The world behind some calls that are still to be done."""

    base: CallWorld
    changed: Mapping[str, str]
    """Texts by path."""

    def text(self, path: str) -> str | None:
        """See `CallWorld`."""
        return self.changed[path] if path in self.changed else self.base.text(path)

    def quotable(self, path: str) -> Future[StretchOf] | None:
        """The automaton of a file, being built; None where there is no text."""
        text = self._named_text(path)
        return None if text is None else self.base.automata.prepare(text)

    def telling_lines(self, path: str, old: str) -> list[int] | None:
        """See `replace.telling_lines`; None where there is no text."""
        text = self._named_text(path)
        return None if text is None else telling_lines(text, old, _MAX_PLACES)

    def can_be_told(self, path: str, old: str, line: int | None) -> bool:
        """Whether a quotation means one place of a file, with that line or with one that is still to be named."""
        text = self._named_text(path)
        if text is None or tells_one_place(text, old, line):
            return True
        return line is None and bool(telling_lines(text, old, _MAX_PLACES))

    def _named_text(self, path: str) -> str | None:
        relative = self.base.relative(path)
        return None if relative is None else self.text(relative)

    def num_lines(self, path: str) -> int | None:
        """Of a text file, 1 of an empty one; None of anything else."""
        relative = self.base.relative(path)
        text = self.base.log_text(path) if relative is None else self.text(relative)
        return None if text is None else max(1, len(split(text)))

    def may_be_written(self, path: str) -> bool:
        """Whether a file can be there: no folder is or will be, and it leads nowhere else."""
        folder = f"{self.base.relative(path)}/"
        if any(name.startswith(folder) for name in self.changed):
            return False
        try:
            return not resolve_writable(self.base.tools, path).absolute.is_dir()
        except (ToolError, OSError):
            return False

    def closed(self, folder: bytes) -> set[bytes]:
        """Names in a folder, its path with a slash or empty, that no new path leads through: files, and links out."""
        path = os.fsdecode(folder)
        written = {rest for name in self.changed if name.startswith(path) and "/" not in (rest := name[len(path) :])}
        return self.base.closed(path) | {os.fsencode(name) for name in written}


@dataclass(frozen=True)
class Tree:
    """See `paths.Folders`: paths relative to the work tree, absolute ones to it, and ones into other folders."""

    world: ChangedWorld
    kind: Kind
    logs: Path | None = None
    """A folder outside of the tree whose files may be named too, by absolute paths."""

    def entries(self, folder: bytes) -> Sequence[Entry]:
        """See `Folders`."""
        path = os.fsdecode(folder)
        if path.startswith("/"):
            return self._absolute(path)
        below = path.removeprefix("./")
        found = self._below(below)
        if path:
            return found
        here = self.kind is not Kind.TEXT
        roots = [Entry(b".", is_folder=True, may_be_named=here), Entry(b"", is_folder=True, may_be_named=False)]
        return [*roots, *found] if found or here else []

    def _below(self, folder: str) -> list[Entry]:
        found = self.world.base.entries(self.kind, folder)
        if self.kind is Kind.FOLDER or not self.world.changed:
            return found
        known = {entry.name for entry in found}
        inside = [path[len(folder) :] for path, text in self.world.changed.items() if path.startswith(folder) and text]
        fresh = {os.fsencode(rest.split("/")[0]): "/" in rest for rest in inside}
        named = self.kind is Kind.ANYTHING
        return [*found, *(Entry(n, f, named or not f) for n, f in sorted(fresh.items()) if n not in known)]

    def _absolute(self, path: str) -> Sequence[Entry]:
        tree = f"{self.world.base.tools.work_tree}/"
        if path.startswith(tree):
            return self._below(path[len(tree) :])
        roots = [tree] if self.logs is None else [tree, f"{self.logs}/"]
        names = {root[len(path) :].split("/")[0]: root for root in roots if root.startswith(path) and root != path}
        if self.logs is not None and path == f"{self.logs}/":
            return _files_in(self.logs)
        return [Entry(os.fsencode(name), is_folder=True, may_be_named=False) for name in sorted(names)]


def _files_in(folder: Path) -> list[Entry]:
    try:
        with os.scandir(folder) as found:
            return [Entry(os.fsencode(entry.name)) for entry in sorted(found, key=lambda e: e.name) if entry.is_file()]
    except OSError:
        return []
