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

import fcntl
import json
import os
import re
import shutil
import stat
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from kodkod_agent.loose_objects import Entry, FileTree, LooseStore, ancestors
from kodkod_agent.private_git import IDENTITY_LINES, Git, GitFault, find_repository, find_store, open_private, split
from kodkod_agent.private_index import Changes, PrivateIndex
from kodkod_tools.base import ToolError
from kodkod_tools.paths import Place, open_file

SnapshotId = str
"""A commit id."""
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_MAX_FILE_BYTES = 10 * 1024**2
_DIFF = (
    "diff-tree", "-r", "--patch", "--binary", "--full-index", "--no-renames", "--no-ext-diff", "--no-textconv",
    "--no-color", "--relative", "--src-prefix=a/", "--dst-prefix=b/",
)  # fmt: skip
_LISTS_IGNORED = re.compile(rb"(^|/)\.gitignore$")
_ADDED = ("diff-index", "--cached", "-z", "--name-only", "--relative", "--no-renames", "--diff-filter=A")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One entry of the list."""

    step: int
    id: SnapshotId


@dataclass(slots=True)
class _Base:
    """What the private index holds, as a tree."""

    index_mark: bytes
    tree: str
    files: FileTree | None = None
    """Read when first needed."""


class WorkTreeSnapshots:
    """The snapshots of one session. Blocking, to be used from threads; calls wait for one another, and for those of
    other objects and processes that work in the same folder.
    """

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
        self._repository = find_repository(self._work_tree, timeout_s)
        self._git = open_private(self._folder, self._work_tree, self._repository, timeout_s)
        self._index = PrivateIndex(
            self._folder, self._work_tree, self._git, self._repository, max_file_bytes=max_file_bytes
        )
        self._references: Git = self._repository.git if self._repository else self._git
        self._store = find_store(self._folder, self._git, self._repository)
        self._place = os.fsencode(self._git.line("rev-parse", "--show-prefix"))
        self._base: _Base | None = None
        self._lock = threading.RLock()
        if self._store is not None:
            with self._alone():
                self._store.unlock(self._prefix.removeprefix("refs/"))

    def take(self, step: int) -> SnapshotId:
        """Record the files as they are now; returns the id, which is that of any other snapshot of equal files.

        Raises:
            GitFault: git refused, the disk is full, ...
        """
        with self._alone():
            changes = self._index.changes()
            return self._write_few(changes, step) or self._write_any(changes, step)

    def restore(self, snapshot: SnapshotId) -> None:
        """Put the files back as they were, and remove those that were not there; what was left out, or ignored, stays.

        Raises:
            GitFault: no such snapshot, or a file cannot be written.
        """
        with self._alone(), self._gone_told(snapshot):
            kept = {os.fsencode(name) for name in self.left_out(snapshot)}
            self._index.record(self._index.changes())
            added = set(split(self._git.must(*_ADDED, snapshot))) - self._index.tracked()
            unlisted = {name for name in added if not _LISTS_IGNORED.search(name)}
            self._index.forget([*kept, *unlisted])
            self._git.must("read-tree", "--reset", "-u", snapshot)
            # Only now the lists of ignored names are those of then: what they name was there maybe, and is not known.
            gone = self._index.changes().among(unlisted - kept)
            if gone.taken:
                self._index.record(gone)
                self._git.must("read-tree", "--reset", "-u", snapshot)

    def hold(self, snapshot: SnapshotId, step: int) -> None:
        """Make another session's snapshot one of this session's as well, which stays when that session is deleted.

        Raises:
            GitFault: no such snapshot.
        """
        self._references.must("update-ref", f"refs/{self._reference(step, snapshot)}", snapshot)

    def diff(self, before: SnapshotId, after: SnapshotId) -> str:
        """What changed, as a patch for `git apply` in the work tree; empty when nothing did.

        Files that are no UTF-8 are in it as binary patches.

        Raises:
            GitFault: no such snapshot.
        """
        with self._alone(), self._gone_told(before, after):
            patch = self._git.must(*_DIFF, before, after)
            try:
                return patch.decode("utf-8")
            except UnicodeDecodeError:
                binary = self._as_binaries(before, after)
                return "".join(map(_first_text, _by_file(patch), _by_file(binary)))

    def apply(self, undone: str, done: str) -> None:
        """Take one patch back and put another in its place: both, or the files stay as they are.

        Raises:
            GitFault: the files are no longer such as the patches tell of.
        """
        with self._alone():
            self._apply(undone, "--reverse")
            try:
                self._apply(done)
            except GitFault:
                self._apply(undone)
                raise

    def _apply(self, patch: str, *options: str) -> None:
        if patch:
            # Paths in a patch of git's own are taken from the repository's root, wherever git is called.
            place = (f"--directory={os.fsdecode(self._place)}",) if self._place else ()
            self._git.must("apply", "--whitespace=nowarn", *place, *options, "-", data=patch.encode("utf-8"))

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

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One call at a time: the screens look at what going back would change while the session may go back."""
        with self._lock, _held(self._folder):
            (self._folder / "index.lock").unlink(missing_ok=True)  # of a git that was killed
            yield

    @contextmanager
    def _gone_told(self, *snapshots: SnapshotId) -> Iterator[None]:
        """Where git fails for want of a snapshot, say so instead of what git says of an object."""
        try:
            yield
        except GitFault as fault:
            for snapshot in snapshots:
                if self._git.run("cat-file", "-e", snapshot).returncode:
                    raise GitFault(
                        f"{self._work_tree} has no snapshot {snapshot[:16]}: its repository is another than the "
                        "session's was; go on where that is, or begin a new session"
                    ) from fault
            raise

    # Commits

    def _write_any(self, changes: Changes, step: int) -> SnapshotId:
        """By way of the private index."""
        self._index.record(changes)
        tree = self._git.line("write-tree", "--missing-ok")
        commit = self._git.line("commit-tree", tree, data=_message(changes))
        self.hold(commit, step)
        self._base = _Base(self._index.mark(), tree)
        return commit

    def _write_few(self, changes: Changes, step: int) -> SnapshotId | None:
        """Without git, on top of what the private index holds; None where this will not do."""
        base = self._base
        if self._store is None or base is None or not changes.are_few or base.index_mark != self._index.mark():
            return None
        base.files = base.files or FileTree.parse(self._git.must("ls-tree", "-r", "-t", "-z", "--full-tree", base.tree))
        try:
            entries = self._entries(changes, base.files, self._store)
            if entries is None:
                return None
            tree = base.files.write(entries, self._store).encode("ascii")
            commit = self._store.add("commit", b"tree %s\n%s\n%s" % (tree, IDENTITY_LINES, _message(changes)))
            self._store.refer(self._reference(step, commit), commit)
        except OSError:  # git, asked next, says what is wrong
            return None
        return commit

    def _entries(self, changes: Changes, base: FileTree, store: LooseStore) -> Mapping[bytes, Entry | None] | None:
        """The changes by their paths in the tree, files stored; None if any is of an unusual kind."""
        entries: dict[bytes, Entry | None] = {self._place + name: None for name in changes.lost}
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
        return Entry(mode, store.add("blob", self._content(name)))

    def _content(self, name: bytes) -> bytes:
        """Of a file that was one when it was looked at: a link in its place by now, or above it, is not followed."""
        place = Place(self._work_tree, tuple(os.fsdecode(name).split("/")))
        try:
            with os.fdopen(open_file(place), "rb") as file:
                return file.read()
        except ToolError as error:
            raise OSError(error.message) from error

    def _reference(self, step: int, commit: str) -> str:
        return f"{self._prefix.removeprefix('refs/')}{step:06d}/{commit[:16]}"

    # Patches

    def _as_binaries(self, before: SnapshotId, after: SnapshotId) -> bytes:
        """The patch with all files declared binary."""
        attributes = self._folder / "info" / "attributes"
        usual = attributes.read_bytes()
        attributes.write_bytes(usual + b"* -diff\n")
        try:
            return self._git.must(*_DIFF, before, after)
        finally:
            attributes.write_bytes(usual)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    with (folder / "alone").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def copy_snapshots(folder: Path, to: Path) -> None:
    """Copy what a session keeps of its snapshots, which may be at work: as it is between two of its calls."""
    with _held(folder):
        shutil.copytree(folder, to)


def _by_file(patch: bytes) -> list[bytes]:
    return re.split(rb"(?m)^(?=diff --git )", patch)


def _first_text(*pieces: bytes) -> str:
    """The first that is UTF-8. A link to what is none has no such patch: it can be read and not applied."""
    for piece in pieces:
        with suppress(UnicodeDecodeError):
            return piece.decode("utf-8")
    return pieces[-1].decode("utf-8", "replace")


def _message(changes: Changes) -> bytes:
    """Of the commit: what is not part of it."""
    names = [os.fsdecode(name) for name in changes.left_out]
    return json.dumps({"left_out": names}).encode("ascii") if names else b"snapshot"
