"""The git tool: look at the history and the changes, commit, switch branches, take a file back."""

from __future__ import annotations

import asyncio
import string
from collections.abc import Callable
from enum import StrEnum
from typing import Self

from pydantic import Field, JsonValue, model_validator

from kodkod_tools import gitstatus
from kodkod_tools.base import (
    Arguments,
    Effect,
    ErrorCode,
    ToolContext,
    ToolError,
    ToolResult,
    ToolStream,
    require_passable,
)
from kodkod_tools.output import keep_text
from kodkod_tools.paths import resolve_entry
from kodkod_tools.repository import Repository, first_line
from kodkod_tools.schema import declare

_NO_PROGRAMS = ("--no-ext-diff", "--no-textconv")
_DEFAULT_COMMITS = 10


class Action(StrEnum):
    """What to do."""

    STATUS = "status"
    DIFF = "diff"
    LOG = "log"
    SHOW = "show"
    BLAME = "blame"
    COMMIT = "commit"
    BRANCH = "branch"
    RESTORE = "restore"


class GitArguments(Arguments):
    """What to do, and with what."""

    action: Action
    path: str | None = Field(default=None, description="Only this file or folder")
    revision: str | None = Field(default=None, description="Commit, branch or tag, for diff, log, show, blame, restore")
    message: str | None = Field(default=None, min_length=1, description="For commit")
    name: str | None = Field(default=None, min_length=1, description="For branch: switch to it, created if new")
    start: int | None = Field(default=None, ge=1, description="For blame: first line")
    end: int | None = Field(default=None, ge=1, description="For blame: last line")
    limit: int = Field(default=_DEFAULT_COMMITS, ge=1, le=200, description="For log: number of commits")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.action is Action.COMMIT and not (self.message or "").strip(string.whitespace):
            raise ValueError("commit needs message")
        if self.action in (Action.BLAME, Action.RESTORE) and self.path is None:
            raise ValueError(f"{self.action} needs path")
        for field in ("revision", "name"):
            if (getattr(self, field) or "").startswith("-"):
                raise ValueError(f"{field} must not begin with -")
        return self


class Git:
    """Facts: those of `gitstatus.Status` for status; `commit` (its id) for commit; `branch` for branch."""

    effect = Effect.WRITES
    arguments = GitArguments
    spec = declare("git", GitArguments)

    async def run(self, arguments: GitArguments, context: ToolContext) -> ToolStream:
        """Run git in a thread."""
        yield await asyncio.to_thread(_git, arguments, context)


def writes(arguments: GitArguments) -> bool:
    """Whether this call changes the work tree or the repository: for permissions, finer than `Git.effect`."""
    changing = arguments.action in (Action.COMMIT, Action.RESTORE)
    return changing or (arguments.action is Action.BRANCH and arguments.name is not None)


def _git(arguments: GitArguments, context: ToolContext) -> ToolResult:
    require_passable(arguments.revision or "", arguments.message or "", arguments.name or "")
    with Repository(context.work_tree, context.config.git_timeout_s) as repository:
        if repository.is_bare and not _needs_no_files(arguments):
            raise ToolError(
                ErrorCode.UNAVAILABLE, f"this is a bare repository, without files; {arguments.action} needs some"
            )
        return _ACTIONS[arguments.action](arguments, context, repository)


def _needs_no_files(arguments: GitArguments) -> bool:
    lists = arguments.action is Action.BRANCH and arguments.name is None
    return lists or arguments.action in (Action.LOG, Action.SHOW)


def _paths(arguments: GitArguments, context: ToolContext) -> list[str]:
    return ["--", resolve_entry(context, arguments.path).relative if arguments.path else "."]


def _status(arguments: GitArguments, context: ToolContext, repository: Repository) -> ToolResult:
    status = gitstatus.read(repository, _paths(arguments, context))
    return ToolResult(
        gitstatus.render(status, context.config.max_entries),
        for_person=f"{status.branch or 'detached'}: {len(status.changed)} changed, {len(status.untracked)} untracked",
        facts=gitstatus.facts(status),
    )


def _diff(arguments: GitArguments, context: ToolContext, repository: Repository) -> ToolResult:
    base = arguments.revision or ("HEAD" if repository.has_commits else _empty_tree(repository))
    paths = _paths(arguments, context)
    text = repository.must(
        "diff", *_NO_PROGRAMS, "--ignore-submodules=dirty", "--stat", "--patch", "--end-of-options", base, *paths
    )
    untracked = gitstatus.read(repository, paths).untracked
    names = ", ".join(untracked[:20]) + (", ..." if len(untracked) > 20 else "")
    note = f"\n[untracked files, not in this diff: {names}]" if untracked else ""
    return _told(context, "diff", text or f"no difference from {arguments.revision or 'the last commit'}", note)


def _empty_tree(repository: Repository) -> str:
    """The name of a tree without files in this repository's hash, to compare with before the first commit."""
    return repository.must("hash-object", "-t", "tree", "/dev/null")


def _log(arguments: GitArguments, context: ToolContext, repository: Repository) -> ToolResult:
    if arguments.revision is None and not repository.has_commits:
        return ToolResult("no commits yet")
    paths = [] if repository.is_bare else _paths(arguments, context)
    text = repository.must(
        "log", f"--max-count={arguments.limit}", "--date=short", "--format=%h %ad %an: %s%d", "--no-show-signature",
        "--end-of-options", arguments.revision or "HEAD", *paths,
    )  # fmt: skip
    return _told(context, "log", text or "no commits there")


def _show(arguments: GitArguments, context: ToolContext, repository: Repository) -> ToolResult:
    if arguments.revision is None and not repository.has_commits:
        return ToolResult("no commits yet")
    paths = _paths(arguments, context) if arguments.path else []
    text = repository.must(
        "show", *_NO_PROGRAMS, "--no-show-signature", "--stat", "--patch", "--end-of-options",
        arguments.revision or "HEAD", *paths,
    )  # fmt: skip
    return _told(context, "show", text or "empty")


def _blame(arguments: GitArguments, context: ToolContext, repository: Repository) -> ToolResult:
    if not repository.has_commits:
        return ToolResult("no commits yet")
    lines = [f"-L{arguments.start or 1},{arguments.end or ''}"] if arguments.start or arguments.end else []
    revision = [arguments.revision] if arguments.revision else []
    text = repository.must("blame", "--no-textconv", "--date=short", *lines, *revision, *_paths(arguments, context))
    return _told(context, "blame", text or "empty")


def _commit(arguments: GitArguments, context: ToolContext, repository: Repository) -> ToolResult:
    if unsettled := repository.conflicts():
        named = ", ".join(unsettled[:10])
        raise ToolError(ErrorCode.CONFLICT, f"a merge is unfinished: settle the conflicts first, in {named}")
    paths = _paths(arguments, context)
    repository.must("add", "--all", *paths)
    if repository.run("diff", "--cached", "--quiet", "--ignore-submodules=dirty").code == 0 and not _merging(
        repository
    ):
        raise ToolError(ErrorCode.NO_CHANGE, "nothing to commit; the files are as in the last commit")
    identity, note = _identity(context, repository)
    # Of a commit that is to hold only some paths, the rest of the index stays as it is. A merge is committed whole.
    only = paths if arguments.path and not _merging(repository) else []
    repository.must(
        *identity, "commit", "--no-verify", "--no-gpg-sign", "--quiet", "--cleanup=whitespace",
        f"--message={arguments.message}", *only,
    )  # fmt: skip
    commit = repository.must("rev-parse", "HEAD")
    where = (
        f"on {repository.branch}" if repository.branch else "on no branch (HEAD is detached): make a branch to keep it"
    )
    stat = repository.must("show", *_NO_PROGRAMS, "--stat", "--format=", "HEAD")
    text = f"committed {commit[:10]} {where}; the repository's hooks were not run{note}\n{stat}"
    return _told(context, "commit", text, facts={"commit": commit})


def _merging(repository: Repository) -> bool:
    return repository.run("rev-parse", "--verify", "--quiet", "MERGE_HEAD").code == 0


def _identity(context: ToolContext, repository: Repository) -> tuple[list[str], str]:
    """Settings that name an author where git knows none, and a note that says so."""
    name, mail = repository.run("config", "user.name").text, repository.run("config", "user.email").text
    if name and mail:
        return [], ""
    name, mail = name or context.config.commit_name, mail or context.config.commit_email
    note = f"; author {name} <{mail}>, for git knows no user here (git config user.name, user.email)"
    return ["-c", f"user.name={name}", "-c", f"user.email={mail}"], note


def _branch(arguments: GitArguments, context: ToolContext, repository: Repository) -> ToolResult:
    if arguments.name is None:
        text = repository.must(
            "branch", "--list", "--all", "--format=%(HEAD) %(refname:short) %(objectname:short) %(subject)"
        )
        return _told(
            context, "branch", text or f"no commits yet; on {repository.branch}", facts={"branch": repository.branch}
        )
    exists = repository.run("rev-parse", "--verify", "--quiet", f"refs/heads/{arguments.name}").code == 0
    create = [] if exists else ["--create"]
    done = repository.run("switch", "--quiet", "--no-recurse-submodules", *create, arguments.name)
    if done.code:
        blocked = "would be overwritten" in done.fault or "resolve your current index" in done.fault
        code = ErrorCode.CONFLICT if blocked else ErrorCode.FAILED
        raise ToolError(code, f"git switch: {' '.join(done.fault.split())[:500] or first_line('')}")
    verb = "switched to" if exists else "created and switched to"
    return ToolResult(f"{verb} branch {arguments.name}", facts={"branch": arguments.name, "created": not exists})


def _restore(arguments: GitArguments, context: ToolContext, repository: Repository) -> ToolResult:
    path = resolve_entry(context, arguments.path or "", writable=True).relative
    if not repository.has_commits:
        raise ToolError(ErrorCode.FAILED, "no commits yet: there is nothing to restore from")
    source = arguments.revision or "HEAD"
    changed = repository.must("diff", "--name-only", "-z", "--relative", *_NO_PROGRAMS, source, "--", path).split("\0")
    done = repository.run("restore", f"--source={source}", "--staged", "--worktree", "--", path)
    if done.code:
        raise ToolError(
            ErrorCode.NOT_FOUND, f"git restore: {first_line(done.fault)}; only files in {source} can be restored"
        )
    paths = tuple(name for name in changed if name)
    told = f"restored {path} from {source}" + (f": {', '.join(paths[:20])}" if paths else "; it was the same already")
    return ToolResult(told, changed_paths=paths)


def _told(
    context: ToolContext, name: str, text: str, note: str = "", facts: dict[str, JsonValue] | None = None
) -> ToolResult:
    kept = keep_text(text, context.log_folder, f"git-{name}", context.config.max_result_chars - len(note))
    return ToolResult(kept.for_model + note, for_log=kept.for_log, facts=facts or {})


_ACTIONS: dict[Action, Callable[[GitArguments, ToolContext, Repository], ToolResult]] = {
    Action.STATUS: _status,
    Action.DIFF: _diff,
    Action.LOG: _log,
    Action.SHOW: _show,
    Action.BLAME: _blame,
    Action.COMMIT: _commit,
    Action.BRANCH: _branch,
    Action.RESTORE: _restore,
}
