"""Which box: the strongest this machine has, or the one that was asked for; and what is missing for the others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kodkod_sandbox import bubblewrap, landlock
from kodkod_sandbox.base import BoxOptions, Sandbox
from kodkod_sandbox.base import SandboxKind as SandboxKind  # who chooses a box finds the kinds here
from kodkod_sandbox.bubblewrap import BubblewrapSandbox
from kodkod_sandbox.building import build_apart
from kodkod_sandbox.daemon import Daemon
from kodkod_sandbox.docker import DockerSandbox
from kodkod_sandbox.errors import SandboxError, SandboxUnavailable
from kodkod_sandbox.images import BASE, Image, image_for, ready_image
from kodkod_sandbox.landlock import LandlockSandbox
from kodkod_sandbox.none import NoSandbox

BEST_FIRST = (SandboxKind.DOCKER, SandboxKind.BUBBLEWRAP, SandboxKind.LANDLOCK)
"""What `auto` tries. Never `none`: that is for a person to say."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One line of `kodkod doctor`."""

    kind: SandboxKind
    available: bool
    detail: str
    """What is there, or what is missing and how to get it."""


async def open_sandbox(
    kind: SandboxKind | str,
    options: BoxOptions,
    *,
    image: str | None = None,
    allow_build_network: bool = False,
    tell: Callable[[str], None] | None = None,
) -> Sandbox:
    """A started box. The caller closes it.

    Args:
        kind: one of `SandboxKind`; `auto` takes the first of `BEST_FIRST` that starts.
        image: for Docker: start from this one instead of what the repository asks for.
        allow_build_network: for Docker: an image that is not there yet may be built, over the network.
        tell: takes a line for the person before something that takes its time; called from another thread.

    Raises:
        SandboxError: it cannot be had; for `auto`, with the reason for each kind and a way out.
        ValueError: no such kind.
    """
    kind = SandboxKind(kind)
    named, reasons = Image(image) if image else None, []
    for one in BEST_FIRST if kind is SandboxKind.AUTO else (kind,):
        try:
            return await _open(one, options, named, allow_build_network, tell)
        except SandboxError as fault:
            if kind is not SandboxKind.AUTO:
                raise
            reasons.append(f"{one}: {fault}")
    raise SandboxUnavailable(
        f"no box can be had here ({'; '.join(reasons)}): mend one of these, or accept commands without one by "
        "--sandbox none"
    )


async def _open(
    kind: SandboxKind,
    options: BoxOptions,
    image: Image | None = None,
    allow_build_network: bool = False,
    tell: Callable[[str], None] | None = None,
) -> Sandbox:
    if kind is SandboxKind.DOCKER and image is None:
        image = await _image(options.work_tree, allow_build_network, tell)
    box = make_sandbox(kind, options, image or BASE)
    try:
        await box.start()
    except BaseException:
        await box.close()
        raise
    return box


async def _image(work_tree: Path, allow_build_network: bool, tell: Callable[[str], None] | None) -> Image:
    if not allow_build_network:
        return await asyncio.to_thread(find_image, work_tree)
    return await asyncio.to_thread(_ready_image, work_tree) or await build_apart(work_tree, tell)


def _ready_image(work_tree: Path) -> Image | None:
    daemon = Daemon.connect()
    try:
        return ready_image(work_tree, daemon)
    finally:
        daemon.close()


def find_image(
    work_tree: Path, *, allow_build_network: bool = False, tell: Callable[[str], None] | None = None
) -> Image:
    """The Docker image a project's box starts from; see `image_for`. Blocks.

    Raises:
        SandboxUnavailable: there is no daemon.
        ImageError: there is no image.
    """
    daemon = Daemon.connect()
    try:
        return image_for(work_tree, daemon, allow_build_network=allow_build_network, tell=tell)
    finally:
        daemon.close()


def make_sandbox(kind: SandboxKind | str, options: BoxOptions, image: Image = BASE) -> Sandbox:
    """A box of one kind, not started; `image` is for Docker alone."""
    makers: dict[SandboxKind, Callable[[], Sandbox]] = {
        SandboxKind.DOCKER: lambda: DockerSandbox(options, image),
        SandboxKind.BUBBLEWRAP: lambda: BubblewrapSandbox(options),
        SandboxKind.LANDLOCK: lambda: LandlockSandbox(options),
        SandboxKind.NONE: lambda: NoSandbox(options),
    }
    return makers[SandboxKind(kind)]()


async def diagnose(options: BoxOptions) -> list[Fact]:
    """What each kind would need here. Starts and closes each box once on the given tree; builds no image."""
    return [await _diagnose(kind, options) for kind in BEST_FIRST]


async def _diagnose(kind: SandboxKind, options: BoxOptions) -> Fact:
    quick = {SandboxKind.BUBBLEWRAP: bubblewrap.missing, SandboxKind.LANDLOCK: landlock.missing}
    if kind in quick and (reason := quick[kind]()):
        return Fact(kind, False, reason)
    try:
        box = await _open(kind, options)
    except SandboxError as fault:
        return Fact(kind, False, str(fault))
    detail = f"isolates by `{box.isolation}`" if isinstance(box, LandlockSandbox) else "ready"
    await box.close()
    return Fact(kind, True, detail)
