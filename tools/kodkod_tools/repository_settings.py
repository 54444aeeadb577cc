"""What git on the host sees of a repository's own settings: those that name no program and no other file.

Git reads its settings anew with every command, and who works in the box may change them at any moment. So they are read
once, and git is shown a folder of ours (`GIT_COMMON_DIR`) in which all of the repository is linked but its settings and
hooks; a copy of the harmless settings lies in their place.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

_HARMLESS = re.compile(
    r"""(?ix)
    core\.(?:repositoryformatversion | filemode | bare | ignorecase | precomposeunicode | symlinks | autocrlf | eol
        | abbrev | compression | bigfilethreshold | sparsecheckout(?:cone)? | sharedrepository | logallrefupdates)
    | extensions\.(?!worktreeconfig$).*
    | (?:user|author|committer)\.(?:name|email)
    | branch\..*\.(?:remote|merge)
    | remote\..*\.(?:url|fetch|promisor|partialclonefilter)
    | diff\.(?:algorithm | renames | renamelimit | indentheuristic) | diff\..*\.(?:x?funcname|binary|wordregex)
    | merge\.(?:conflictstyle | renames | renamelimit)
    | index\.(?:sparse | version)
    | i18n\.(?:commitencoding | logoutputencoding)
    """
)
_OWN = frozenset({"config", "config.worktree", "hooks"})


def is_of(git_folder: Path, top: Path, core_worktree: str | None) -> bool:
    """Whether a git folder is that of the checkout at `top`.

    It is when it lies there. One that lies elsewhere has to name the checkout, as those of linked work trees and of
    submodules do: what `.git` says could lead to any repository of the person's.
    """
    if git_folder.resolve() == top.resolve() / ".git" or git_folder.resolve() == top.resolve():
        return True
    if core_worktree is not None and (git_folder / core_worktree).resolve() == top.resolve():
        return True
    try:
        named = Path((git_folder / "gitdir").read_text(encoding="utf-8").rstrip("\n"))
    except (OSError, ValueError):
        return False
    return (git_folder / named).parent.resolve() == top.resolve()


def show(common: Path, settings: Iterable[tuple[str, str | None]]) -> TemporaryDirectory[str]:
    """A folder to be shown in place of `common`, where a repository keeps what its work trees share.

    Args:
        common: the real one.
        settings: names and values; None is a name alone, which means true.
    """
    shown = TemporaryDirectory(prefix="kodkod-git-")
    folder = Path(shown.name)
    for entry in common.iterdir():
        if entry.name not in _OWN:
            (folder / entry.name).symlink_to(entry)
    text = "".join(_line(name, value) for name, value in settings if _HARMLESS.fullmatch(name))
    (folder / "config").write_text(text, encoding="utf-8", errors="surrogateescape")
    return shown


def close(shown: TemporaryDirectory[str], common: Path) -> None:
    """Take the folder away; what git or a filter of the person's began in it goes to the real one."""
    for entry in Path(shown.name).iterdir():
        if entry.name not in _OWN and not entry.is_symlink() and not (common / entry.name).exists():
            shutil.move(entry, common / entry.name)
    shown.cleanup()


def _line(name: str, value: str | None) -> str:
    section, _, rest = name.partition(".")
    subsection, _, key = rest.rpartition(".")
    head = f'[{section} "{_escaped(subsection)}"]' if subsection else f"[{section}]"
    shown = "true" if value is None else '"{}"'.format(_escaped(value).replace("\n", "\\n"))
    return f"{head}\n\t{key} = {shown}\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
