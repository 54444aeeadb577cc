"""A work tree with one commit: no later history in which a fix could be read."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

_NAME, _ADDRESS, _DATE = "kodkod", "kodkod@localhost", "2000-01-01T00:00:00+0000"
_TIMEOUT_S = 600.0
_QUIET = ("-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false", "-c", "core.autocrlf=false")


class WorkTreeFault(Exception):
    """A work tree cannot be made."""

    exit_code = 1


def make_single_commit(tree: Path) -> str:
    """Make a folder a repository whose one commit holds what is there; the commit's id, the same for the same files.

    In a folder that was a repository, what that tracked is committed, and what it ignored stays untracked.

    Raises:
        WorkTreeFault: git refuses.
    """
    tracked = _git(tree, "ls-files", "-z") if (tree / ".git").exists() else None
    _remove(tree / ".git")
    _git(tree, "init", "-q", "-b", "main")
    if tracked is None:
        _git(tree, "add", "-A", "-f", ".")
    else:
        present = b"\0".join(name for name in tracked.split(b"\0") if name and _is_there(tree, name))
        _git(tree, "add", "-A", "-f", "--pathspec-from-file=-", "--pathspec-file-nul", stdin=present)
    _git(tree, "commit", "-q", "--allow-empty", "-m", "base")
    return _git(tree, "rev-parse", "HEAD").decode().strip()


def apply_patch(tree: Path, patch: str, *, reverse: bool = False) -> None:
    """Change a tree, which need not be a repository, as a patch says.

    Raises:
        WorkTreeFault: it does not apply.
    """
    # Inside another repository git would pass over what is not below its own top: the tree is named as the top.
    direction = ("-R",) if reverse else ()
    variables = {"GIT_CEILING_DIRECTORIES": str(tree.parent)}
    _git(tree, "apply", "--whitespace=nowarn", *direction, "-", stdin=patch.encode(), variables=variables)


def checkout(clone: Path, commit: str, tree: Path) -> None:
    """Lay out one commit of a clone, without its history; also what its attributes keep out of archives, tests often.

    Raises:
        WorkTreeFault: the clone has no such commit.
    """
    with TemporaryDirectory(prefix="kodkod-index-") as folder:
        variables = {"GIT_INDEX_FILE": str(Path(folder, "index"))}
        _git(clone, "read-tree", commit, variables=variables)
        tree.mkdir(parents=True)
        _git(clone, "checkout-index", "--all", variables={**variables, "GIT_WORK_TREE": str(tree)})


def _is_there(tree: Path, name: bytes) -> bool:
    return os.path.lexists(os.path.join(os.fsencode(tree), name))  # noqa: PTH118 - a name of bytes, as git gives it


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _git(tree: Path, *arguments: str, stdin: bytes | None = None, variables: Mapping[str, str] | None = None) -> bytes:
    who = {
        f"GIT_{role}_{field}": value
        for role in ("AUTHOR", "COMMITTER")
        for field, value in (("NAME", _NAME), ("EMAIL", _ADDRESS), ("DATE", _DATE))
    }
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": os.environ.get("HOME", "/"),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        **who,
        **(variables or {}),
    }
    try:
        done = subprocess.run(
            ["git", *_QUIET, "-c", f"safe.directory={tree}", *arguments],
            cwd=tree, env=environment, input=stdin, capture_output=True, timeout=_TIMEOUT_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as fault:
        raise WorkTreeFault(f"git {arguments[0]} in {tree}: {fault}") from fault
    if done.returncode:
        raise WorkTreeFault(f"git {arguments[0]} in {tree}: {_last_line(done.stderr)}")
    return done.stdout


def _last_line(said: bytes) -> str:
    return (said.decode("utf-8", "replace").strip().splitlines() or ["failed without a word"])[-1]
