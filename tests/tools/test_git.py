"""git on real repositories, friendly and hostile."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kodkod_tools.base import ErrorCode, ToolContext
from kodkod_tools.git import GitArguments, writes
from kodkod_tools.repository import Repository

Git = Callable[..., str]


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A home without a git identity, and variables of an outer git that must not leak in."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("GIT_DIR", "/nowhere/at/all")
    monkeypatch.setenv("GIT_INDEX_FILE", "/nowhere/index")
    monkeypatch.setenv("GIT_EXTERNAL_DIFF", "/bin/false")


async def test_status_tells_what_changed(repo: Path, call) -> None:
    clean = await call("git", action="status")
    assert clean.for_model == "on branch main\nnothing changed"
    (repo / "a.py").write_text("changed\n")
    (repo / "new name é.txt").write_text("x")
    (repo / "many").mkdir()
    for number in range(300):
        (repo / "many" / f"{number}.txt").write_text("x")
    result = await call("git", action="status")
    assert result.for_model == "on branch main\nmodified: a.py\nuntracked: many/\nuntracked: new name é.txt"
    assert result.facts["changed"] == 1
    assert result.facts["untracked"] == 2


async def test_diff_log_show_and_blame(repo: Path, call, run_git: Git) -> None:
    (repo / "a.py").write_text("def a():\n    return 2\n")
    (repo / "new.txt").write_text("x")
    diff = await call("git", action="diff")
    assert "-    return 1\n+    return 2" in diff.for_model
    assert diff.for_model.endswith("[untracked files, not in this diff: new.txt]")
    assert "no difference" in (await call("git", action="diff", path="docs")).for_model
    run_git(repo, "commit", "--all", "--quiet", "--message=second")
    log = await call("git", action="log", limit=1)
    assert log.for_model.split(": ", 1)[1].startswith("second")
    assert "first" in (await call("git", action="log", path="docs")).for_model
    assert "+    return 2" in (await call("git", action="show")).for_model
    assert (await call("git", action="show", revision="HEAD~1:a.py")).for_model.endswith("return 1")
    blame = await call("git", action="blame", path="a.py", start=2, end=2)
    assert blame.for_model.count("\n") == 0
    assert "return 2" in blame.for_model
    assert "return 1" in (await call("git", action="diff", revision="HEAD~1")).for_model


async def test_commit_takes_everything_and_names_its_author(repo: Path, call, run_git: Git) -> None:
    (repo / "a.py").write_text("x\n")
    (repo / "new.txt").write_text("y\n")
    (repo / "docs" / "b.md").unlink()
    result = await call("git", action="commit", message="all\n\nof it")
    assert result.facts["commit"] == run_git(repo, "rev-parse", "HEAD")
    assert "author kodkod <kodkod@localhost>" in result.for_model
    assert run_git(repo, "log", "-1", "--format=%an %ae %s") == "kodkod kodkod@localhost all"
    assert run_git(repo, "status", "--porcelain") == ""
    again = await call("git", action="commit", message="nothing")
    assert again.error is ErrorCode.NO_CHANGE


@pytest.mark.parametrize("message", ["\x1f", "\u2003", "\x85"])
async def test_what_git_takes_for_a_message_is_one(message: str, repo: Path, call, run_git: Git) -> None:
    (repo / "a.py").write_text("x\n")
    result = await call("git", action="commit", message=message)
    assert result.facts["commit"] == run_git(repo, "rev-parse", "HEAD")


async def test_a_message_keeps_lines_that_begin_with_a_hash(repo: Path, call, run_git: Git) -> None:
    (repo / "a.py").write_text("x\n")
    result = await call("git", action="commit", message="#12: mend it\n\n# Why\nbecause")
    assert result.error is None
    assert run_git(repo, "log", "-1", "--format=%B").rstrip() == "#12: mend it\n\n# Why\nbecause"


async def test_a_blank_message_is_none(repo: Path, call) -> None:
    (repo / "a.py").write_text("x\n")
    assert (await call("git", action="commit", message=" \t\n")).error is ErrorCode.BAD_ARGUMENTS


async def test_commit_uses_the_users_identity(repo: Path, call, run_git: Git, tmp_path: Path) -> None:
    (tmp_path / ".gitconfig").write_text("[user]\n\tname = Bo\n\temail = bo@example.org\n")
    (repo / "a.py").write_text("x\n")
    result = await call("git", action="commit", message="mine")
    assert "author" not in result.for_model
    assert run_git(repo, "log", "-1", "--format=%an %ae") == "Bo bo@example.org"


async def test_commit_of_a_path_leaves_the_rest(repo: Path, call, run_git: Git) -> None:
    (repo / "a.py").write_text("x\n")
    (repo / "docs" / "b.md").write_text("y\n")
    run_git(repo, "add", "docs")
    await call("git", action="commit", message="a alone", path="a.py")
    assert run_git(repo, "show", "--name-only", "--format=") == "a.py"
    assert run_git(repo, "status", "--porcelain") == "M  docs/b.md"


async def test_before_the_first_commit(tree: Path, call, run_git: Git) -> None:
    run_git(tree, "init", "--quiet")
    (tree / "a.txt").write_text("x\n")
    assert (await call("git", action="status")).for_model == "on branch main, no commits yet\nuntracked: a.txt"
    for action in ("log", "show"):
        assert (await call("git", action=action)).for_model == "no commits yet"
    assert "no commits yet" in (await call("git", action="blame", path="a.txt")).for_model
    assert "no commits yet" in (await call("git", action="branch")).for_model
    run_git(tree, "add", "a.txt")
    assert "+x" in (await call("git", action="diff")).for_model
    assert (await call("git", action="restore", path="a.txt")).error is ErrorCode.FAILED
    assert (await call("git", action="commit", message="root")).error is None


async def test_a_detached_head_is_told(repo: Path, call, run_git: Git) -> None:
    run_git(repo, "checkout", "--quiet", "--detach")
    assert "HEAD is detached at" in (await call("git", action="status")).for_model
    (repo / "a.py").write_text("x\n")
    assert "make a branch to keep it" in (await call("git", action="commit", message="loose")).for_model


async def test_branches(repo: Path, call, run_git: Git) -> None:
    made = await call("git", action="branch", name="topic")
    assert made.facts == {"branch": "topic", "created": True}
    (repo / "a.py").write_text("topic\n")
    await call("git", action="commit", message="t")
    back = await call("git", action="branch", name="main")
    assert back.facts == {"branch": "main", "created": False}
    assert (repo / "a.py").read_text() != "topic\n"
    assert "* main" in (await call("git", action="branch")).for_model
    (repo / "a.py").write_text("uncommitted\n")
    refused = await call("git", action="branch", name="topic")
    assert refused.error is ErrorCode.CONFLICT
    assert (repo / "a.py").read_text() == "uncommitted\n"
    assert (await call("git", action="branch", name="a b")).error is ErrorCode.FAILED


async def test_restore_takes_changes_back(repo: Path, call) -> None:
    (repo / "a.py").write_text("broken\n")
    (repo / "docs" / "b.md").unlink()
    result = await call("git", action="restore", path="a.py")
    assert result.changed_paths == ("a.py",)
    assert (repo / "a.py").read_text() == "def a():\n    return 1\n"
    assert (await call("git", action="restore", path="docs")).changed_paths == ("docs/b.md",)
    (repo / "new.txt").write_text("mine")
    assert (await call("git", action="restore", path="new.txt")).error is ErrorCode.NOT_FOUND
    assert (repo / "new.txt").read_text() == "mine"
    assert (await call("git", action="restore", path="../x")).error is ErrorCode.OUTSIDE_TREE
    (repo / "*.py").write_text("a name, not a pattern")
    assert (await call("git", action="restore", path="*.py")).error is ErrorCode.NOT_FOUND


async def test_a_merge_conflict_is_told_and_not_committed(repo: Path, call, run_git: Git) -> None:
    run_git(repo, "checkout", "--quiet", "-b", "other")
    (repo / "a.py").write_text("other\n")
    run_git(repo, "commit", "--all", "--quiet", "--message=other")
    run_git(repo, "checkout", "--quiet", "main")
    (repo / "a.py").write_text("main\n")
    run_git(repo, "commit", "--all", "--quiet", "--message=main")
    with pytest.raises(AssertionError):
        run_git(repo, "merge", "other")
    status = await call("git", action="status")
    assert status.for_model.splitlines()[1:3] == ["a merge is under way", "conflict: a.py"]
    assert status.facts["conflicts"] == ["a.py"]
    refused = await call("git", action="commit", message="merge")
    assert refused.error is ErrorCode.CONFLICT
    (repo / "a.py").write_text("both\n")
    run_git(repo, "add", "a.py")
    assert (await call("git", action="commit", message="merge")).error is None
    assert len(run_git(repo, "log", "-1", "--format=%p").split()) == 2


async def test_a_linked_worktree(repo: Path, call, run_git: Git, context: ToolContext) -> None:
    run_git(repo, "worktree", "add", "--quiet", "-b", "side", "linked")
    inside = ToolContext(context.sandbox, repo / "linked", context.config, context.log_folder)
    from kodkod_engine.messages import ToolCall
    from kodkod_tools.registry import run_call

    (repo / "linked" / "a.py").write_text("side\n")
    for arguments in ({"action": "status"}, {"action": "commit", "message": "on the side"}):
        items = [item async for item in run_call(ToolCall(id="1", name="git", arguments=arguments), inside)]
        assert items[-1].error is None
    assert run_git(repo, "log", "-1", "--format=%s", "side") == "on the side"
    assert run_git(repo, "log", "-1", "--format=%s", "main") == "first"


async def test_a_submodule(repo: Path, call, run_git: Git, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    run_git(other, "init", "--quiet")
    (other / "x").write_text("x")
    run_git(other, "add", "x")
    run_git(other, "commit", "--quiet", "--message=x")
    run_git(repo, "submodule", "--quiet", "add", str(other), "module")
    result = await call("git", action="status")
    assert "added (staged): module" in result.for_model
    assert (await call("git", action="commit", message="module")).error is None
    (repo / "module" / "x").write_text("dirty")
    assert "nothing changed" in (await call("git", action="status")).for_model


async def test_a_bare_repository_and_none(tree: Path, call, run_git: Git) -> None:
    none = await call("git", action="status")
    assert none.error is ErrorCode.UNAVAILABLE
    assert "not in a git repository" in none.for_model
    run_git(tree, "init", "--quiet", "--bare")
    bare = await call("git", action="status")
    assert bare.error is ErrorCode.UNAVAILABLE
    assert "bare" in bare.for_model
    assert (await call("git", action="log")).for_model == "no commits yet"


async def test_without_git_installed(repo: Path, call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    for program in ("env", "timeout"):
        (tmp_path / "bin" / program).symlink_to(f"/usr/bin/{program}")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    result = await call("git", action="status")
    assert result.error is ErrorCode.UNAVAILABLE
    assert "not installed" in result.for_model


async def test_with_a_path_that_leads_nowhere(repo: Path, call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert (await call("git", action="status")).error is ErrorCode.UNAVAILABLE


async def test_a_repository_without_settings(repo: Path, call) -> None:
    (repo / ".git" / "config").unlink()
    assert (await call("git", action="status")).for_model == "on branch main\nnothing changed"


async def test_a_work_tree_below_the_repositorys_root(repo: Path, call, run_git: Git, context: ToolContext) -> None:
    from kodkod_engine.messages import ToolCall
    from kodkod_tools.registry import run_call

    below = ToolContext(context.sandbox, repo / "docs", context.config, context.log_folder)
    (repo / "a.py").write_text("outside\n")
    (repo / "docs" / "b.md").write_text("inside\n")
    call_ = ToolCall(id="1", name="git", arguments={"action": "commit", "message": "docs"})
    items = [item async for item in run_call(call_, below)]
    assert items[-1].error is None
    assert run_git(repo, "show", "--name-only", "--format=") == "docs/b.md"
    assert (repo / "a.py").read_text() == "outside\n"


@pytest.mark.parametrize(
    "arguments",
    [
        {"action": "push"}, {"action": "commit"}, {"action": "commit", "message": "  "}, {"action": "blame"},
        {"action": "restore"}, {"action": "log", "revision": "--output=/tmp/x"}, {"action": "branch", "name": "-D"},
    ],
)  # fmt: skip
async def test_incomplete_calls_are_bad_arguments(arguments: dict[str, str], repo: Path, call) -> None:
    assert (await call("git", **arguments)).error is ErrorCode.BAD_ARGUMENTS


async def test_an_unknown_revision_is_told(repo: Path, call) -> None:
    for action in ("log", "show", "diff"):
        result = await call("git", action=action, revision="nonsense")
        assert result.error is ErrorCode.FAILED
        assert "nonsense" in result.for_model


async def test_a_link_is_a_file_of_its_own(repo: Path, call, run_git: Git) -> None:
    (repo / "link").symlink_to("a.py")
    committed = await call("git", action="commit", message="link", path="link")
    assert committed.error is None
    assert run_git(repo, "show", "--name-only", "--format=", "HEAD") == "link"
    (repo / "link").unlink()
    (repo / "link").symlink_to("docs")
    (repo / "a.py").write_text("work\n")
    assert "a.py" not in (await call("git", action="diff", path="link")).for_model.replace("-a.py", "")
    restored = await call("git", action="restore", path=str(repo / "link"))
    assert restored.changed_paths == ("link",)
    assert (repo / "link").readlink() == Path("a.py")
    assert (repo / "a.py").read_text() == "work\n"
    (repo / "out").symlink_to("/")
    assert (await call("git", action="commit", message="out", path="out")).error is None
    assert (await call("git", action="diff", path="out/etc")).error is ErrorCode.OUTSIDE_TREE


def test_which_calls_write() -> None:
    told = {
        action: writes(GitArguments(action=action, path="x", message="m"))
        for action in ("status", "diff", "restore", "commit")
    }
    assert told == {"status": False, "diff": False, "restore": True, "commit": True}
    assert not writes(GitArguments(action="branch"))
    assert writes(GitArguments(action="branch", name="x"))


ACTIONS: list[dict[str, object]] = [
    {"action": "status"}, {"action": "diff"}, {"action": "diff", "revision": "HEAD~1"}, {"action": "log"},
    {"action": "log", "path": "a.py"}, {"action": "show"}, {"action": "show", "revision": "HEAD~1"},
    {"action": "blame", "path": "a.py"}, {"action": "branch"}, {"action": "branch", "name": "fresh"},
    {"action": "restore", "path": "a.py", "revision": "HEAD~1"}, {"action": "restore", "path": "a.py"},
    {"action": "branch", "name": "main"}, {"action": "commit", "message": "m"},
]  # fmt: skip


async def test_nothing_a_repository_brings_along_is_executed(repo: Path, call, run_git: Git, tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    evil = tmp_path / "evil"
    evil.write_text(f'#!/bin/sh\necho "$0 $@" >> {proof}\ncat\n')
    evil.chmod(0o755)
    (repo / "a.py").write_text("second\n")
    run_git(repo, "commit", "--all", "--quiet", "--message=second")
    hooks = repo / ".git" / "hooks"
    for name in (
        "pre-commit", "prepare-commit-msg", "commit-msg", "post-commit", "post-checkout", "post-index-change",
        "reference-transaction", "pre-auto-gc", "fsmonitor-watchman", "post-rewrite",
    ):  # fmt: skip
        (hooks / name).unlink(missing_ok=True)
        (hooks / name).symlink_to(evil)
    settings = {
        "core.fsmonitor": evil, "core.pager": evil, "core.editor": evil, "core.sshCommand": evil, "core.askPass": evil,
        "core.hooksPath": hooks, "diff.external": evil, "diff.drv.command": evil, "diff.drv.textconv": evil,
        "filter.f.clean": evil, "filter.f.smudge": evil, "filter.f.process": evil, "filter.f.required": "true",
        "filter.x=y.clean": evil, "filter.x=y.smudge": evil, "merge.m.driver": evil, "gpg.program": evil,
        "commit.gpgSign": "true", "log.showSignature": "true", "credential.helper": evil, "pager.log": evil,
        "pager.status": evil, "pager.branch": evil, "interactive.diffFilter": evil, "alias.status": f"!{evil}",
        "trailer.t.command": evil, "core.alternateRefsCommand": evil, "sequence.editor": evil,
    }  # fmt: skip
    for name, value in settings.items():
        run_git(repo, "config", name, str(value))
    hidden = repo / ".git" / "hidden"
    hidden.write_text(f'[filter "h"]\n\tclean = {evil}\n\tsmudge = {evil}\n')
    run_git(repo, "config", "include.path", str(hidden))
    (repo / ".gitattributes").write_text(
        "a.py diff=drv filter=f merge=m\n*.one filter=x=y\n*.two filter=h\ndocs/* diff=drv filter=f\n"
    )
    for name in ("x.one", "y.two"):
        (repo / name).write_text("text\n")
    proof.unlink(missing_ok=True)
    for number, arguments in enumerate(ACTIONS):
        (repo / "a.py").write_text(f"change {number}\n")
        (repo / "x.one").write_text(f"change {number}\n")
        os.utime(repo / "docs" / "b.md")
        await call("git", **arguments)
        assert not proof.exists(), (arguments, proof.read_text())
    assert run_git(repo, "show", "HEAD:x.one") == f"change {len(ACTIONS) - 1}"
    with contextlib.suppress(AssertionError):
        run_git(repo, "status")
    assert proof.exists()  # git left to itself does run them


async def test_a_repository_cannot_point_its_work_tree_elsewhere(
    repo: Path, call, run_git: Git, tmp_path: Path
) -> None:
    run_git(repo, "checkout", "--quiet", "-b", "evil")
    (repo / "victim.txt").write_text("evil\n")
    run_git(repo, "add", "victim.txt")
    run_git(repo, "commit", "--quiet", "--message=evil")
    run_git(repo, "checkout", "--quiet", "main")
    (tmp_path / "home").mkdir()
    run_git(repo, "config", "core.worktree", str(tmp_path / "home"))
    result = await call("git", action="branch", name="evil")
    assert result.error is None
    assert list((tmp_path / "home").iterdir()) == []
    assert (repo / "victim.txt").exists()


async def test_settings_that_change_meanwhile_are_not_seen(repo: Path, run_git: Git, tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    (repo / ".gitattributes").write_text("*.py filter=late diff=late\n")
    with Repository(repo, 20) as repository:
        run_git(repo, "config", "filter.late.clean", f"touch {proof}; cat")
        run_git(repo, "config", "diff.late.textconv", f"touch {proof}; cat")
        (repo / "a.py").write_text("changed\n")
        assert "a.py" in repository.must("diff", "--stat")
        repository.must("add", "--all")
        assert not proof.exists()
    (repo / "a.py").write_text("changed again\n")
    run_git(repo, "diff", "--stat")
    assert proof.exists()  # git left to itself does


async def test_settings_name_no_file_to_read(repo: Path, call, run_git: Git, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("password\n")
    run_git(repo, "config", "blame.ignoreRevsFile", str(tmp_path / "secret"))
    result = await call("git", action="blame", path="a.py")
    assert result.error is None
    assert "password" not in result.for_model


@pytest.mark.parametrize("by_link", [False, True])
async def test_another_repository_is_not_read(by_link: bool, repo: Path, call, run_git: Git, tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir()
    run_git(private, "init", "--quiet")
    run_git(private, "commit", "--allow-empty", "--quiet", "--message=secret")
    (repo / ".git").rename(repo / "own")
    if by_link:
        (repo / ".git").symlink_to(private / ".git")
    else:
        (repo / ".git").write_text(f"gitdir: {private}/.git\n")
    result = await call("git", action="show")
    assert result.error is ErrorCode.UNAVAILABLE
    assert "does not name this folder" in result.for_model
    run_git(private, "config", "core.worktree", str(repo))  # the person says so
    assert "secret" in (await call("git", action="show")).for_model


async def test_harmless_settings_hold(repo: Path, call, run_git: Git) -> None:
    run_git(repo, "config", "user.name", 'A "quoted" \\ name')
    run_git(repo, "config", "user.email", "a@example.org")
    run_git(repo, "config", "core.autocrlf", "input")
    (repo / "crlf.txt").write_bytes(b"a\r\n")
    assert (await call("git", action="commit", message="m")).error is None
    assert run_git(repo, "log", "-1", "--format=%an <%ae>") == 'A "quoted" \\ name <a@example.org>'
    assert run_git(repo, "cat-file", "-s", "HEAD:crlf.txt") == "2"


async def test_what_a_filter_of_the_persons_keeps_is_kept(repo: Path, call, run_git: Git, tmp_path: Path) -> None:
    keep = "d=$(git rev-parse --git-common-dir)/lfs; mkdir -p $d; tee $d/kept"
    (tmp_path / ".gitconfig").write_text(f'[filter "lfs"]\n\tclean = "{keep}"\n[user]\n\tname = a\n\temail = b\n')
    (repo / ".gitattributes").write_text("*.bin filter=lfs\n")
    (repo / "x.bin").write_text("large\n")
    assert (await call("git", action="commit", message="m")).error is None
    assert (repo / ".git" / "lfs" / "kept").read_text() == "large\n"
