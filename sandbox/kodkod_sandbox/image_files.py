"""A folder out of an image: what a benchmark has laid out in one, for a work tree on this machine."""

from __future__ import annotations

import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kodkod_sandbox.daemon import Daemon
from kodkod_sandbox.environment import SYSTEM_PATH
from kodkod_sandbox.errors import ImageError, SandboxUnavailable
from kodkod_sandbox.images import BASE_TAG, ensure_base


@contextmanager
def _daemon() -> Iterator[Daemon]:
    daemon = Daemon.connect()
    try:
        yield daemon
    finally:
        daemon.close()


def has_image(tag: str) -> bool:
    """Whether the daemon of this machine has an image of that name; False where there is no daemon. Blocks."""
    try:
        with _daemon() as daemon:
            return daemon.has_image(tag)
    except SandboxUnavailable:
        return False


def image_path(tag: str) -> str:
    """PATH as an image sets it, or the usual one. Blocks.

    Raises:
        SandboxError: there is no daemon, or no such image.
    """
    with _daemon() as daemon:
        return daemon.image_path(tag) or SYSTEM_PATH


def copy_from_image(tag: str, folder: str, target: Path) -> None:
    """Copy a folder of an image; no command of the image is run. Blocks.

    Links that lead out of the folder and what is neither file, folder nor link are left out.

    Args:
        tag: of an image the daemon has.
        folder: absolute, in the image.
        target: made by this call.

    Raises:
        SandboxError: there is no daemon, no such image, or no such folder in it.
    """
    unpacked = target.parent / f".{target.name}.unpacked"
    with tempfile.TemporaryFile() as archive:
        with _daemon() as daemon:
            daemon.export_folder(tag, folder, archive)
        archive.seek(0)
        with tarfile.open(fileobj=archive) as opened:
            opened.extractall(unpacked, filter=_harmless)
    top = unpacked / Path(folder).name
    if not top.is_dir():
        raise ImageError(f"{folder} in the image {tag} is no folder; name the one that holds the work tree")
    top.rename(target)
    shutil.rmtree(unpacked)


def _harmless(member: tarfile.TarInfo, place: str) -> tarfile.TarInfo | None:
    try:
        return tarfile.data_filter(member, place)
    except tarfile.FilterError:
        return None


def build_from_base(folder: Path, dockerfile: str, tag: str) -> None:
    """Build an image on the base one, without network. Blocks.

    Args:
        folder: what the build sees; the Dockerfile is written into it.
        dockerfile: its text; `{base}` stands for the base image.
        tag: of the image.

    Raises:
        SandboxError: there is no daemon, no base image, or the build fails.
    """
    (folder / "Dockerfile").write_text(dockerfile.replace("{base}", BASE_TAG), encoding="utf-8")
    with _daemon() as daemon:
        ensure_base(daemon, allow_build_network=False)
        daemon.build_image(folder, "Dockerfile", tag, network=False, arguments={})
