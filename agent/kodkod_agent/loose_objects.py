"""Objects and references as git itself lays them down: loose, one file each, written without a process.

    store = LooseStore(objects, references, "sha1")
    blob = store.add("blob", b"text")
    tree = FileTree.parse(git.must("ls-tree", "-r", "-t", "-z", base)).write({b"a/b": Entry(b"100644", blob)}, store)
    store.refer("kodkod/s/000001/0123", store.add("commit", ...))

The formats are those of gitformat-loose (zlib of `<kind> <size> NUL <content>`, named by its hash) and of git's
object documentation. Everything here raises OSError where a file cannot be written.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

_FOLDER_MODE = b"40000"
_REPOSITORY_MODE = b"160000"
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_COMPRESSION_LEVEL = 1  # git's own choice for loose objects


@dataclass(frozen=True, slots=True)
class Entry:
    """What a name in a tree stands for."""

    mode: bytes
    """Octal, without leading zeros."""
    id: str

    @property
    def is_folder(self) -> bool:
        """A tree."""
        return self.mode == _FOLDER_MODE

    @property
    def is_repository(self) -> bool:
        """A submodule's commit."""
        return self.mode == _REPOSITORY_MODE


@dataclass(frozen=True, slots=True)
class LooseStore:
    """Where one repository keeps its loose objects and references."""

    objects: Path
    references: Path
    """The folder `refs`."""
    object_format: str
    """`sha1` or `sha256`."""

    def add(self, kind: Literal["blob", "tree", "commit"], content: bytes) -> str:
        """Store an object, unless it is there; returns its id."""
        body = b"%s %d\0%s" % (kind.encode(), len(content), content)
        name = hashlib.new(self.object_format, body, usedforsecurity=False).hexdigest()
        path = self.objects / name[:2] / name[2:]
        try:
            os.utime(path)  # young objects are safe from garbage collection until a reference holds them
        except OSError:  # not there, or another person's
            _put(path, zlib.compress(body, _COMPRESSION_LEVEL), f"tmp_obj_{secrets.token_hex(8)}", 0o444)
        return name

    def refer(self, name: str, commit: str) -> None:
        """Point a reference, new or with this very value, to a commit; `name` is what follows `refs/`."""
        path = self.references / name
        if not path.exists():
            _put(path, f"{commit}\n".encode("ascii"), f"{path.name}.lock", 0o666)

    def unlock(self, name: str) -> None:
        """Take away the locks on references below `name` that a killed process left."""
        for lock in (self.references / name).rglob("*.lock"):
            lock.unlink(missing_ok=True)


def _put(path: Path, data: bytes, temporary_name: str, mode: int) -> None:
    """Write a file so that it is there whole or not at all."""
    temporary = path.with_name(temporary_name)
    try:
        file = os.open(temporary, _NEW_FILE, mode)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(temporary, _NEW_FILE, mode)
    try:
        with os.fdopen(file, "wb") as stream:
            stream.write(data)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@dataclass(frozen=True, slots=True)
class FileTree:
    """A whole tree in memory, to write others that differ from it in a few files."""

    folders: Mapping[bytes, Mapping[bytes, Entry]]
    """What each folder, named by its path (empty for the root), holds."""

    @classmethod
    def parse(cls, listing: bytes) -> FileTree:
        """From `ls-tree -r -t -z --full-tree`."""
        folders: dict[bytes, dict[bytes, Entry]] = {b"": {}}
        for line in listing.split(b"\0")[:-1]:
            facts, _, path = line.partition(b"\t")
            mode, _, object_id = facts.split(b" ")
            parent, name = _split(path)
            folders.setdefault(parent, {})[name] = Entry(mode.lstrip(b"0"), object_id.decode("ascii"))
        return cls(folders)

    def entry(self, path: bytes) -> Entry | None:
        """What is at this path."""
        parent, name = _split(path)
        return self.folders.get(parent, {}).get(name)

    def write(self, changes: Mapping[bytes, Entry | None], store: LooseStore) -> str:
        """Store the trees that result from the changes (None: gone); returns the root's id.

        No two of the changes may add a file and one below it.
        """
        touched = self._applied(changes)
        for path in sorted(touched, reverse=True):  # what is below a folder comes before it
            if not path or changes.get(path):  # something else takes the folder's place
                continue
            parent, name = _split(path)
            beside = touched[parent]
            if touched[path]:
                beside[name] = Entry(_FOLDER_MODE, store.add("tree", _listing(touched[path])))
            elif name in beside and beside[name].is_folder:
                del beside[name]
        return store.add("tree", _listing(touched[b""]))

    def _applied(self, changes: Mapping[bytes, Entry | None]) -> dict[bytes, dict[bytes, Entry]]:
        """The folders above the changes, with them; the folders' own entries are still the old ones."""
        touched = {path: dict(self.folders.get(path, {})) for path in {b"", *ancestors(changes)}}
        for path, entry in changes.items():
            parent, name = _split(path)
            if entry is not None:
                touched[parent][name] = entry
            else:
                touched[parent].pop(name, None)
        return touched


def ancestors(paths: Iterable[bytes]) -> set[bytes]:
    """The folders the paths lie in, those of the folders and so on, without the root."""
    found: set[bytes] = set()
    for path in paths:
        parent, _ = _split(path)
        while parent and parent not in found:
            found.add(parent)
            parent, _ = _split(parent)
    return found


def _split(path: bytes) -> tuple[bytes, bytes]:
    parent, _, name = path.rpartition(b"/")
    return parent, name


def _listing(entries: Mapping[bytes, Entry]) -> bytes:
    """A tree object's content; git sorts folders as if their names ended in a slash."""
    items = sorted(entries.items(), key=lambda item: item[0] + b"/" if item[1].is_folder else item[0])
    return b"".join(b"%s %s\0%s" % (entry.mode, name, bytes.fromhex(entry.id)) for name, entry in items)
