"""The box that is a Docker container: one container for the box's life, one `exec` in it for each command.

A command's processes end with it. Docker itself offers no way to end an `exec`, so the box does: when no other command
runs, everything in the container but its first process is killed; while others run, what carries the command's mark in
its environment is, and whatever slipped out of that goes as soon as the container is idle. A container that is too
full to start one more process is started afresh, and loses what is in its /tmp.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import time
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from pathlib import Path

from kodkod_sandbox import identity
from kodkod_sandbox.base import BoxOptions, ExecChunk, ExecResult
from kodkod_sandbox.daemon import Attachment, ContainerPlan, Daemon, Mount
from kodkod_sandbox.environment import BOX_HOME, SYSTEM_PATH, as_argv, box_env, check_shown, inside_tree
from kodkod_sandbox.errors import ImageError, SandboxError, SandboxLost, SandboxUnavailable
from kodkod_sandbox.frames import FrameReader
from kodkod_sandbox.images import Image
from kodkod_sandbox.launcher.spec import Identity
from kodkod_sandbox.output import KeptOutput
from kodkod_sandbox.owner import Owner
from kodkod_sandbox.streaming import StreamingSandbox, finish
from kodkod_sandbox.translated import make_view, reap_views, remove_view

MARK = "_KODKOD_COMMAND"
"""The variable by which a command's processes are known while other commands run beside it."""

# The first process reaps orphans while it waits, and outlives a `kill -9 -1` that takes its sleep away.
_FIRST_PROCESS = ("/bin/sh", "-c", "while :; do sleep 3600 & wait; done")
_OWN_PROCESSES = 2
_SPARE_PIDS = 8
_KILL_ALL = ("/bin/sh", "-c", "kill -9 -1")
_KILL_MARKED = (
    "/bin/sh",
    "-c",
    'for round in 1 2 3; do for p in /proc/[0-9]*; do tr "\\0" "\\n" 2>/dev/null <"$p/environ" | grep -qx "$1" '
    '&& kill -9 "${p#/proc/}"; done; done 2>/dev/null; :',
    "sh",
)
_FIND_CLOSED = (
    "/bin/sh",
    "-c",
    'n=0; for p; do n=$((n+1)); test -r "$p" || exit $n; test -d "$p" || continue; test -x "$p" || exit $n; done',
    "sh",
)
"""Exits with the number of the first argument its user cannot come into; 0 when there is none."""
_CLOSED_FOLDER = Path("/root")
"""Only root may pass through it in most images; elsewhere Docker makes the folders above a mount open."""
_PIECE_BYTES = 262_144
_QUIET_S = 0.3
"""Silence after which the box looks whether the command ended and something it left holds its output open."""


class DockerSandbox(StreamingSandbox):
    """Commands in a container with no network, no capabilities and a read-only file system."""

    name = "docker"

    def __init__(self, options: BoxOptions, image: Image) -> None:
        super().__init__(options)
        self._image = image
        self._daemon: Daemon | None = None
        self._container: str | None = None
        self._path = SYSTEM_PATH
        self._views: list[Path] = []
        self._running: set[_Command] = set()

    @property
    def note(self) -> str:
        """Why the image is not the project's own."""
        return self._image.note

    async def start(self) -> None:
        """Make the box ready: remove what dead kodkods left, and start the container."""
        if self._container:
            return
        check_shown(self._options)
        await finish(asyncio.to_thread(self._start))

    def _start(self) -> None:
        self._daemon = daemon = Daemon.connect()
        try:
            _reap(daemon)
            _check_image(daemon, self._image.tag)
            self._path = daemon.image_path(self._image.tag) or SYSTEM_PATH
            self._container = daemon.create(self._plan())
            self._check_view(daemon, self._container)
            self._check_read_only(daemon, self._container)
        except BaseException:
            self._close()
            raise

    def _plan(self) -> ContainerPlan:
        limits, who = self._options.limits, _identity(self._options.work_tree)
        scratch_bytes = min(limits.scratch_bytes, limits.memory_bytes)  # it is memory, and counted as such
        tmpfs = f"rw,exec,nosuid,nodev,size={scratch_bytes},uid={who.uid},gid={who.gid}"
        shown = [(self._options.work_tree, False), *((path, True) for path in self._options.read_only_paths)]
        return ContainerPlan(
            image=self._image.tag,
            argv=_FIRST_PROCESS,
            owner=str(Owner.current()),
            user=f"{who.uid}:{who.gid}",
            mounts=[Mount(self._source(path, who), path, read_only) for path, read_only in shown],
            tmpfs={
                "/tmp": f"{tmpfs},mode=1777",
                BOX_HOME: f"{tmpfs},mode=700",
                **_passages((path for path, _ in shown), who),
            },
            memory_bytes=limits.memory_bytes,
            shared_memory_bytes=scratch_bytes,
            pids=limits.pids + _SPARE_PIDS,
            file_bytes=limits.file_bytes,
            cpus=limits.cpus,
            network=self._options.network,
        )

    def _source(self, path: Path, who: Identity) -> Path:
        if not who.is_translated:
            return path
        self._views.append(make_view(path, who))
        return self._views[-1]

    def _check_view(self, daemon: Daemon, container: str) -> None:
        """The daemon may see another file system than this process does; then the tree would be another folder."""
        script = 'test -d "$1" && test "$(stat -c %u "$1")" = "$(id -u)"'
        if daemon.run(container, ["/bin/sh", "-c", script, "sh", str(self._options.work_tree)]):
            raise SandboxUnavailable(
                f"inside the container {self._options.work_tree} is not the folder it is outside, or belongs to "
                "another user: run Docker on this machine itself, and own the work tree"
            )

    def _check_read_only(self, daemon: Daemon, container: str) -> None:
        """What is shown may be closed to the one who is to use it."""
        paths = self._options.read_only_paths
        if number := daemon.run(container, [*_FIND_CLOSED, *map(str, paths)]):
            raise SandboxUnavailable(
                f"{paths[number - 1]} is closed to the user commands run as in the container: open it "
                "(chmod -R o+rX), name another environment by --env, or use another --sandbox"
            )

    async def _follow(
        self,
        command: Sequence[str] | str,
        cwd: Path | None,
        env: Mapping[str, str] | None,
        stdin: bytes | None,
        limit_s: float,
    ) -> AsyncGenerator[ExecChunk | ExecResult, None]:
        if self._daemon is None or self._container is None:
            raise SandboxError("the docker box is not running: call start() first")
        where = inside_tree(self._options.work_tree, cwd)
        run = _Command(self, self._daemon, self._container, self._options.limits.max_output_bytes)
        variables = box_env(self._options, BOX_HOME, "/tmp", env, self._path)  # the container's own /tmp
        self._running.add(run)
        try:
            async with contextlib.aclosing(
                run.follow(as_argv(command), variables, str(where), stdin, limit_s)
            ) as items:
                async for item in items:
                    yield item
        finally:
            self._running.discard(run)

    def others_run(self, command: _Command) -> bool:
        """Whether other commands run in the container beside this one."""
        return bool(self._running - {command})

    def holds(self, container: str) -> bool:
        """Whether the box still is this container."""
        return self._container == container

    async def close(self) -> None:
        """Kill what runs and remove the container."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        daemon, container, views = self._daemon, self._container, self._views
        self._daemon, self._container, self._views = None, None, []
        try:
            if daemon and container:
                daemon.remove(container)
        finally:
            for view in views:
                remove_view(view)
            if daemon:
                daemon.close()


class _Command:
    """One command in the container."""

    def __init__(self, box: DockerSandbox, daemon: Daemon, container: str, max_output_bytes: int) -> None:
        self._box = box
        self._daemon = daemon
        self._container = container
        self._kept = KeptOutput(max_output_bytes)
        self._mark = secrets.token_hex(8)
        self._id = ""
        self._attachment: Attachment | None = None
        self._timed_out = False

    async def follow(
        self, argv: Sequence[str], env: Mapping[str, str], cwd: str, stdin: bytes | None, limit_s: float
    ) -> AsyncGenerator[ExecChunk | ExecResult, None]:
        """Output as it comes, then the result. Closing it early ends the command's processes."""
        start_s, since_s = time.monotonic(), time.time()
        marked = {**env, MARK: self._mark}
        feeding: asyncio.Task[None] | None = None
        try:
            await finish(asyncio.to_thread(self._attach, argv, marked, cwd, stdin is not None))
            assert self._attachment
            feeding = asyncio.create_task(_feed(self._attachment, stdin))
            async with contextlib.aclosing(self._pieces(self._attachment, start_s + limit_s)) as pieces:
                async for piece in pieces:
                    self._kept.add(piece)
                    yield piece
            yield await asyncio.to_thread(self._result, time.monotonic() - start_s, since_s)
        finally:
            if feeding:
                feeding.cancel()
                await asyncio.gather(feeding, return_exceptions=True)
            if self._attachment:
                self._attachment.close()
                await finish(asyncio.to_thread(self._sweep))

    def _attach(self, argv: Sequence[str], env: Mapping[str, str], cwd: str, stdin: bool) -> None:
        self._id, self._attachment = self._daemon.attach(self._container, argv, env=env, cwd=cwd, stdin=stdin)

    async def _pieces(self, attachment: Attachment, deadline_s: float) -> AsyncGenerator[ExecChunk, None]:
        loop, reader, data = asyncio.get_running_loop(), FrameReader(), attachment.first_bytes
        receiving: asyncio.Task[bytes] | None = None
        try:
            while True:
                for piece in reader.feed(data):
                    yield piece
                receiving = receiving or loop.create_task(loop.sock_recv(attachment.socket, _PIECE_BYTES))
                wait_s = max(0.0, min(_QUIET_S, deadline_s - time.monotonic()))
                await asyncio.wait((receiving,), timeout=wait_s)
                if not receiving.done():
                    data = b""
                    await self._look(deadline_s)
                    continue
                data, receiving = receiving.result(), None
                if not data:
                    return
                if time.monotonic() >= deadline_s:
                    await self._look(deadline_s)
        except ConnectionError as cause:
            raise SandboxLost("the connection to the Docker daemon broke; is it still running?") from cause
        finally:
            if receiving:
                receiving.cancel()
                await asyncio.gather(receiving, return_exceptions=True)

    async def _look(self, deadline_s: float) -> None:
        """Past the deadline, or ended with its output held open by what it left behind: end what there is."""
        state = await asyncio.to_thread(self._daemon.state, self._id)
        if state.running and time.monotonic() >= deadline_s:
            self._timed_out = True
        if not state.running or self._timed_out:
            await asyncio.to_thread(self._sweep)

    def _sweep(self) -> None:
        """End what is left of the command."""
        try:
            if self._box.others_run(self):
                self._daemon.run(self._container, [*_KILL_MARKED, f"{MARK}={self._mark}"])
            elif self._daemon.count_processes(self._container) > _OWN_PROCESSES:
                self._end_everything()
        except SandboxLost:
            if self._box.holds(self._container):
                raise  # else the box was closed meanwhile, and everything in it ended

    def _end_everything(self) -> None:
        with contextlib.suppress(SandboxLost):  # too full for one more process
            self._daemon.run(self._container, list(_KILL_ALL))
        if self._daemon.count_processes(self._container) > _OWN_PROCESSES:
            self._daemon.restart(self._container)

    def _result(self, duration_s: float, since_s: float) -> ExecResult:
        state = self._daemon.state(self._id)
        killed = state.exit_code == 128 + 9 and not self._timed_out
        out_of_memory = killed and self._daemon.ran_out_of_memory(self._container, since_s)
        return self._kept.result(state.exit_code, duration_s, timed_out=self._timed_out, out_of_memory=out_of_memory)


def _identity(tree: Path) -> Identity:
    return identity.of_tree_owner(tree) if os.geteuid() == 0 else identity.of_this_process()


def _passages(shown: Iterable[Path], who: Identity) -> dict[str, str]:
    """Empty folders in place of closed ones of the image, so that what is mounted below can be reached.

    They are the user's own: some runtimes give such a folder the mode of the one it covers, whatever is asked.
    """
    if any(path.is_relative_to(_CLOSED_FOLDER) for path in shown):
        return {str(_CLOSED_FOLDER): f"rw,nosuid,nodev,noexec,size=64k,mode=500,uid={who.uid},gid={who.gid}"}
    return {}


def _check_image(daemon: Daemon, image: str) -> None:
    if not daemon.has_image(image):
        raise ImageError(f"Docker has no image {image}: build it, or allow it to be built over the network")


def _reap(daemon: Daemon) -> None:
    """Remove containers and views of kodkods that live no more."""
    for container, token in daemon.owners().items():
        owner = Owner.parse(token)
        if owner and owner.is_dead:
            daemon.remove(container)
    reap_views()


async def _feed(attachment: Attachment, stdin: bytes | None) -> None:
    if stdin is None:
        return
    with contextlib.suppress(ConnectionError):  # a command need not read its input
        await asyncio.get_running_loop().sock_sendall(attachment.socket, stdin)
    with contextlib.suppress(OSError):
        attachment.socket.shutdown(1)
