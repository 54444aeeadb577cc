"""git in folders of our own, the same on every machine: without the person's settings, hooks and templates."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

_SETTINGS = ("-c", "user.name=kodkod", "-c", "user.email=kodkod@localhost", "-c", "commit.gpgsign=false")
_ENVIRONMENT = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
_BEGIN = ("init", "-q", "--template=", "-b", "main")


class OwnGitFault(Exception):
    """git is not there, or refuses."""

    exit_code = 1


def own_git(tree: Path, *arguments: str) -> str:
    """What git says.

    Args:
        tree: a folder that only we work in.
        arguments: the command and its words.

    Raises:
        OwnGitFault: it cannot be done.
    """
    # A hook of another repository may have started us: what it says of that one is not meant here.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", *_SETTINGS, *arguments]
    try:
        done = subprocess.run(command, cwd=tree, env=inherited | _ENVIRONMENT, capture_output=True, check=False)
    except OSError as fault:
        raise OwnGitFault(f"git {arguments[0]} in {tree}: {fault.strerror}; install git") from fault
    if done.returncode:
        words = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["failed without a word"]
        raise OwnGitFault(f"git {arguments[0]} in {tree}: {words[-1]}")
    return done.stdout.decode("utf-8", "surrogateescape")


def begin_repository(tree: Path) -> None:
    """Make a folder a repository without a commit.

    Raises:
        OwnGitFault: it cannot be done.
    """
    own_git(tree, *_BEGIN)


def commit_all(tree: Path, message: str = "as it is") -> None:
    """Commit what is there, ignored or not.

    Raises:
        OwnGitFault: it cannot be done.
    """
    own_git(tree, "add", "-A", "-f", ".")
    own_git(tree, "commit", "-q", "--allow-empty", "--allow-empty-message", "-m", message)
