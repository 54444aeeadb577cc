"""Hooks: a person's own commands, run before and after calls and when a run would end.

    [[hooks]]
    event = "before_tool"
    tools = ["edit", "write"]
    command = "scripts/check-edit"

A hook reads what happens as JSON on its standard input. It may object, and it may say something to the model; it cannot
allow what would be asked or refused. It runs where the person's shell would run: in the project, outside the box.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from kodkod_tools.text.cleaned import cleaned, one_line

OBJECTS = 2
"""Exit code of a hook that objects; its standard error says why."""
MAX_WORDS_CHARS = 4_000
"""Most of a hook's words that the model is told."""
_MAX_OUTPUT_BYTES = 64 * 1024
_SHOWN_COMMAND_CHARS = 80
_END_TIMEOUT_S = 5.0


class HookEvent(StrEnum):
    """When a hook is run."""

    BEFORE_TOOL = "before_tool"
    """A call is about to be done: it was allowed already."""
    AFTER_TOOL = "after_tool"
    """It was done."""
    STOP = "stop"
    """The model has finished, and the run would end."""


class Hook(BaseModel):
    """One command."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    event: HookEvent
    command: str = Field(min_length=1)
    """For `sh -c`."""
    tools: tuple[str, ...] = ()
    """Names of the tools it is about, `*` for any letters; empty: all."""
    timeout_s: float = Field(default=60.0, gt=0, le=3_600)

    def is_about(self, event: HookEvent, tool: str) -> bool:
        """Whether it is to be run now."""
        return self.event is event and (not self.tools or any(fnmatchcase(tool, each) for each in self.tools))

    def shown(self) -> str:
        """Its command in a line."""
        return one_line(self.command, _SHOWN_COMMAND_CHARS)


class _Answer(BaseModel):
    """What a hook may print."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    block: str | None = None
    """Why it objects."""
    message: str | None = None
    """For the model."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What the hooks said to one event."""

    objection: str | None = None
    """Of the first that objected; those after it were not run."""
    messages: tuple[str, ...] = ()
    """For the model."""
    faults: tuple[str, ...] = ()
    """Hooks that failed, for the person, a line each."""


class Hooks(Protocol):
    """Whoever is to be heard before, after and at the end."""

    async def hear(self, event: HookEvent, tool: str, told: Mapping[str, JsonValue], work_tree: Path) -> Heard:
        """Tell them what happens; their word on it.

        Args:
            event: what it is.
            tool: whose call; empty at the end of a run.
            told: what they are told besides.
            work_tree: where it happens.
        """
        ...


class NoHooks:
    """Nobody is heard."""

    async def hear(self, event: HookEvent, tool: str, told: Mapping[str, JsonValue], work_tree: Path) -> Heard:
        """See `Hooks`."""
        del event, tool, told, work_tree
        return Heard()


@dataclass(frozen=True)
class CommandHooks:
    """See the module. One after another, in the order of the settings."""

    hooks: tuple[Hook, ...]
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))

    async def hear(self, event: HookEvent, tool: str, told: Mapping[str, JsonValue], work_tree: Path) -> Heard:
        """See `Hooks`."""
        given = json.dumps({"event": event, "work_tree": str(work_tree), "tool": tool, **told}).encode("ascii")
        messages: list[str] = []
        faults: list[str] = []
        for hook in self._about(event, tool):
            answer = await self._ask(hook, given, work_tree)
            if answer.fault:
                faults.append(answer.fault)
            if answer.message:
                messages.append(answer.message)
            # A guard that fails guards nothing: before a call its failure is an objection.
            objection = answer.objection or (answer.fault if event is HookEvent.BEFORE_TOOL else "")
            if objection:
                return Heard(objection, tuple(messages), tuple(faults))
        return Heard(None, tuple(messages), tuple(faults))

    def _about(self, event: HookEvent, tool: str) -> Iterable[Hook]:
        return (hook for hook in self.hooks if hook.is_about(event, tool))

    async def _ask(self, hook: Hook, given: bytes, work_tree: Path) -> _Words:
        try:
            process = await self._start(hook, work_tree)
        except OSError as fault:
            return _Words(fault=f"the hook `{hook.shown()}` cannot be run: {fault.strerror}")
        try:
            async with asyncio.timeout(hook.timeout_s):
                out, err, code = await _spoken(process, given)
        except TimeoutError:
            await _end(process)
            return _Words(fault=f"the hook `{hook.shown()}` took longer than {hook.timeout_s:g} s")
        except asyncio.CancelledError:
            await _end(process)
            raise
        return _read(hook, code, out, err)

    async def _start(self, hook: Hook, work_tree: Path) -> asyncio.subprocess.Process:
        begin = asyncio.create_subprocess_shell(
            hook.command,
            cwd=work_tree,
            env=dict(self.environment),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        # Cancelled in the middle, asyncio would end the shell alone and wait for what it has started.
        starting = asyncio.create_task(begin)
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            await _end(await starting)
            raise


@dataclass(frozen=True, slots=True)
class _Words:
    """One hook's."""

    objection: str = ""
    message: str = ""
    fault: str = ""


async def _spoken(process: asyncio.subprocess.Process, given: bytes) -> tuple[str, str, int]:
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_give(process.stdin, given))
        out = tasks.create_task(_take(process.stdout))
        err = tasks.create_task(_take(process.stderr))
        code = tasks.create_task(process.wait())
    return out.result(), err.result(), code.result()


async def _give(stream: asyncio.StreamWriter, data: bytes) -> None:
    with suppress(BrokenPipeError, ConnectionResetError):  # it need not listen
        stream.write(data)
        await stream.drain()
    stream.close()


async def _take(stream: asyncio.StreamReader) -> str:
    """What it says, as much as is kept; the rest is read, so that it can end."""
    kept = bytearray()
    while data := await stream.read(_MAX_OUTPUT_BYTES):
        kept += data[: _MAX_OUTPUT_BYTES - len(kept)]
    return kept.decode("utf-8", "replace")


async def _end(process: asyncio.subprocess.Process) -> None:
    """It and what it started."""
    assert process.stdout is not None
    assert process.stderr is not None
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(TimeoutError):  # something that left its group may hold the pipes
        async with asyncio.timeout(_END_TIMEOUT_S):
            await asyncio.gather(_take(process.stdout), _take(process.stderr))
            await process.wait()


def _read(hook: Hook, code: int, out: str, err: str) -> _Words:
    if code == OBJECTS:
        return _Words(objection=_bounded(err or out) or "it said no more")
    if code != 0:
        last = next((line for line in reversed(cleaned(err).splitlines()) if line.strip()), "")
        return _Words(fault=one_line(f"the hook `{hook.shown()}` failed with exit code {code} {last and f'({last})'}"))
    if not out.lstrip().startswith("{"):
        return _Words()  # a formatter that tells what it did, say
    try:
        answer = _Answer.model_validate_json(out)
    except ValidationError as fault:
        first = fault.errors(include_url=False)[0]
        return _Words(fault=one_line(f"the hook `{hook.shown()}` printed what cannot be read: {first['msg']}"))
    objection = "" if answer.block is None else _bounded(answer.block) or "it said no more"
    return _Words(objection, _bounded(answer.message or ""))


def _bounded(text: str) -> str:
    told = cleaned(text).strip()
    return told if len(told) <= MAX_WORDS_CHARS else f"{told[: MAX_WORDS_CHARS - 1]}…"
