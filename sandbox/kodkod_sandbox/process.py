"""What the boxes that run on this machine's own kernel share: one launcher process for each command.

`none`, `landlock` and `bubblewrap` differ in the `LaunchSpec` they write; starting, streaming, time-out, cancelling
and scratch space are the same and live here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from abc import abstractmethod
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path

from kodkod_sandbox import launcher
from kodkod_sandbox.base import BoxOptions, Channel, ExecChunk, ExecResult
from kodkod_sandbox.environment import as_argv, box_env, check_shown, inside_tree
from kodkod_sandbox.errors import SandboxError, SandboxLost, SandboxUnavailable
from kodkod_sandbox.launcher.spec import LaunchSpec, Report
from kodkod_sandbox.output import KeptOutput
from kodkod_sandbox.scratch import make_scratch, reap_scratch, remove_scratch
from kodkod_sandbox.streaming import StreamingSandbox, finish

_LAUNCHER = str(Path(launcher.__path__[0], "__main__.py"))
_PIECE_BYTES = 65536
_QUEUED_PIECES = 16
_GRACE_S = 10.0
"""How long a launcher may take to end its box before it is killed itself."""
_TRIAL_S = 20.0


class ProcessSandbox(StreamingSandbox):
    """A box made anew around each command, with scratch space that lasts as long as the box object."""

    def __init__(self, options: BoxOptions) -> None:
        super().__init__(options)
        self._scratch: Path | None = None
        self._template: LaunchSpec | None = None
        self._running: set[_Run] = set()

    @abstractmethod
    def _templates(self) -> Sequence[LaunchSpec]:
        """Ways to build the box, the strongest first; the first that works is kept.

        Raises:
            SandboxUnavailable: none can work here.
        """

    async def start(self) -> None:
        """Make the box ready: remove what dead kodkods left, and try the box on a command that does nothing."""
        if self._template:
            return
        check_shown(self._options)
        faults = []
        for template in self._templates():
            await asyncio.to_thread(reap_scratch)
            self._scratch = make_scratch(template.identity.host_uid, template.identity.host_gid)
            fault = await self._try(self._placed(template))
            if fault is None:
                self._template = self._placed(template)
                return
            faults.append(fault)
            await self._remove_scratch()
        raise SandboxUnavailable(f"the {self.name} box cannot be built here: {'; '.join(dict.fromkeys(faults))}")

    async def _try(self, template: LaunchSpec) -> str | None:
        """None when the box works, or one line on why not."""
        run = _Run(self._options.limits.max_output_bytes)
        spec = template._replace(argv=("/bin/sh", "-c", ":"))
        async with contextlib.aclosing(run.follow(spec, None, _TRIAL_S)) as items:
            try:
                result = [item async for item in items][-1]
            except SandboxError as fault:
                return str(fault)
        assert isinstance(result, ExecResult)
        words = result.stderr.decode(errors="replace").strip() or "a trial command did not end well"
        return None if result.exit_code == 0 else " ".join(words.split())

    def _placed(self, template: LaunchSpec) -> LaunchSpec:
        """A template with its scratch folder filled in, and the home in it where the box shares the host's files."""
        home = template.home or f"{self._scratch}/home"
        return template._replace(scratch=str(self._scratch), home=home)

    async def _follow(
        self,
        command: Sequence[str] | str,
        cwd: Path | None,
        env: Mapping[str, str] | None,
        stdin: bytes | None,
        limit_s: float,
    ) -> AsyncGenerator[ExecChunk | ExecResult, None]:
        run = _Run(self._options.limits.max_output_bytes)
        spec = self._spec(command, cwd, env)
        self._running.add(run)
        try:
            async with contextlib.aclosing(run.follow(spec, stdin, limit_s)) as items:
                async for item in items:
                    yield item
        finally:
            self._running.discard(run)

    def _spec(self, command: Sequence[str] | str, cwd: Path | None, env: Mapping[str, str] | None) -> LaunchSpec:
        if self._template is None:
            raise SandboxError(f"the {self.name} box is not running: call start() first")
        template = self._template
        tmp = "/tmp" if template.home != f"{template.scratch}/home" else f"{template.scratch}/tmp"
        return template._replace(
            argv=tuple(as_argv(command)),
            env=box_env(self._options, template.home, tmp, env),
            cwd=str(inside_tree(self._options.work_tree, cwd)),
        )

    async def close(self) -> None:
        """Kill what runs and remove the box."""
        self._template = None
        for run in list(self._running):
            await run.end()
        await self._remove_scratch()

    async def _remove_scratch(self) -> None:
        scratch, self._scratch = self._scratch, None
        if scratch:
            await asyncio.to_thread(remove_scratch, scratch)


class _Run:
    """One command on its way, with the launcher that holds its box."""

    def __init__(self, max_output_bytes: int) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._control: socket.socket | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timed_out = False
        self._ended = False
        self._ending = asyncio.Lock()
        self._start_s = time.monotonic()
        self._kept = KeptOutput(max_output_bytes)
        self._pieces: asyncio.Queue[ExecChunk | None] = asyncio.Queue(_QUEUED_PIECES)
        self._tasks: list[asyncio.Task[None]] = []

    async def follow(
        self, spec: LaunchSpec, stdin: bytes | None, limit_s: float
    ) -> AsyncGenerator[ExecChunk | ExecResult, None]:
        """Output as it comes, then the result. Closing it early ends the box."""
        try:
            control = await self._begin(spec, stdin)
            self._timer = asyncio.get_running_loop().call_later(limit_s, self._time_out)
            while piece := await self._pieces.get():
                self._kept.add(piece)
                yield piece
            if self._ended:
                raise SandboxLost("the box was closed while a command ran in it")
            yield self._result(await self._report(control))
        finally:
            await self.end()

    async def _begin(self, spec: LaunchSpec, stdin: bytes | None) -> socket.socket:
        """Start the launcher and hand it its specification; returns our end of the line to it."""
        # Cancelled half-way, asyncio would take the launcher's end from under its own watcher of children.
        process, control = await finish(self._spawn(has_input=stdin is not None))
        if self._ended:
            raise SandboxLost("the box was closed while a command began in it")
        self._tasks = [asyncio.create_task(self._pump(process)), asyncio.create_task(_feed(process, stdin))]
        await asyncio.get_running_loop().sock_sendall(control, spec.to_json())
        return control

    async def _spawn(self, *, has_input: bool) -> tuple[asyncio.subprocess.Process, socket.socket]:
        self._control, theirs = socket.socketpair()
        self._control.setblocking(False)
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", _LAUNCHER, str(theirs.fileno())),
                stdin=asyncio.subprocess.PIPE if has_input else asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
                cwd="/",
                env={},
            )
        return self._process, self._control

    def _time_out(self) -> None:
        self._timed_out = True
        self._call_off()

    def _call_off(self) -> None:
        """Tell the launcher to end its box. Returns at once; safe at any time."""
        if self._control:
            with contextlib.suppress(OSError):
                self._control.shutdown(socket.SHUT_WR)

    async def end(self) -> None:
        """End the box, if it has not ended, and wait until nothing of it is left. Idempotent."""
        self._ended = True
        self._call_off()
        if self._timer:
            self._timer.cancel()
        for task in self._tasks:
            task.cancel()
        try:
            if self._process:
                async with self._ending:
                    await self._gone(self._process)
        finally:
            if self._control:
                self._control.close()
            if self._pieces.empty():
                self._pieces.put_nowait(None)  # wakes who still follows, when it was not they who ended it

    async def _gone(self, process: asyncio.subprocess.Process) -> None:
        """Wait for the launcher's end, and see to it where it does not come."""
        try:
            # Not `wait_for`, which forgets that it is cancelled where what it awaits has just ended.
            async with asyncio.timeout(_GRACE_S):
                await self._drained(process)
        except TimeoutError:
            # process.kill() would ask after the launcher's end first, and asyncio's watcher then never learn of it.
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
            await process.wait()

    async def _drained(self, process: asyncio.subprocess.Process) -> None:
        """The launcher's end. Its pipes are read to theirs meanwhile: the transport counts them."""
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for pipe in _outputs(process).values():
            while await pipe.read(_PIECE_BYTES):
                pass
        await process.wait()

    async def _pump(self, process: asyncio.subprocess.Process) -> None:
        """Both outputs into one queue, in the order they come; None when both have ended."""
        await asyncio.gather(*(self._pump_one(channel, pipe) for channel, pipe in _outputs(process).items()))
        await self._pieces.put(None)

    async def _pump_one(self, channel: Channel, pipe: asyncio.StreamReader) -> None:
        while data := await pipe.read(_PIECE_BYTES):
            await self._pieces.put(ExecChunk(channel, data))

    async def _report(self, control: socket.socket) -> Report:
        received = b""
        with contextlib.suppress(ConnectionError):
            while not received.endswith(b"\n"):
                piece = await asyncio.get_running_loop().sock_recv(control, _PIECE_BYTES)
                if not piece:
                    break
                received += piece
        if not received.endswith(b"\n"):
            words = self._kept.stderr.kept().decode(errors="replace").strip().splitlines()[-1:]
            raise SandboxLost(": ".join(["the box's launcher ended without a report", *words]))
        return Report.from_json(received)

    def _result(self, report: Report) -> ExecResult:
        if report.fault:
            words = self._kept.stderr.kept().decode(errors="replace").split()
            raise SandboxError(" ".join([report.fault, *words]))
        if report.stopped:
            self._kept.stderr.add(f"\nkodkod ended this command: {report.stopped}\n".encode())
        return self._kept.result(
            report.exit_code,
            time.monotonic() - self._start_s,
            timed_out=self._timed_out and report.killed,
            out_of_memory=report.out_of_memory,
        )


def _outputs(process: asyncio.subprocess.Process) -> dict[Channel, asyncio.StreamReader]:
    assert process.stdout
    assert process.stderr
    return {Channel.STDOUT: process.stdout, Channel.STDERR: process.stderr}


async def _feed(process: asyncio.subprocess.Process, stdin: bytes | None) -> None:
    pipe = process.stdin
    if pipe is None or stdin is None:
        return
    try:
        pipe.write(stdin)
        await pipe.drain()
    except ConnectionError:
        pass  # a command need not read its input
    finally:
        pipe.close()
        with contextlib.suppress(ConnectionError):
            await pipe.wait_closed()
