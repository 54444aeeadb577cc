"""Whether a folder can be the work tree of a session, before anything is made for one."""

from __future__ import annotations

import os
from pathlib import Path

from kodkod_agent.errors import WorkTreeUnfit
from kodkod_agent.private_git import find_repository
from kodkod_engine.chat.surrogates import without_lone_surrogates

MAX_FILES, MAX_BYTES = 100_000, 4 * 1024**3
"""Of a folder that is no repository. Each session copies it whole, so that every step can be gone back to; a person's
home folder would take hours, and the disk."""

_GIT_TIMEOUT_S = 10.0


def require_fit(work_tree: Path) -> None:
    """That a session of the folder can be written down, and its files be kept.

    Raises:
        WorkTreeUnfit: they cannot.
    """
    require_text_name(work_tree)
    repository = find_repository(work_tree, _GIT_TIMEOUT_S)
    if repository is not None and not os.access(repository.objects, os.W_OK):
        raise WorkTreeUnfit(
            f"{repository.objects}, where the files of every step are kept, cannot be written to; allow it, or work in "
            "a clone"
        )
    if repository is None and _is_huge(work_tree):
        raise WorkTreeUnfit(
            f"{work_tree} is no git repository and holds more than {MAX_FILES:,} files or {MAX_BYTES >> 30} GB, which "
            "every session would copy; go to the project's folder, or use `git init` and a .gitignore here"
        )


def require_text_name(work_tree: Path) -> None:
    """A name may be any bytes; what is kept is of a folder whose name can be written down.

    Raises:
        WorkTreeUnfit: this one cannot.
    """
    try:
        str(work_tree).encode("utf-8")
    except UnicodeEncodeError as fault:
        raise WorkTreeUnfit(
            f"the name of {without_lone_surrogates(str(work_tree))} is not written in UTF-8; rename the folder"
        ) from fault
    if "\n" in str(work_tree):  # git says where a repository lies in lines
        raise WorkTreeUnfit(f"the name of {str(work_tree)!r} has a line break in it; rename the folder")


def _is_huge(work_tree: Path) -> bool:
    """Whether it is over a limit; what lies behind is not looked at, nor what cannot be."""
    num_files = num_bytes = 0
    for folder, _, names in os.walk(work_tree):
        num_files += len(names)
        num_bytes += sum(_size(os.path.join(folder, name)) for name in names)  # noqa: PTH118  # thrice as quick
        if num_files > MAX_FILES or num_bytes > MAX_BYTES:
            return True
    return False


def _size(path: str) -> int:
    try:
        return os.lstat(path).st_size
    except OSError:
        return 0
