"""The work tree through time: every file that git does not ignore, byte for byte, as a commit under a hidden reference.

    snapshots = WorkTreeSnapshots(work_tree, session_id, folder=session_folder)
    before = snapshots.take(1)
    ...
    patch = snapshots.diff(before, snapshots.take(2))
    snapshots.restore(before)

The user's branch, HEAD, index, stash and reflogs are never touched: snapshots have an index of their own, and their
references (`refs/kodkod/<session>/<step>/<id>`) are such as no git command shows by itself. A snapshot's id depends on
the files alone, so equal ids mean equal files. Clean and smudge filters, line-end conversion and the like are not
applied. Left alone, by `restore` too: ignored files, repositories inside this one, and files that are too large.

What changed is always asked of git. A few changes are then written as git would write them, without it; many are taken
into the private index, from which the next few are counted.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kodkod_agent.loose_objects import Entry, FileTree, LooseStore, ancestors
from kodkod_agent.private_git import IDENTITY_LINES, Git, GitFault, find_repository, find_store, open_private, split

SnapshotId = str
"""A commit id."""
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_MAX_FILE_BYTES = 10 * 1024**2
_FEW_FILES, _FEW_BYTES = 64, 1024**2
"""Up to here, changes are written anew with every snapshot: quicker than to bring the index up to date."""
_MAX_HASH_BYTES = 32
_DIFF = (
    "diff-tree", "-r", "--patch", "--binary", "--full-index", "--no-renames", "--no-ext-diff", "--no-textconv",
    "--no-color", "--relative", "--src-prefix=a/", "--dst-prefix=b/",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One entry of the list."""

    step: int
    id: SnapshotId


@dataclass(frozen=True, slots=True)
class _Changes:
    """How the files differ from the private index; names are relative to the work tree."""

    taken: Mapping[bytes, os.stat_result | None]
    """None: not there any more."""
    left_out: Sequence[bytes]

    @property
    def message(self) -> bytes:
        """Of the commit."""
        names = [os.fsdecode(name) for name in self.left_out]
        return json.dumps({"left_out": names}).encode("ascii") if names else b"snapshot"

    @property
    def are_few(self) -> bool:
        num_bytes = sum(status.st_size for status in self.taken.values() if status)
        return len(self.taken) <= _FEW_FILES and num_bytes <= _FEW_BYTES


@dataclass(slots=True)
class _Base:
    """What the private index holds, as a tree."""

    index_mark: bytes
    tree: str
    files: FileTree | None = None
    """Read when first needed."""


class WorkTreeSnapshots:
    """The snapshots of one session. Blocking, to be used from threads; calls wait for one another."""

    def __init__(
        self,
        work_tree: Path,
        session_id: str,
        *,
        folder: Path,
        max_file_bytes: int = _MAX_FILE_BYTES,
        timeout_s: float = 120.0,
    ) -> None:
        """Open them, new or old.

        Args:
            work_tree: the project; a repository, a folder in one, or neither.
            session_id: letters, digits, `-` and `_`.
            folder: where the session keeps what is its own; everything, for a project without a repository.
            max_file_bytes: a changed or new file above it is left out, and named (`left_out`).
            timeout_s: for each git command.

        Raises:
            ValueError: a session id that can be no reference.
            GitFault: git is missing, or refuses.
        """
        if not _SAFE_NAME.fullmatch(session_id):
            raise ValueError(f"{session_id!r} is no session id; use letters, digits, - and _")
        self._work_tree = work_tree.resolve()
        self._prefix = f"refs/kodkod/{session_id}/"
        self._folder = folder.resolve() / "snapshots.git"
        self._max_file_bytes = max_file_bytes
        self._repository = find_repository(self._work_tree, timeout_s)
        self._git = open_private(self._folder, self._work_tree, self._repository, timeout_s)
        self._references: Git = self._repository.git if self._repository else self._git
        self._store = find_store(self._folder, self._git, self._repository)
        self._place = os.fsencode(self._git.line("rev-parse", "--show-prefix"))
        self._base: _Base | None = None
        self._user_index: tuple[int, int] | None = None
        self._lock = threading.RLock()

    def take(self, step: int) -> SnapshotId:
        """Record the files as they are now; returns the id, which is that of any other snapshot of equal files.

        Raises:
            GitFault: git refused, the disk is full, ...
        """
        with self._lock:
            changes = self._changes()
            return self._write_few(changes, step) or self._write_any(changes, step)

    def restore(self, snapshot: SnapshotId) -> None:
        """Put the files back as they were, and remove those that were not there; what was left out then stays.

        Raises:
            GitFault: no such snapshot, or a file cannot be written.
        """
        with self._lock:
            kept = self.left_out(snapshot)
            self._record(self._changes())
            if kept:
                names = b"".join(os.fsencode(name) + b"\0" for name in kept)
                self._git.must("update-index", "-z", "--force-remove", "--stdin", data=names)
            self._git.must("read-tree", "--reset", "-u", snapshot)

    def diff(self, before: SnapshotId, after: SnapshotId) -> str:
        """What changed, as a patch for `git apply` in the work tree; empty when nothing did.

        Files that are no UTF-8 are in it as binary patches.

        Raises:
            GitFault: no such snapshot.
        """
        with self._lock:
            patch = self._git.must(*_DIFF, before, after)
            try:
                return patch.decode("utf-8")
            except UnicodeDecodeError:
                return self._diff_by_file(before, after)

    def apply(self, undone: str, done: str) -> None:
        """Take one patch back and put another in its place: both, or the files stay as they are.

        Raises:
            GitFault: the files are no longer such as the patches tell of.
        """
        with self._lock:
            self._apply(undone, "--reverse")
            try:
                self._apply(done)
            except GitFault:
                self._apply(undone)
                raise

    def _apply(self, patch: str, *options: str) -> None:
        if patch:
            self._git.must("apply", "--whitespace=nowarn", *options, "-", data=patch.encode("utf-8"))

    def left_out(self, snapshot: SnapshotId) -> tuple[str, ...]:
        """Files too large or unreadable, and repositories inside this one, that are not part of the snapshot."""
        message = self._git.must("cat-file", "commit", snapshot).partition(b"\n\n")[2].strip()
        return tuple(json.loads(message)["left_out"]) if message.startswith(b"{") else ()

    def list(self) -> tuple[Snapshot, ...]:
        """All of this session, by step."""
        lines = self._references.line("for-each-ref", "--format=%(refname) %(objectname)", self._prefix).splitlines()
        found = (line.removeprefix(self._prefix).split(" ") for line in lines)
        return tuple(Snapshot(int(name.split("/")[0]), commit) for name, commit in found)

    def drop_session(self) -> None:
        """Forget them all; git clears their objects away in time. The object is of no use afterwards."""
        with self._lock:
            names = self._references.line("for-each-ref", "--format=delete %(refname)", self._prefix)
            if names:
                self._references.must("update-ref", "--stdin", data=f"{names}\n".encode())
            shutil.rmtree(self._folder, ignore_errors=True)

    # Commits

    def _write_any(self, changes: _Changes, step: int) -> SnapshotId:
        """By way of the private index."""
        self._record(changes)
        tree = self._git.line("write-tree", "--missing-ok")
        commit = self._git.line("commit-tree", tree, data=changes.message)
        self._references.must("update-ref", f"refs/{self._reference(step, commit)}", commit)
        self._base = _Base(self._index_mark(), tree)
        return commit

    def _write_few(self, changes: _Changes, step: int) -> SnapshotId | None:
        """Without git, on top of what the private index holds; None where this will not do."""
        base = self._base
        if self._store is None or base is None or not changes.are_few or base.index_mark != self._index_mark():
            return None
        base.files = base.files or FileTree.parse(self._git.must("ls-tree", "-r", "-t", "-z", "--full-tree", base.tree))
        try:
            entries = self._entries(changes, base.files, self._store)
            if entries is None:
                return None
            tree = base.files.write(entries, self._store).encode("ascii")
            commit = self._store.add("commit", b"tree %s\n%s\n%s" % (tree, IDENTITY_LINES, changes.message))
            self._store.refer(self._reference(step, commit), commit)
        except OSError:  # git, asked next, says what is wrong
            return None
        return commit

    def _entries(self, changes: _Changes, base: FileTree, store: LooseStore) -> Mapping[bytes, Entry | None] | None:
        """The changes by their paths in the tree, files stored; None if any is of an unusual kind."""
        lost = (name for name in changes.left_out if not name.endswith(b"/"))
        entries: dict[bytes, Entry | None] = {self._place + name: None for name in lost}
        for name, status in changes.taken.items():
            path = self._place + name
            old = base.entry(path)
            is_usual = status is None or stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode)
            if not is_usual or (old is not None and old.is_repository):
                return None
            entries[path] = self._entry(name, status, store) if status else None
        are_nested = any(entries.get(folder) for folder in ancestors(path for path in entries if entries[path]))
        return None if are_nested else entries

    def _entry(self, name: bytes, status: os.stat_result, store: LooseStore) -> Entry:
        path = self._work_tree / os.fsdecode(name)
        if stat.S_ISLNK(status.st_mode):
            return Entry(b"120000", store.add("blob", os.fsencode(path.readlink())))
        mode = b"100755" if status.st_mode & stat.S_IXUSR else b"100644"
        return Entry(mode, store.add("blob", path.read_bytes()))

    def _reference(self, step: int, commit: str) -> str:
        return f"{self._prefix.removeprefix('refs/')}{step:06d}/{commit[:16]}"

    # The private index

    def _index_mark(self) -> bytes:
        """Names its content: git ends the file with a hash of all before it."""
        try:
            with (self._folder / "index").open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - _MAX_HASH_BYTES))
                return file.read()
        except FileNotFoundError:
            return b""

    def _changes(self) -> _Changes:
        """How the files differ from the private index."""
        self._follow_user_index()
        listed = self._git.must("ls-files", "-z", "-m", "-d", "-o", *self._excludes(), "--", ".")
        names = sorted(set(split(listed)))
        linked = {folder for folder in ancestors(names) if (self._work_tree / os.fsdecode(folder)).is_symlink()}
        taken: dict[bytes, os.stat_result | None] = {}
        left_out = []
        for name in names:
            status = None if linked and linked & ancestors([name]) else self._status(name)
            if self._fits(name, status):
                taken[name] = status
            else:
                left_out.append(name)
        return _Changes(taken, left_out)

    def _record(self, changes: _Changes) -> None:
        """Bring the private index to the state of the files."""
        if taken := b"".join(name + b"\0" for name, status in changes.taken.items() if status):
            self._git.must("update-index", "-z", "--add", "--remove", "--replace", "--stdin", data=taken)
        gone = [name for name, status in changes.taken.items() if status is None]
        gone += [name for name in changes.left_out if not name.endswith(b"/")]
        if gone:
            data = b"".join(name + b"\0" for name in gone)
            self._git.must("update-index", "-z", "--force-remove", "--stdin", data=data)

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
        except OSError as error:
            raise GitFault(f"{os.fsdecode(name)!r} cannot be looked at ({error.strerror}), for a snapshot") from error

    def _fits(self, name: bytes, status: os.stat_result | None) -> bool:
        """Whether a listed path goes into the snapshot; a deleted one does."""
        if name.endswith(b"/"):  # a repository inside this one
            return False
        if status is None or not stat.S_ISREG(status.st_mode):
            return True
        return status.st_size <= self._max_file_bytes and os.access(self._work_tree / os.fsdecode(name), os.R_OK)

    def _follow_user_index(self) -> None:
        """Take up what the user tracks: a tracked file is part of the project, ignored or not."""
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

    # Patches

    def _diff_by_file(self, before: SnapshotId, after: SnapshotId) -> str:
        """The patch file by file, with those that are no UTF-8 declared binary."""
        names = split(
            self._git.must("diff-tree", "-r", "-z", "--name-only", "--relative", "--no-renames", before, after)
        )
        return "".join(self._diff_of_file(os.fsdecode(name), before, after) for name in names)

    def _diff_of_file(self, name: str, before: SnapshotId, after: SnapshotId) -> str:
        patch = self._git.must(*_DIFF, before, after, "--", name)
        try:
            return patch.decode("utf-8")
        except UnicodeDecodeError:
            attributes = self._folder / "info" / "attributes"
            usual = attributes.read_bytes()
            attributes.write_bytes(usual + b"* -diff\n")
            try:
                return self._git.must(*_DIFF, before, after, "--", name).decode("ascii")
            finally:
                attributes.write_bytes(usual)
