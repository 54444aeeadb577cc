"""A copy of a session's work tree as it was, for things that must not touch the tree itself."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from kodkod_agent.private_git import GitFault, find_repository
from kodkod_agent.session_folder import SessionFolder
from kodkod_agent.snapshots import copy_snapshots

_TIMEOUT_S = 600.0


def copy_work_tree(folder: SessionFolder, target: Path, placing: Path) -> Path:
    """Make ready a folder in which the session's snapshots can be restored.

    Of a repository it is a clone that shares nothing with it, has no remote and runs no hooks or filters.

    Args:
        folder: the session's.
        target: new or empty.
        placing: new; for the private side of `WorkTreeSnapshots`.

    Returns:
        The copy's work tree: `target`, or the folder in it for a session in a part of a repository.

    Raises:
        GitFault: the work tree is gone, or git refuses.
    """
    work_tree = folder.info.work_tree
    if not work_tree.is_dir():
        raise GitFault(f"the work tree {work_tree} is gone; put it back there first")
    repository = find_repository(work_tree.resolve(), _TIMEOUT_S)
    if repository is None:
        target.mkdir(parents=True, exist_ok=True)
        copy_snapshots(folder.snapshots, placing / folder.snapshots.name)
        return target.resolve()
    own = f"refs/kodkod/{folder.path.name}/*"
    asked_for = f"--config=remote.origin.fetch=+{own}:{own}"  # what else a clone of a shallow repository lacks
    _git(
        "clone", "--quiet", "--no-hardlinks", "--template=", "--origin=origin", asked_for,
        "--", str(repository.top), str(target),
    )  # fmt: skip
    _git("-C", str(target), "remote", "remove", "origin")
    copy = target.resolve() / work_tree.resolve().relative_to(repository.top)
    copy.mkdir(parents=True, exist_ok=True)
    return copy


def _git(*arguments: str) -> None:
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": os.environ.get("HOME", "/"),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
    }
    settings = ("-c", "core.hooksPath=/dev/null", "-c", "protocol.file.allow=always", "-c", "advice.detachedHead=false")
    done = subprocess.run(
        ["git", *settings, *arguments], env=environment, capture_output=True, timeout=_TIMEOUT_S, check=False
    )
    if done.returncode:
        words = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["failed without a word"]
        raise GitFault(f"the work tree cannot be copied: {words[-1].removeprefix('fatal: ')}")
