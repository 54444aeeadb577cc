"""Second views of the user's folders with their owner translated, for a Docker daemon to mount.

They live apart from scratch folders, and are taken away by unmounting and `rmdir` alone, which cannot remove a file:
what lies behind them is the user's own.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
import tempfile
from pathlib import Path

from kodkod_sandbox import launcher
from kodkod_sandbox.errors import SandboxUnavailable
from kodkod_sandbox.launcher import kernel
from kodkod_sandbox.launcher.spec import Identity
from kodkod_sandbox.owner import Owner
from kodkod_sandbox.scratch import own_folder

_NAME = "kodkod-views"
_SCRIPT = str(Path(launcher.__path__[0], "translate.py"))


def make_view(source: Path, who: Identity) -> Path:
    """A place where `source` is seen as belonging to the box's user.

    Raises:
        SandboxUnavailable: this kernel or file system cannot translate owners, or the place is another's.
    """
    place = own_folder(_NAME) / f"{Owner.current()}.{secrets.token_hex(4)}"
    if source.is_dir():
        place.mkdir()
    else:
        place.touch()
    numbers = (who.tree_uid, who.tree_gid, who.uid, who.gid)
    done = subprocess.run(
        [sys.executable, "-I", "-S", _SCRIPT, str(source), str(place), *map(str, numbers)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        remove_view(place)
        raise SandboxUnavailable(
            f"{source} belongs to root, and its owner cannot be translated here ({done.stderr.strip()}): "
            "run kodkod as an ordinary user who owns it"
        )
    return place


def remove_view(place: Path) -> None:
    """Take a view away. Never touches what it shows."""
    with contextlib.suppress(OSError):
        kernel.unmount(str(place))
    with contextlib.suppress(OSError):
        if place.is_dir():
            place.rmdir()
        elif place.stat().st_size == 0 and not place.is_mount():
            place.unlink()


def reap_views() -> None:
    """Take away the views of kodkods that live no more.

    Raises:
        SandboxUnavailable: the place they are made in is another's.
    """
    if os.geteuid() != 0 or not Path(tempfile.gettempdir(), _NAME).exists():
        return
    for place in own_folder(_NAME).iterdir():
        owner = Owner.parse(place.name.partition(".")[0])
        if owner and owner.is_dead:
            remove_view(place)
