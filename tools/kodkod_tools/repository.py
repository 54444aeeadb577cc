"""git on the host, run so that nothing a repository brings along is executed.

A repository's own configuration may name programs: hooks, a file-system monitor, external diffs, text converters,
clean and smudge filters, merge drivers, pagers, editors, signing and transport commands. git sees none of it but a copy
of what is harmless (`repository_settings.py`). What the user's own configuration (`~/.gitconfig`) says of filters still
holds; what it or git's defaults would run beside them is switched off. Nothing is fetched: no transport is allowed.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Self

from kodkod_tools.base import ErrorCode, ToolError
from kodkod_tools.repository_settings import close, is_of, show

if TYPE_CHECKING:
    from git import Git
    from typing_extensions import Buffer

_SWITCHED_OFF = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.untrackedCache=false",
    "core.pager=cat",
    "core.editor=true",
    "core.askPass=true",
    "core.sshCommand=false",
    "core.alternateRefsCommand=true",
    "core.quotePath=false",
    "core.safecrlf=false",
    "diff.submodule=short",
    "status.submoduleSummary=false",
    "interactive.diffFilter=",
    "commit.gpgSign=false",
    "tag.gpgSign=false",
    "log.showSignature=false",
    "gpg.program=false",
    "gpg.ssh.program=false",
    "gpg.x509.program=false",
    "credential.helper=",
    "protocol.allow=never",
    "submodule.recurse=false",
    "color.ui=false",
    "gc.auto=0",
    "maintenance.auto=false",
    "advice.detachedHead=false",
)
_ENVIRONMENT = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ASKPASS": "true",
    "GIT_PAGER": "cat",
    "GIT_EDITOR": "true",
    "GIT_ALLOW_PROTOCOL": "none",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_LITERAL_PATHSPECS": "1",
    "GIT_LFS_SKIP_SMUDGE": "1",
    "LC_ALL": "C.UTF-8",
}
_INHERITED = ("PATH", "HOME", "XDG_CONFIG_HOME", "TMPDIR")
_MAX_OUTPUT_BYTES = 16 * 1024**2
"""Held of one command's output; what follows is read and dropped."""
_TIMED_OUT = (124, 137)
_NOT_FOUND = 127


@dataclass(frozen=True, slots=True)
class Output:
    """What a git command wrote, and how it ended."""

    code: int
    text: str
    """Standard output without its last line feed; bytes that are no UTF-8 are replaced."""
    fault: str
    """Standard error."""


class Repository:
    """The repository a folder lies in. Blocking: to be used from a thread, in a `with`."""

    def __init__(self, work_tree: Path, timeout_s: float) -> None:
        """Find it.

        Raises:
            ToolError: `UNAVAILABLE` without git, or outside of any repository.
        """
        self._git = _git(work_tree)
        self._timeout_s = timeout_s
        self._where: tuple[str, ...] = ()
        self._shown: TemporaryDirectory[str] | None = None
        self.work_tree = work_tree
        found = self.run("rev-parse", "--is-bare-repository", "--absolute-git-dir", "--git-common-dir")
        if found.code:
            raise _no_repository(work_tree, found.fault)
        bare, git_folder, common = found.text.split("\n", 2)
        self.is_bare = bare == "true"
        settings = self._settings()
        top = _top(work_tree)
        if not self.is_bare and not is_of(Path(git_folder), top, dict(settings).get("core.worktree")):
            raise ToolError(
                ErrorCode.UNAVAILABLE,
                f"{top}/.git leads to {git_folder}, which does not name this folder; if it is its repository, "
                f"git --git-dir={git_folder} config core.worktree {top}",
            )
        self._common = work_tree / common
        self._shown = show(self._common, settings)
        # Said outright, for a repository's own core.worktree could name any folder to be written to.
        self._where = (f"--git-dir={git_folder}", *([] if self.is_bare else [f"--work-tree={top}"]))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown is not None:
            close(self._shown, self._common)

    def run(self, *arguments: str) -> Output:
        """Run one git command in the work tree.

        Raises:
            ToolError: `TIMEOUT`.
        """
        settings = [part for setting in _SWITCHED_OFF for part in ("-c", setting)]
        environment = [f"{name}={value}" for name, value in self._environment().items()]
        # Through `env -i`, for GitPython can add variables but not drop those (GIT_DIR, ...) the host's shell has set.
        limits = ["timeout", "-k", "2", f"{self._timeout_s:g}"]
        command = ["env", "-i", *environment, *limits, "git", "--no-pager", *settings, *self._where, *arguments]
        output = _execute(self._git, command)
        if output.code in _TIMED_OUT:
            raise ToolError(ErrorCode.TIMEOUT, f"git {arguments[0]} took more than {self._timeout_s:g} s; give a path")
        return output

    def must(self, *arguments: str) -> str:
        """As `run`, for a command that has to succeed; its output.

        Raises:
            ToolError: `FAILED` with git's first words.
        """
        output = self.run(*arguments)
        if output.code:
            raise ToolError(ErrorCode.FAILED, f"git {arguments[0]}: {first_line(output.fault or output.text)}")
        return output.text

    @property
    def has_commits(self) -> bool:
        """Whether HEAD leads to a commit."""
        return self.run("rev-parse", "--verify", "--quiet", "HEAD^{commit}").code == 0

    @property
    def branch(self) -> str | None:
        """The branch that is checked out; None when HEAD is detached."""
        output = self.run("symbolic-ref", "--quiet", "--short", "HEAD")
        return None if output.code else output.text

    def conflicts(self) -> list[str]:
        """Paths a merge could not settle."""
        return [path for path in self.must("diff", "--name-only", "--diff-filter=U", "-z").split("\0") if path]

    def _settings(self) -> list[tuple[str, str | None]]:
        """The repository's own, with what they include; a later one of the same name counts."""
        # git refuses to tell where the repository, or this work tree of it, keeps none.
        listed = self.run("config", "--local", "--includes", "--list", "-z").text
        of_tree = self.run("config", "--worktree", "--includes", "--list", "-z").text
        parts = (record.partition("\n") for record in f"{listed}\0{of_tree}".split("\0") if record)
        return [(name, value if mark else None) for name, mark, value in parts]

    def _environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        return kept | _ENVIRONMENT | ({"GIT_COMMON_DIR": self._shown.name} if self._shown else {})


class _Bounded(io.BytesIO):
    """Takes any amount, keeps its beginning."""

    def write(self, data: Buffer, /) -> int:
        size = memoryview(data).nbytes
        super().write(memoryview(data)[: max(0, _MAX_OUTPUT_BYTES - self.tell())])
        return size


def _git(work_tree: Path) -> Git:
    # GitPython looks for git when it is imported, and takes a while: only when a git tool is called.
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    from git import Git

    return Git(str(work_tree))


def _top(work_tree: Path) -> Path:
    """The root of the checkout: the nearest folder that has a `.git`."""
    return next((folder for folder in (work_tree, *work_tree.parents) if (folder / ".git").exists()), work_tree)


def _execute(git: Git, command: list[str]) -> Output:
    from git import GitCommandNotFound

    kept = _Bounded()
    try:
        code, _, fault = git.execute(command, with_extended_output=True, with_exceptions=False, output_stream=kept)
    except GitCommandNotFound:  # no PATH, or one that leads nowhere
        return Output(_NOT_FOUND, "", "git: not found")
    return Output(code, kept.getvalue().decode("utf-8", "replace").removesuffix("\n"), fault)


def _no_repository(work_tree: Path, fault: str) -> ToolError:
    if "dubious ownership" in fault:
        message = f"git refuses {work_tree}, which another user owns; allow it with git config --global safe.directory"
        return ToolError(ErrorCode.UNAVAILABLE, message)
    if "not a git repository" in fault:
        return ToolError(ErrorCode.UNAVAILABLE, f"{work_tree} is not in a git repository; git init in shell makes one")
    if "No such file" in fault or "not found" in fault:
        return ToolError(ErrorCode.UNAVAILABLE, "git is not installed on this machine")
    return ToolError(ErrorCode.UNAVAILABLE, f"git: {first_line(fault)}")


def first_line(text: str) -> str:
    """The first line that says something, without git's own prefix."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0].removeprefix("fatal: ").removeprefix("error: ") if lines else "failed without a word"
