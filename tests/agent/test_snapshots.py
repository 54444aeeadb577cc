from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kodkod_agent.loose_objects import LooseStore
from kodkod_agent.private_git import Git, GitFault
from kodkod_agent.snapshots import WorkTreeSnapshots

IDENTITY = ["-c", "user.name=me", "-c", "user.email=me@localhost"]


def git(tree: Path, *arguments: str, check: bool = True) -> str:
    done = subprocess.run(["git", *IDENTITY, *arguments], cwd=tree, capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, done.stderr
    return done.stdout


def files(tree: Path) -> dict[str, tuple[object, ...]]:
    """Every file below `tree` but git's own: kind, executable bit, content."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(tree.rglob("*")):
        name = os.fsdecode(path.relative_to(tree))
        if ".git" in path.parts or (path.is_dir() and not path.is_symlink()):
            continue
        content = path.readlink() if path.is_symlink() else path.read_bytes()
        found[name] = (path.is_symlink(), os.access(path, os.X_OK, follow_symlinks=False), content)
    return found


def git_state(tree: Path) -> dict[str, object]:
    """What must not change in the user's repository: all of `.git` but objects and our own references."""
    folder = tree / ".git"
    kept = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not name.startswith(("objects/", "refs/kodkod/")):
            kept[name] = (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
    return kept


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A repository with a commit, staged, unstaged, untracked and ignored changes, and a stash."""
    tree = tmp_path / "project"
    tree.mkdir()
    git(tree, "init", "--quiet", "--initial-branch=main")
    (tree / ".gitignore").write_text("*.log\nbuild/\n")
    (tree / "a.py").write_text("print(1)\n")
    (tree / "run.sh").write_text("#!/bin/sh\n")
    (tree / "run.sh").chmod(0o755)
    (tree / "link").symlink_to("a.py")
    (tree / "forced.log").write_text("tracked though ignored\n")
    git(tree, "add", "--all", "--force")
    git(tree, "commit", "--quiet", "--message=first")
    (tree / "a.py").write_text("print(0)\n")
    git(tree, "stash", "--quiet")
    (tree / "a.py").write_text("print(2)\n")
    git(tree, "add", "a.py")
    (tree / "a.py").write_text("print(3)\n")
    (tree / "new.py").write_text("new\n")
    (tree / "ignored.log").write_text("ignored\n")
    return tree


Opener = Callable[..., WorkTreeSnapshots]


@pytest.fixture
def opened(tmp_path: Path) -> Opener:
    def open_snapshots(tree: Path, session: str = "s1", **options: int) -> WorkTreeSnapshots:
        return WorkTreeSnapshots(tree, session, folder=tmp_path / "sessions" / session, **options)

    return open_snapshots


def change_everything(tree: Path) -> None:
    (tree / "a.py").write_text("print(4)\n")
    (tree / "new.py").unlink()
    (tree / "run.sh").chmod(0o644)
    (tree / "link").unlink()
    (tree / "link").write_text("a file now\n")
    (tree / "forced.log").write_text("changed\n")
    (tree / "deep" / "er").mkdir(parents=True)
    (tree / "deep" / "er" / "x.bin").write_bytes(bytes(range(256)))


def test_restore_puts_every_file_back(tree: Path, opened: Opener) -> None:
    snapshots, before = opened(tree), files(tree)
    first = snapshots.take(1)
    change_everything(tree)
    after = files(tree)
    second = snapshots.take(2)
    snapshots.restore(first)
    assert files(tree) == before
    assert not (tree / "deep").exists()
    snapshots.restore(second)
    assert files(tree) == after


def test_the_users_repository_is_left_as_it_is(tree: Path, opened: Opener) -> None:
    before = git_state(tree)
    snapshots = opened(tree)
    first = snapshots.take(1)
    change_everything(tree)
    snapshots.diff(first, snapshots.take(2))
    snapshots.restore(first)
    assert git_state(tree) == before
    snapshots.drop_session()
    assert git_state(tree) == before
    assert git(tree, "for-each-ref", "refs/kodkod") == ""


def test_snapshots_survive_garbage_collection(tree: Path, opened: Opener) -> None:
    snapshots, before = opened(tree), files(tree)
    first = snapshots.take(1)
    change_everything(tree)
    git(tree, "gc", "--quiet", "--prune=now")
    snapshots.restore(first)
    assert files(tree) == before


def test_equal_files_have_equal_ids(tree: Path, opened: Opener) -> None:
    snapshots = opened(tree)
    first = snapshots.take(1)
    (tree / "ignored.log").write_text("changed\n")
    (tree / "a.py").touch()
    assert snapshots.take(2) == first
    (tree / "run.sh").chmod(0o644)
    assert snapshots.take(3) != first
    (tree / "run.sh").chmod(0o755)
    assert snapshots.take(4) == first == opened(tree, "s2").take(1)


def test_list_names_all_by_step_and_a_new_object_knows_them(tree: Path, opened: Opener) -> None:
    snapshots = opened(tree)
    ids = [snapshots.take(1)]
    (tree / "a.py").write_text("x")
    ids += [snapshots.take(1), snapshots.take(12)]
    opened(tree, "other").take(1)
    listed = opened(tree).list()
    assert [entry.step for entry in listed] == [1, 1, 12]
    assert {entry.id for entry in listed} == set(ids)


def test_diff_applies_to_what_it_was_made_from(tree: Path, opened: Opener, tmp_path: Path) -> None:
    snapshots = opened(tree)
    (tree / "old").mkdir()
    (tree / "old" / "x.py").write_text("x\n")
    first = snapshots.take(1)
    change_everything(tree)
    (tree / "latin.txt").write_bytes("caf\xe9\n".encode("latin-1"))
    (tree / "crlf.txt").write_bytes(b"a\r\nb")
    shutil.rmtree(tree / "old")
    (tree / "old").symlink_to("deep")
    second, after = snapshots.take(2), files(tree)
    patch = snapshots.diff(first, second)
    snapshots.restore(first)
    (tmp_path / "patch").write_text(patch, encoding="utf-8", newline="")
    git(tree, "apply", str(tmp_path / "patch"))
    assert files(tree) == after
    assert snapshots.diff(first, first) == ""


def test_a_link_to_what_is_no_utf_8_is_told(tree: Path, opened: Opener) -> None:
    snapshots = opened(tree)
    first = snapshots.take(1)
    (tree / "out").symlink_to(os.fsdecode(b"caf\xe9"))
    (tree / "é").symlink_to("é")
    (tree / "latin.txt").write_bytes(b"caf\xe9\n")
    patch = snapshots.diff(first, snapshots.take(2))
    assert "+caf\ufffd" in patch
    assert "+é" in patch


def test_a_pipe_in_the_place_of_a_file_is_left_out(tree: Path, opened: Opener) -> None:
    snapshots, before = opened(tree), files(tree)
    first = snapshots.take(1)
    (tree / "a.py").unlink()
    os.mkfifo(tree / "a.py")
    assert snapshots.left_out(snapshots.take(2)) == ("a.py",)
    snapshots.restore(first)
    assert files(tree) == before


def test_odd_names(tree: Path, opened: Opener) -> None:
    snapshots = opened(tree)
    names = [
        "with blank",
        "new\nline",
        'quo"te',
        "-rf",
        ":(top)x",
        "*.py",
        "é",
        "back\\slash",
        os.fsdecode(b"\xff\xfe"),
    ]
    for name in names:
        (tree / name).write_text(name, errors="surrogateescape")
    first, before = snapshots.take(1), files(tree)
    for name in names:
        (tree / name).unlink()
    second = snapshots.take(2)
    snapshots.restore(first)
    assert files(tree) == before
    assert "with blank" in snapshots.diff(second, first)


def test_a_file_and_a_folder_may_change_places(tree: Path, opened: Opener) -> None:
    snapshots = opened(tree)
    first, before = snapshots.take(1), files(tree)
    (tree / "a.py").unlink()
    (tree / "a.py").mkdir()
    (tree / "a.py" / "inside").write_text("x")
    second, after = snapshots.take(2), files(tree)
    snapshots.restore(first)
    assert files(tree) == before
    snapshots.restore(second)
    assert files(tree) == after


def test_no_commits_yet(tmp_path: Path, opened: Opener) -> None:
    tree = tmp_path / "empty"
    tree.mkdir()
    git(tree, "init", "--quiet")
    snapshots = opened(tree)
    nothing = snapshots.take(0)
    (tree / "a").write_text("a")
    one = snapshots.take(1)
    snapshots.restore(nothing)
    assert files(tree) == {}
    snapshots.restore(one)
    assert (tree / "a").read_text() == "a"


def test_a_detached_head(tree: Path, opened: Opener) -> None:
    git(tree, "checkout", "--quiet", "--force", "--detach")
    state = git_state(tree)
    snapshots = opened(tree)
    first, before = snapshots.take(1), files(tree)
    change_everything(tree)
    snapshots.restore(first)
    assert (files(tree), git_state(tree)) == (before, state)


def test_a_linked_worktree(tree: Path, opened: Opener, tmp_path: Path) -> None:
    git(tree, "worktree", "add", "--quiet", str(tmp_path / "linked"), "HEAD")
    linked = tmp_path / "linked"
    main, state = files(tree), git_state(tree)
    snapshots = opened(linked)
    first, before = snapshots.take(1), files(linked)
    (linked / "a.py").write_text("changed")
    second = snapshots.take(2)
    assert git(tree, "for-each-ref", "--format=%(objectname)", "refs/kodkod").split() == [first, second]
    snapshots.restore(first)
    assert (files(linked), files(tree), git_state(tree)) == (before, main, state)


def test_a_merge_conflict_in_progress(tree: Path, opened: Opener) -> None:
    git(tree, "commit", "--quiet", "--all", "--message=ours")
    git(tree, "checkout", "--quiet", "-b", "theirs", "HEAD~1")
    (tree / "a.py").write_text("print(9)\n")
    git(tree, "commit", "--quiet", "--all", "--message=theirs")
    git(tree, "merge", "main", check=False)
    state, before = git_state(tree), files(tree)
    assert "UU a.py" in git(tree, "--no-optional-locks", "status", "--porcelain")
    snapshots = opened(tree)
    first = snapshots.take(1)
    (tree / "a.py").write_text("settled\n")
    snapshots.take(2)
    snapshots.restore(first)
    assert (files(tree), git_state(tree)) == (before, state)
    assert "<<<<<<<" in (tree / "a.py").read_text()


def test_submodules_and_nested_repositories_are_left_alone(tree: Path, opened: Opener, tmp_path: Path) -> None:
    library = tmp_path / "library"
    shutil.copytree(tree, library, symlinks=True)
    git(tree, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(library), "sub")
    nested = tree / "nested"
    nested.mkdir()
    git(nested, "init", "--quiet")
    (nested / "x").write_text("x")
    (tree / "sub" / "a.py").write_text("work in the submodule\n")
    snapshots = opened(tree)
    first, before = snapshots.take(1), files(tree)
    (tree / "a.py").write_text("changed")
    snapshots.restore(first)
    assert files(tree) == before
    assert snapshots.left_out(first) == ("nested/",)


def test_a_folder_in_a_repository(tree: Path, opened: Opener, tmp_path: Path) -> None:
    part = tree / "part"
    (part / "build").mkdir(parents=True)
    (part / "x.py").write_text("1\n")
    (part / "build" / "out").write_text("ignored by the root's list")
    snapshots = opened(part)
    first, whole = snapshots.take(1), files(tree)
    (part / "x.py").write_text("2\n")
    (tree / "a.py").write_text("outside the part")
    second = snapshots.take(2)
    patch = snapshots.diff(first, second)
    assert "a/x.py" in patch
    assert "part" not in patch
    snapshots.restore(first)
    assert files(tree) == {**whole, "a.py": files(tree)["a.py"]}
    assert (tree / "a.py").read_text() == "outside the part"
    snapshots.apply("", patch)
    assert (part / "x.py").read_text() == "2\n"
    snapshots.apply(patch, "")
    assert (part / "x.py").read_text() == "1\n"


@pytest.mark.parametrize("inside", [False, True])
def test_no_repository(tmp_path: Path, inside: bool) -> None:
    tree = tmp_path / "plain"
    tree.mkdir()
    (tree / ".gitignore").write_text("*.log\n")
    (tree / "a").write_text("a")
    (tree / "x.log").write_text("ignored")
    folder = tree / ".own" if inside else tmp_path / "session"
    snapshots = WorkTreeSnapshots(tree, "s", folder=folder)
    first = snapshots.take(1)
    (tree / "a").write_text("b")
    (tree / "c").write_text("c")
    (tree / "x.log").write_text("changed")
    second = snapshots.take(2)
    assert ".own" not in snapshots.diff(first, second)
    snapshots.restore(first)
    assert (tree / "a").read_text() == "a"
    assert not (tree / "c").exists()
    assert (tree / "x.log").read_text() == "changed"
    assert [entry.id for entry in snapshots.list()] == [first, second]


def test_a_folder_its_repository_ignores_stands_for_itself(tree: Path, opened: Opener) -> None:
    (tree / "build").mkdir()
    (tree / "build" / "a").write_text("a")
    snapshots = opened(tree / "build")
    first = snapshots.take(1)
    (tree / "build" / "a").write_text("b")
    snapshots.restore(first)
    assert (tree / "build" / "a").read_text() == "a"


def test_a_folder_whose_own_list_ignores_most_of_it_is_its_repositorys(tree: Path, opened: Opener) -> None:
    (tree / "part").mkdir()
    (tree / "part" / "a").write_text("a")
    first = opened(tree / "part").take(1)
    (tree / "part" / ".gitignore").write_text("/*\n!a\n")
    snapshots = opened(tree / "part")
    assert "+!a" not in snapshots.diff(first, snapshots.take(2))
    snapshots.restore(first)
    assert (tree / "part" / "a").read_text() == "a"


def test_what_was_ignored_then_stays(tree: Path, opened: Opener) -> None:
    snapshots = opened(tree)
    (tree / "secret.log").write_text("secret\n")
    (tree / "forced.log").unlink()
    first = snapshots.take(1)
    (tree / "forced.log").write_text("tracked though ignored\n")
    (tree / ".gitignore").write_text("build/\n")
    (tree / "later.py").write_text("")
    assert "+secret" in snapshots.diff(first, snapshots.take(2))
    snapshots.restore(first)
    assert (tree / ".gitignore").read_text() == "*.log\nbuild/\n"
    assert (tree / "secret.log").read_text() == "secret\n"
    assert not (tree / "later.py").exists()
    assert not (tree / "forced.log").exists()
    assert snapshots.take(3) == first


def test_what_was_recorded_goes_also_where_it_is_ignored_since(tree: Path, opened: Opener) -> None:
    snapshots = opened(tree)
    first, before = snapshots.take(1), files(tree)
    (tree / "deep").mkdir()
    (tree / "deep" / "new.py").write_text("#" * 2**20)
    (tree / "deep" / "more.py").write_text("more than few bytes, which are taken into the index\n")
    snapshots.take(2)
    (tree / "deep" / ".gitignore").write_text("*.py\n")
    snapshots.take(3)
    snapshots.restore(first)
    assert files(tree) == before


def test_large_and_unreadable_files_are_left_out_and_left_alone(tree: Path, opened: Opener) -> None:
    snapshots = opened(tree, max_file_bytes=1000)
    large = tree / "large.bin"
    large.write_bytes(b"x" * 1001)
    (tree / "a.py").write_bytes(b"y" * 1001)
    first = snapshots.take(1)
    assert snapshots.left_out(first) == ("a.py", "large.bin")
    large.write_bytes(b"small now")
    (tree / "new.py").unlink()
    second = snapshots.take(2)
    assert snapshots.left_out(second) == ("a.py",)
    snapshots.restore(first)
    assert large.read_bytes() == b"small now"
    assert (tree / "a.py").read_bytes() == b"y" * 1001
    assert (tree / "new.py").exists()


def test_files_staged_though_ignored_are_taken_up(tree: Path, opened: Opener) -> None:
    snapshots = opened(tree)
    snapshots.take(1)
    git(tree, "add", "--force", "ignored.log")
    first = snapshots.take(2)
    (tree / "ignored.log").write_text("changed")
    snapshots.restore(first)
    assert (tree / "ignored.log").read_text() == "ignored\n"


def test_assumed_unchanged_files_are_looked_at(tree: Path, opened: Opener) -> None:
    git(tree, "update-index", "--assume-unchanged", "a.py")
    snapshots = opened(tree)
    first = snapshots.take(1)
    (tree / "a.py").write_text("changed")
    assert snapshots.take(2) != first


def test_nothing_the_repository_names_is_run(tree: Path, opened: Opener, tmp_path: Path) -> None:
    trap, mark = tmp_path / "trap", tmp_path / "sprung"
    trap.write_text(f"#!/bin/sh\necho $0 $* >> {mark}\ncat\n")
    trap.chmod(0o755)
    for name in ("filter.x.clean", "filter.x.smudge", "filter.x.process", "diff.x.command", "diff.x.textconv"):
        git(tree, "config", name, str(trap))
    for name in ("core.fsmonitor", "diff.external", "core.pager", "core.sshCommand", "core.editor", "gpg.program"):
        git(tree, "config", name, str(trap))
    git(tree, "config", "filter.x.required", "true")
    git(tree, "config", "commit.gpgSign", "true")
    git(tree, "config", "core.logAllRefUpdates", "always")
    hooks = tree / ".git" / "hooks"
    shutil.rmtree(hooks, ignore_errors=True)
    hooks.mkdir()
    for name in ("reference-transaction", "post-checkout", "pre-commit", "post-index-change", "fsmonitor-watchman"):
        shutil.copy(trap, hooks / name)
    (tree / ".gitattributes").write_text("* filter=x diff=x text eol=crlf ident working-tree-encoding=UTF-16\n")
    (tree / "raw").write_bytes(b"$Id$\r\nmixed\n")
    snapshots, state = opened(tree), git_state(tree)
    first, before = snapshots.take(1), files(tree)
    change_everything(tree)
    (tree / "raw").write_bytes(b"else")
    snapshots.diff(first, snapshots.take(2))
    snapshots.restore(first)
    assert (files(tree), git_state(tree)) == (before, state)
    assert not mark.exists(), mark.read_text()


def test_a_git_environment_does_not_lead_astray(tree: Path, opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY"):
        monkeypatch.setenv(name, "/nowhere")
    snapshots = opened(tree)
    first, before = snapshots.take(1), files(tree)
    change_everything(tree)
    snapshots.restore(first)
    assert files(tree) == before


def test_locks_left_by_a_kill_are_no_obstacle(tree: Path, opened: Opener, tmp_path: Path) -> None:
    first = opened(tree).take(1)
    own = tree / ".git" / "refs" / "kodkod" / "s1" / "000001" / first[:16]
    own.rename(own.with_name(f"{own.name}.lock"))
    snapshots = opened(tree)
    (tmp_path / "sessions" / "s1" / "snapshots.git" / "index.lock").touch()
    (tree / "a.py").write_text("#" * 2**20)
    assert snapshots.take(1) != first
    (tree / "a.py").write_text("print(3)\n")
    assert snapshots.take(1) == first
    assert own.exists()


@pytest.mark.parametrize("is_repository", [True, False])
def test_a_private_side_that_was_half_made_is_made(tree: Path, opened: Opener, tmp_path: Path, is_repository) -> None:
    folder = tmp_path / "sessions" / "s1" / "snapshots.git"
    (folder / "refs" / "heads").mkdir(parents=True)
    (folder / "HEAD").write_text("ref: refs/heads/main\n")
    if not is_repository:
        shutil.rmtree(tree / ".git")
    snapshots = opened(tree)
    first = snapshots.take(1)
    (tree / "a.py").write_text("print(4)\n")
    snapshots.restore(first)
    assert (tree / "a.py").read_text() == "print(3)\n"


def test_a_personal_list_of_ignored_names_may_be_relative(tree: Path, opened: Opener) -> None:
    git(tree, "config", "core.excludesFile", ".ignored-here")
    (tree / ".ignored-here").write_text("*.mine\n")
    snapshots = opened(tree)
    first = snapshots.take(1)
    (tree / "a.mine").write_text("")
    assert snapshots.take(2) == first


def test_faults_are_one_line(tree: Path, opened: Opener) -> None:
    with pytest.raises(ValueError, match="no session id; use letters"):
        opened(tree, "../x")
    with pytest.raises(GitFault, match=r"^git .* in .*project: [^\n]+$"):
        opened(tree).apply("", "no patch")
    snapshots = opened(tree)
    for attempt in (snapshots.restore, lambda gone: snapshots.diff(gone, snapshots.take(1))):
        with pytest.raises(GitFault, match=r"^\S*project has no snapshot 0{16}: its repository is another [^\n]+$"):
            attempt("0" * 40)


def test_without_git(tree: Path, opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(GitFault, match="git is not installed"):
        opened(tree)


CONTENTS = st.none() | st.binary(max_size=12) | st.sampled_from([b"a\n", b"a\r\n", b"\0", b"\xff"])
STATES = st.dictionaries(st.sampled_from(["a", "b/c", "b/d", "b", "e.log", "f f"]), CONTENTS, max_size=5)


def write_state(tree: Path, state: dict[str, bytes | None]) -> None:
    for path in tree.iterdir():
        if path.name not in (".git", ".gitignore"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for name, content in state.items():
        clashes = name == "b" and any(other.startswith("b/") for other in state)
        if content is not None and not clashes:
            (tree / name).parent.mkdir(exist_ok=True)
            (tree / name).write_bytes(content)


@given(states=st.lists(STATES, min_size=2, max_size=4))
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_state_comes_back(states: list[dict[str, bytes | None]], tmp_path_factory: pytest.TempPathFactory) -> None:
    base = tmp_path_factory.mktemp("any")
    tree = base / "tree"
    tree.mkdir()
    git(tree, "init", "--quiet")
    (tree / ".gitignore").write_text("*.log\n")
    snapshots = WorkTreeSnapshots(tree, "s", folder=base / "session")
    taken = []
    for step, state in enumerate(states):
        write_state(tree, state)
        taken.append((snapshots.take(step), {name: file for name, file in files(tree).items() if name != "e.log"}))
    for snapshot, expected in reversed(taken):
        snapshots.restore(snapshot)
        assert {name: file for name, file in files(tree).items() if name != "e.log"} == expected


@given(states=st.lists(STATES, min_size=3, max_size=5), part=st.sampled_from(["", "p", "p/q"]))
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("object_format", ["sha1", "sha256"])
def test_small_changes_are_written_as_git_writes_them(
    object_format: str, states: list[dict[str, bytes | None]], part: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    base = tmp_path_factory.mktemp("equal")
    top = base / "top"
    (top / part / "x").mkdir(parents=True)
    (top / "beside").write_text("b")
    (top / part / "x.y").write_text("sorted before the folder x")
    (top / part / "x" / "y").write_text("y")
    git(top, "init", "--quiet", f"--object-format={object_format}")
    git(top, "add", "--all")
    tree = top / part / "x"
    snapshots = WorkTreeSnapshots(tree, "s", folder=base / "session", max_file_bytes=11)
    for step, state in enumerate(states):
        write_state(tree, state)
        for name in ("a", "f f"):
            if (tree / name).is_file():
                (tree / name).chmod(0o755 if step % 2 else 0o644)
        taken = snapshots.take(step)
        anew = WorkTreeSnapshots(tree, f"s{step}", folder=base / f"session{step}", max_file_bytes=11)
        assert taken == anew.take(step)
        assert snapshots.left_out(taken) == anew.left_out(taken)
    git(top, "fsck", "--strict")
    assert len(snapshots.list()) == len(states)


def test_a_step_with_few_changes_asks_git_once(tree: Path, opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    run = Git.run

    def counted(self: Git, *arguments: str, data: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        asked.append(arguments[0])
        return run(self, *arguments, data=data)

    snapshots = opened(tree)
    snapshots.take(1)
    snapshots.take(2)
    monkeypatch.setattr(Git, "run", counted)
    change_everything(tree)
    second = snapshots.take(3)
    assert asked == ["ls-files"]
    assert second == opened(tree, "other").take(1)


def test_many_changes_are_taken_into_the_index(tree: Path, opened: Opener) -> None:
    snapshots = opened(tree)
    ids = [snapshots.take(1)]
    for number in range(100):
        (tree / f"many{number}").write_text(f"{number}")
    ids.append(snapshots.take(2))
    (tree / "big").write_bytes(os.urandom(2 * 1024**2))
    ids.append(snapshots.take(3))
    (tree / "many7").unlink()
    ids.append(snapshots.take(4))
    assert ids[-1] == opened(tree, "other").take(1)
    assert len(set(ids)) == 4
    snapshots.restore(ids[1])
    assert snapshots.take(5) == ids[1]


def test_two_objects_for_one_session_do_not_mislead_each_other(tree: Path, opened: Opener) -> None:
    one, two = opened(tree), opened(tree)
    first = one.take(1)
    change_everything(tree)
    two.take(2)
    two.restore(first)
    assert one.take(3) == first
    (tree / "a.py").write_text("else\n")
    two.take(4)
    (tree / "a.py").write_text("print(3)\n")
    assert one.take(5) == first


def test_objects_for_one_session_wait_for_one_another(tree: Path, opened: Opener) -> None:
    """A screen looks at what going back would change, while another look, or going back itself, is on its way."""
    for number in range(100):
        (tree / f"new{number}.txt").write_text(str(number))
    opened(tree)
    with ThreadPoolExecutor(4) as threads:
        taken = set(threads.map(lambda step: opened(tree).take(step), range(12)))
    assert len(taken) == 1


def test_snapshots_of_small_changes_survive_garbage_collection(tree: Path, opened: Opener) -> None:
    snapshots = opened(tree)
    snapshots.take(1)
    change_everything(tree)
    second, after = snapshots.take(2), files(tree)
    git(tree, "gc", "--quiet", "--prune=now")
    git(tree, "pack-refs", "--all", "--prune")
    (tree / "a.py").write_text("else\n")
    assert snapshots.take(3) != second
    (tree / "a.py").write_text("print(4)\n")
    assert snapshots.take(4) == second
    git(tree, "gc", "--quiet", "--prune=now")
    (tree / "a.py").unlink()
    snapshots.restore(second)
    assert files(tree) == after
    git(tree, "fsck", "--strict")


def test_a_folder_of_references_that_is_none_leaves_them_to_git(tree: Path, opened: Opener, tmp_path: Path) -> None:
    snapshots = opened(tree)
    snapshots.take(1)
    blocked = tree / ".git" / "refs" / "kodkod" / "s1" / "000002"
    blocked.write_text("in the way")
    (tree / "a.py").write_text("else\n")
    with pytest.raises(GitFault, match="update-ref"):
        snapshots.take(2)
    blocked.unlink()
    assert snapshots.take(2) == opened(tree, "other").take(1)


def test_a_folder_may_become_a_link(tree: Path, opened: Opener) -> None:
    (tree / "d").mkdir()
    for name in ("x", "y"):
        (tree / "d" / name).write_text(name)
    git(tree, "add", "d")
    snapshots = opened(tree)
    first, before = snapshots.take(1), files(tree)
    (tree / "d").rename(tree / "e")
    (tree / "d").symlink_to("e")
    (tree / "e" / "x").write_text("changed")
    second, after = snapshots.take(2), files(tree)
    assert second == opened(tree, "other").take(1)
    snapshots.restore(first)
    assert files(tree) == before
    snapshots.restore(second)
    assert files(tree) == after


@pytest.mark.parametrize("linked", ["a.py", "deep"])
def test_a_link_that_comes_meanwhile_is_not_followed(
    tree: Path, opened: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linked: str
) -> None:
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    for name in ("a.py", "b.py"):
        (secrets / name).write_text("secret\n")
    (tree / "deep").mkdir()
    (tree / "deep" / "b.py").write_text("b\n")
    snapshots = opened(tree)
    snapshots.take(1)
    for name in ("a.py", "deep/b.py"):
        (tree / name).write_text("changed\n")
    look = snapshots._index.changes

    def late() -> object:
        found = look()
        (tree / linked).rename(tmp_path / "away")
        (tree / linked).symlink_to(secrets if linked == "deep" else secrets / "a.py")
        return found

    monkeypatch.setattr(snapshots._index, "changes", late)
    try:
        taken = snapshots.take(2)
    except GitFault:
        return
    assert "secret\n" not in {git(tree, "show", f"{taken}:{name}", check=False) for name in ("a.py", "deep/b.py")}


def test_a_step_in_a_large_tree_reads_what_changed_alone(
    tmp_path: Path, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = tmp_path / "large"
    for number in range(5000):
        path = tree / f"d{number % 50}" / f"f{number}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{number}\n")
    git(tree, "init", "--quiet")
    git(tree, "add", "--all")
    git(tree, "commit", "--quiet", "--message=all")
    snapshots = opened(tree)
    snapshots.take(0)
    commands: list[str] = []
    run = Git.run

    def counted(self: Git, *arguments: str, data: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        commands.append(arguments[0])
        return run(self, *arguments, data=data)

    monkeypatch.setattr(Git, "run", counted)
    stored: list[str] = []
    add = LooseStore.add

    def noted(self: LooseStore, kind: Literal["blob", "tree", "commit"], content: bytes) -> str:
        stored.append(kind)
        return add(self, kind, content)

    monkeypatch.setattr(LooseStore, "add", noted)
    (tree / "d1" / "f1.py").write_text("changed 0\n")
    snapshots.take(1)
    commands.clear()
    stored.clear()
    (tree / "d1" / "f1.py").write_text("changed 1\n")
    snapshots.take(2)
    assert commands == ["ls-files"]
    assert sorted(stored) == ["blob", "commit", "tree", "tree"]
