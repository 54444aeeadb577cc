"""What all boxes share: options made absolute, and a command's result taken from its stream."""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Coroutine, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from kodkod_sandbox.base import BoxOptions, ExecChunk, ExecResult
from kodkod_sandbox.errors import SandboxLost

T = TypeVar("T")


class StreamingSandbox(ABC):
    """A box whose commands are followed piece by piece."""

    name: str

    def __init__(self, options: BoxOptions) -> None:
        self._options = replace(
            options,
            work_tree=options.work_tree.resolve(),
            read_only_paths=tuple(path.absolute() for path in options.read_only_paths),
        )

    @property
    def options(self) -> BoxOptions:
        """What the box was built from."""
        return self._options

    @property
    def note(self) -> str:
        """What the person should know of how the box was made; empty when there is nothing."""
        return ""

    @abstractmethod
    def _follow(
        self,
        command: Sequence[str] | str,
        cwd: Path | None,
        env: Mapping[str, str] | None,
        stdin: bytes | None,
        limit_s: float,
    ) -> AsyncGenerator[ExecChunk | ExecResult, None]:
        """Run one command; its output as it comes, then its result. Closing it early ends the command."""

    async def exec(
        self,
        command: Sequence[str] | str,
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: bytes | None = None,
        timeout_s: float | None = None,
    ) -> ExecResult:
        """Run one command to its end."""
        stream = self.exec_stream(command, cwd=cwd, env=env, stdin=stdin, timeout_s=timeout_s)
        async with contextlib.aclosing(stream) as items:
            async for item in items:
                if isinstance(item, ExecResult):
                    return item
        raise SandboxLost(f"the {self.name} box ended without a result")

    def exec_stream(
        self,
        command: Sequence[str] | str,
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: bytes | None = None,
        timeout_s: float | None = None,
    ) -> AsyncGenerator[ExecChunk | ExecResult, None]:
        """As `exec`, with output as it comes."""
        limit_s = self._options.limits.timeout_s if timeout_s is None else timeout_s
        return self._follow(command, cwd, env, stdin, limit_s)


async def finish(work: Coroutine[Any, Any, T]) -> T:
    """Await to the end even when cancelled meanwhile: what was half begun must not be lost."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait((task,))
        raise
