"""Where candidates work: copies of the work tree outside of it, each with a box of its own.

A copy lies in a folder that is labelled with the kodkod it belongs to, so that what a killed one left behind is removed
by the next that makes copies.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import stat
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path

from kodkod_agent.candidates import OpenPlace, Place
from kodkod_agent.errors import AgentError
from kodkod_agent.session_folder import SessionFolder
from kodkod_agent.snapshots import WorkTreeSnapshots
from kodkod_app.boxes import BoxPlan, open_box
from kodkod_app.copies import copy_work_tree
from kodkod_app.python_environment import find_environment
from kodkod_sandbox.choose import SandboxKind
from kodkod_sandbox.owner import Owner
from kodkod_sandbox.scratch import remove_scratch


class NoRoomForCopies(AgentError):
    """The folder for temporary files cannot be used."""


def place_opener(plan: BoxPlan, kind: SandboxKind) -> OpenPlace:
    """Makes places with boxes like the run's own.

    Args:
        plan: of the run's box.
        kind: what the run's box turned out to be.
    """

    def open_place(folder: SessionFolder, snapshot: str | None) -> AbstractAsyncContextManager[Place]:
        return _open_place(plan, kind, folder, snapshot)

    return open_place


@asynccontextmanager
async def _open_place(
    plan: BoxPlan, kind: SandboxKind, folder: SessionFolder, snapshot: str | None
) -> AsyncIterator[Place]:
    with copy_folder() as parent:
        tree = await asyncio.to_thread(_copy, folder, snapshot, parent)
        async with open_box(_plan_for(tree, plan, kind)) as box:
            yield Place(tree, box)


def _copy(folder: SessionFolder, snapshot: str | None, parent: Path) -> Path:
    tree = copy_work_tree(folder, parent / "tree", parent / "placing")
    if snapshot is not None:
        WorkTreeSnapshots(tree, folder.path.name, folder=parent / "placing").restore(snapshot)
    return tree


def _plan_for(tree: Path, plan: BoxPlan, kind: SandboxKind) -> BoxPlan:
    environment = plan.environment and find_environment(tree, plan.environment.folder, {})
    variables = {**plan.variables, **_import_path(tree)}
    return replace(plan, work_tree=tree, kind=kind, environment=environment, variables=variables)


def _import_path(tree: Path) -> Mapping[str, str]:
    """Has the copy's modules found before those of the tree it was copied from, which may be installed as they lie."""
    folders = [folder for folder in (tree / "src", tree) if folder.is_dir()]
    return {"PYTHONPATH": os.pathsep.join(map(str, folders))}


# The folder


@contextmanager
def copy_folder() -> Iterator[Path]:
    """A folder for one copy, removed on the way out; a box's user may come into it.

    Raises:
        NoRoomForCopies: it cannot be made.
    """
    base = _base()
    reap_copies(base)
    folder = base / f"{Owner.current()}.{secrets.token_hex(4)}"
    folder.mkdir()
    folder.chmod(0o711)  # whatever the umask
    try:
        yield folder
    finally:
        remove_scratch(folder)


def reap_copies(base: Path) -> list[Path]:
    """Remove what kodkods that live no more have left. Gives what was removed."""
    left = []
    for folder in base.iterdir():
        owner = Owner.parse(folder.name.partition(".")[0])
        if owner and owner.is_dead:
            remove_scratch(folder)
            left.append(folder)
    return left


def _base() -> Path:
    base = Path(tempfile.gettempdir(), f"kodkod-copies-{os.geteuid()}").resolve()
    try:
        base.mkdir(mode=0o711, exist_ok=True)
        found = base.lstat()
    except OSError as cause:
        raise NoRoomForCopies(f"no copies can be made at {base}: {cause.strerror}; set TMPDIR") from cause
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise NoRoomForCopies(f"{base} is not a folder of this user alone: remove it, or set TMPDIR")
    base.chmod(0o711)
    return base
