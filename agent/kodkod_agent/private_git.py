"""git with a private folder: the settings, hooks, filters and attributes of the repository at hand are never read.

Objects may be kept in that repository's store, so that nothing is stored twice; everything else, the index above all,
lies in the private folder. What needs the repository itself (its references, its list of tracked files) is asked with
hooks and the file-system monitor switched off.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from kodkod_agent.errors import AgentError
from kodkod_agent.loose_objects import LooseStore

_RAW_ATTRIBUTES = "* -text -filter -ident -working-tree-encoding !eol !diff !merge\n"
"""Read before any `.gitattributes`: files go in and come out byte for byte."""
_SETTINGS = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.logAllRefUpdates=false",
    "core.sparseCheckout=false",
    "core.precomposeUnicode=false",
    "core.quotePath=true",
    "core.safecrlf=false",
    "core.autocrlf=false",
    "index.sparse=false",
    "index.skipHash=false",
    "gc.auto=0",
    "maintenance.auto=false",
    "submodule.recurse=false",
    "protocol.allow=never",
)
_ENVIRONMENT = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ALLOW_PROTOCOL": "none",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_LITERAL_PATHSPECS": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "LC_ALL": "C.UTF-8",
    # One author and one moment for all, so that equal files make equal ids.
    "GIT_AUTHOR_NAME": "kodkod",
    "GIT_AUTHOR_EMAIL": "kodkod@localhost",
    "GIT_AUTHOR_DATE": "@0 +0000",
    "GIT_COMMITTER_NAME": "kodkod",
    "GIT_COMMITTER_EMAIL": "kodkod@localhost",
    "GIT_COMMITTER_DATE": "@0 +0000",
}
IDENTITY_LINES = b"author kodkod <kodkod@localhost> 0 +0000\ncommitter kodkod <kodkod@localhost> 0 +0000\n"
"""The same in a commit object."""
_PLAIN_FILES = b"core.filemode true\n"
_INHERITED = ("PATH", "HOME", "XDG_CONFIG_HOME", "TMPDIR")


class GitFault(AgentError):
    """git did not do what a snapshot needs."""


@dataclass(frozen=True, slots=True)
class Git:
    """How git is called in one place."""

    cwd: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float = 60.0

    def run(self, *arguments: str, data: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        """Run one command.

        Raises:
            GitFault: git or the folder is missing, or it took too long.
        """
        settings = [part for setting in _SETTINGS for part in ("-c", setting)]
        inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        try:
            return subprocess.run(
                ["git", "--no-pager", *settings, *arguments],
                cwd=self.cwd,
                env={**inherited, **_ENVIRONMENT, **self.environment},
                input=data or b"",
                capture_output=True,
                check=False,
                timeout=self.timeout_s,
            )
        except (FileNotFoundError, NotADirectoryError) as error:
            if not self.cwd.is_dir():
                raise GitFault(f"the folder {self.cwd} is gone; put it back, and go on") from error
            raise GitFault("git is not installed; snapshots of the files need it") from error
        except subprocess.TimeoutExpired as error:
            raise GitFault(f"git {arguments[0]} took more than {self.timeout_s:g} s in {self.cwd}") from error

    def must(self, *arguments: str, data: bytes | None = None) -> bytes:
        """As `run`, for a command that has to succeed; its output.

        Raises:
            GitFault: with git's first words.
        """
        done = self.run(*arguments, data=data)
        if done.returncode:
            words = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["failed without a word"]
            raise GitFault(f"git {arguments[0]} in {self.cwd}: {words[0].removeprefix('fatal: ')}")
        return done.stdout

    def line(self, *arguments: str, data: bytes | None = None) -> str:
        """As `must`, for one line of text."""
        return os.fsdecode(self.must(*arguments, data=data).removesuffix(b"\n"))


@dataclass(frozen=True, slots=True)
class Repository:
    """The repository a folder lies in."""

    git: Git
    top: Path
    """Root of its work tree."""
    objects: Path
    index: Path
    references: Path
    exclude_files: tuple[Path, ...]
    """Lists of ignored names besides the `.gitignore` files."""
    object_format: str


def find_repository(work_tree: Path, timeout_s: float) -> Repository | None:
    """The repository whose files `work_tree` holds; None when there is none, git refuses it, or ignores the folder."""
    git = Git(work_tree, timeout_s=timeout_s)
    found = git.run("rev-parse", "--is-inside-work-tree", "--absolute-git-dir", "--show-toplevel")
    lines = os.fsdecode(found.stdout).split("\n")
    if found.returncode or lines[0] != "true":
        return None
    folder, top = lines[1], Path(lines[2])
    git = Git(work_tree, {"GIT_DIR": folder, "GIT_WORK_TREE": str(top)}, timeout_s)
    if top != work_tree and _is_ignored(git, work_tree, top):
        return None
    names = ("objects", "index", "info/exclude", "refs/heads")
    where = {name: work_tree / git.line("rev-parse", "--git-path", name) for name in names}
    personal = git.run("config", "--type=path", "--get", "core.excludesFile")
    default = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "git" / "ignore"
    excludes = (where["info/exclude"], Path(os.fsdecode(personal.stdout.rstrip(b"\n"))) if personal.stdout else default)
    files = tuple(path for path in (top / exclude for exclude in excludes) if path.is_file())
    object_format = git.line("rev-parse", "--show-object-format")
    return Repository(git, top, where["objects"], where["index"], where["refs/heads"].parent, files, object_format)


def _is_ignored(git: Git, work_tree: Path, top: Path) -> bool:
    """Whether the repository ignores the folder; what the folder's own list says is of what is in it."""
    plain = replace(git, environment={**git.environment, "GIT_LITERAL_PATHSPECS": "0"})  # it knows no other
    told = split(plain.run("check-ignore", "--verbose", "-z", "--stdin", data=b".\0").stdout)
    if not told:
        return False
    source, _, pattern, _ = told
    return top / os.fsdecode(source) != work_tree / ".gitignore" and not pattern.startswith(b"!")


def open_private(folder: Path, work_tree: Path, repository: Repository | None, timeout_s: float) -> Git:
    """git on the files of `work_tree`, with `folder` (made if need be) for all it keeps.

    Raises:
        GitFault: it cannot be made.
    """
    attributes = folder / "info" / "attributes"
    if not attributes.exists():  # written last: git may be killed halfway, and begin again
        folder.mkdir(parents=True, exist_ok=True)
        kind = f"--object-format={repository.object_format if repository else 'sha1'}"
        Git(folder, {"GIT_CONFIG_GLOBAL": os.devnull}, timeout_s).must(
            "init", "--quiet", "--bare", "--template=", kind, "."
        )
    (folder / "info").mkdir(exist_ok=True)
    if not attributes.exists() or attributes.read_text(encoding="ascii") != _RAW_ATTRIBUTES:
        attributes.write_text(_RAW_ATTRIBUTES, encoding="ascii")  # not while another reads them
    environment = {
        "GIT_DIR": str(folder),
        "GIT_WORK_TREE": str(repository.top if repository else work_tree),
        "GIT_INDEX_FILE": str(folder / "index"),
        "GIT_CONFIG_GLOBAL": os.devnull,
    }
    if repository:
        environment["GIT_OBJECT_DIRECTORY"] = str(repository.objects)
    return Git(work_tree, environment, timeout_s)


def find_store(folder: Path, private: Git, repository: Repository | None) -> LooseStore | None:
    """Where snapshots may be written without git; None where it does more than lay files down.

    That is where references are kept otherwise (reftable), or where git probed the file system on making `folder` and
    found it to lose modes, links or the spelling of names.
    """
    references = repository.references if repository else folder / "refs"
    probed = private.run(
        "config", "--local", "--get-regexp", r"^core\.(filemode|symlinks|ignorecase|precomposeunicode)$"
    )
    if probed.stdout != _PLAIN_FILES or not (references / "heads").is_dir():
        return None
    if repository:
        return LooseStore(repository.objects, references, repository.object_format)
    return LooseStore(folder / "objects", references, "sha1")


def split(output: bytes) -> Sequence[bytes]:
    """The records of a zero-terminated output."""
    return output.split(b"\0")[:-1]
