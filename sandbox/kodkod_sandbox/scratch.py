"""A box's own folder on this machine: what is behind its /tmp and its home. Removed on close, or at the next start."""

from __future__ import annotations

import os
import secrets
import stat
import tempfile
from pathlib import Path

from kodkod_sandbox.errors import SandboxUnavailable
from kodkod_sandbox.owner import Owner
from kodkod_sandbox.removal import remove_tree

_FOLDERS = ("tmp", "home", "root", "stage")
_MOUNTS = Path("/proc/self/mountinfo")
_ESCAPES = {sign: f"\\{ord(sign):03o}" for sign in " \t\n\\"}
"""How the kernel spells them there."""


def make_scratch(uid: int, gid: int) -> Path:
    """A new folder for one box, which belongs to the box's user.

    Raises:
        SandboxUnavailable: the folder for temporary files cannot be used.
    """
    scratch = _base() / f"{Owner.current()}.{secrets.token_hex(4)}"
    try:
        for name in _FOLDERS:
            (scratch / name).mkdir(parents=True)
            (scratch / name).chmod(0o700)
            if os.geteuid() == 0:
                os.chown(scratch / name, uid, gid)
        scratch.chmod(0o700)
        if os.geteuid() == 0:
            os.chown(scratch, uid, gid)
    except OSError as cause:
        raise SandboxUnavailable(f"no scratch folder can be made in {scratch.parent}: {cause.strerror}") from cause
    return scratch


def remove_scratch(scratch: Path) -> None:
    """Remove it, whatever the box's commands made of it. Left alone while anything is mounted below it."""
    below = "".join(_ESCAPES.get(sign, sign) for sign in f"{scratch}/")
    with _MOUNTS.open(encoding="utf-8", errors="surrogateescape") as mounts:
        if any(line.split()[4].startswith(below) for line in mounts):
            return
    remove_tree(scratch)


def reap_scratch() -> list[Path]:
    """Remove what kodkods that live no more have left. Gives what was removed."""
    left = []
    for scratch in _base().iterdir():
        owner = Owner.parse(scratch.name.partition(".")[0])
        if owner and owner.is_dead:
            remove_scratch(scratch)
            left.append(scratch)
    return left


def _base() -> Path:
    """The parent of all scratch folders of this user."""
    return own_folder(f"kodkod-{os.geteuid()}")


def own_folder(name: str) -> Path:
    """A folder for temporary files of this user; nobody else may write there.

    Raises:
        SandboxUnavailable: it cannot be made, or is another's.
    """
    base = Path(tempfile.gettempdir(), name)
    try:
        base.mkdir(mode=0o711, exist_ok=True)
        found = base.lstat()
    except OSError as cause:
        raise SandboxUnavailable(f"no scratch folder can be made at {base}: {cause.strerror}; set TMPDIR") from cause
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise SandboxUnavailable(f"{base} is not a folder of this user alone: remove it, or set TMPDIR")
    base.chmod(0o711)  # commands of a box may run as another user; a umask may have closed it to them
    return base
