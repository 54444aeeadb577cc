"""Building an image in a process of its own, so that it can be ended at any moment.

A build is the daemon's work, and the daemon gives it up when the one who asked for it hangs up. No call of the SDK can
be made to hang up from outside; a process can. It ends when it is told to, and when the process that began it ends,
however that ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from kodkod_sandbox import errors
from kodkod_sandbox.daemon import Daemon
from kodkod_sandbox.errors import ImageError, SandboxError
from kodkod_sandbox.images import Image, find_recipe, image_for

_MAX_LINE_BYTES = 2**20
_PATIENCE_S = 2.0


async def build_apart(work_tree: Path, tell: Callable[[str], None] | None = None) -> Image:
    """The project's image, built over the network. Cancelled, it leaves nothing running and no half-built image.

    Args:
        tell: takes a line for the person before something that takes its time.

    Raises:
        SandboxUnavailable: there is no daemon.
        ImageError: the build failed.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "kodkod_sandbox.building", str(work_tree)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        start_new_session=True,
        limit=_MAX_LINE_BYTES,
    )
    try:
        return await _followed(process, tell)
    except asyncio.CancelledError:
        await _end(process)
        await asyncio.shield(asyncio.to_thread(_clear, work_tree))
        raise
    finally:
        await _end(process)


async def _followed(process: asyncio.subprocess.Process, tell: Callable[[str], None] | None) -> Image:
    assert process.stdout is not None
    async for line in process.stdout:
        kind, *said = json.loads(line)
        if kind == "image":
            return Image(*said)
        if kind == "fault":
            name, text = said
            raise getattr(errors, name)(text)
        if tell:
            tell(*said)
    raise ImageError(f"building the image ended with code {await process.wait()} and without a word; try again")


async def _end(process: asyncio.subprocess.Process) -> None:
    """By a word, on which what it started clears up behind itself; then by force."""
    ended = asyncio.ensure_future(process.wait())
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        await asyncio.wait({ended}, timeout=_PATIENCE_S)


def _clear(work_tree: Path) -> None:
    """What a build that was hung up on leaves of its first stage."""
    with suppress(SandboxError):
        recipe = find_recipe(work_tree)
        daemon = Daemon.connect()
        try:
            if recipe is not None:
                daemon.remove_stages(recipe.tag)
        finally:
            daemon.close()


def main() -> None:
    """Build for the work tree that is named, and say on standard output what came of it."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        daemon = Daemon.connect()
        try:
            image = image_for(Path(sys.argv[1]), daemon, allow_build_network=True, tell=lambda line: _say("tell", line))
        finally:
            daemon.close()
    except SandboxError as fault:
        _say("fault", type(fault).__name__, str(fault))
    else:
        _say("image", image.tag, image.note)


def _end_with_parent() -> None:
    """The other end of standard input closes when the parent ends."""
    sys.stdin.buffer.read()
    os.killpg(0, signal.SIGKILL)


def _say(*said: str) -> None:
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
