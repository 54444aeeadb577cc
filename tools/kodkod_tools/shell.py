"""The shell tool: one command in the box, or a background job."""

from __future__ import annotations

from contextlib import aclosing
from typing import Self

from pydantic import Field, JsonValue, model_validator

from kodkod_sandbox.base import ExecResult
from kodkod_tools.base import (
    Arguments,
    Effect,
    ErrorCode,
    ToolContext,
    ToolError,
    ToolOutput,
    ToolResult,
    ToolStream,
    require_passable,
)
from kodkod_tools.jobs import Job, streaming
from kodkod_tools.output import Kept, OutputKeeper, Tail
from kodkod_tools.schema import declare
from kodkod_tools.text.truncate import cut_middle, plain

_ENDING_CHARS = 300
"""Room for the lines that say how a command ended."""


class ShellArguments(Arguments):
    """A command to run, or a job to ask after."""

    command: str | None = Field(default=None, min_length=1, description="Command line for bash")
    timeout_s: float | None = Field(default=None, gt=0, description="Seconds; with job: how long to wait for it")
    background: bool = Field(default=False, description="Start the command as a job and return at once")
    job: str | None = Field(default=None, description="Instead of command: id of a job to read from")
    kill: bool = Field(default=False, description="With job: end it")

    @model_validator(mode="after")
    def _one_thing(self) -> Self:
        if (self.command is None) == (self.job is None):
            raise ValueError("give either command (to run something) or job (to read from a job), not both")
        if self.kill and self.job is None:
            raise ValueError("kill needs job: the id of the job to end")
        if self.background and self.job is not None:
            raise ValueError("background goes with command, not with job")
        return self


class Shell:
    """Facts: `exit_code`, `timed_out`, `duration_s` of a command that ended; `job`, `running` of a background job."""

    effect = Effect.EXECUTES
    arguments = ShellArguments
    spec = declare("shell", ShellArguments)

    async def run(self, arguments: ShellArguments, context: ToolContext) -> ToolStream:
        """Run, start, read or end."""
        require_passable(arguments.command or "")
        if arguments.job is not None:
            yield await _ask(arguments, context)
        elif arguments.background:
            yield await _start(arguments, context)
        else:
            async with aclosing(_run(arguments, context)) as items:
                async for item in items:
                    yield item


def _timeout_s(asked: float | None, usual: float, context: ToolContext) -> float:
    return min(asked or usual, context.config.max_command_timeout_s)


def _keeper(context: ToolContext, name: str) -> OutputKeeper:
    config = context.config
    return OutputKeeper(context.log_folder, name, config.max_result_chars - _ENDING_CHARS, config.max_log_bytes)


async def _run(arguments: ShellArguments, context: ToolContext) -> ToolStream:
    timeout_s = _timeout_s(arguments.timeout_s, context.config.command_timeout_s, context)
    keeper = _keeper(context, "shell")
    command = arguments.command or ""
    try:
        async with streaming(context.sandbox, command, timeout_s=timeout_s) as stream:
            async for item in stream:
                if isinstance(item, ExecResult):
                    yield ended(item, keeper.kept(), timeout_s)
                else:
                    yield ToolOutput(keeper.add(item.channel, item.data), item.channel)
    finally:
        keeper.close()


def ended(result: ExecResult, kept: Kept, timeout_s: float) -> ToolResult:
    """The result of a command that ended."""
    notes = [f"[exit code {result.exit_code}, {result.duration_s:.1f} s]"]
    if result.timed_out:
        notes.append(f"[stopped after {timeout_s:g} s: give a larger timeout_s, or run it with background]")
    if result.out_of_memory:
        notes.append("[stopped: out of memory]")
    output = kept.for_model.rstrip("\n")
    facts: dict[str, JsonValue] = {
        "exit_code": result.exit_code,
        "timed_out": result.timed_out,
        "duration_s": round(result.duration_s, 3),
    }
    return ToolResult(
        "\n".join([output, *notes] if output else ["(no output)", *notes]),
        for_log=kept.for_log,
        error=ErrorCode.TIMEOUT if result.timed_out else None,
        facts=facts,
    )


async def _start(arguments: ShellArguments, context: ToolContext) -> ToolResult:
    if len(context.jobs.running) >= context.config.max_jobs:
        running = ", ".join(job.id for job in context.jobs.running)
        raise ToolError(ErrorCode.FAILED, f"{context.config.max_jobs} jobs are running ({running}); end one first")
    timeout_s = min(arguments.timeout_s or context.config.job_timeout_s, context.config.job_timeout_s)
    unseen = Tail(context.config.max_result_chars)
    job = context.jobs.start(context.sandbox, arguments.command or "", _keeper(context, "job"), unseen, timeout_s)
    return await _told(job, context, context.config.job_first_look_s)


async def _ask(arguments: ShellArguments, context: ToolContext) -> ToolResult:
    job = context.jobs.by_id.get(arguments.job or "")
    if job is None:
        known = ", ".join(context.jobs.by_id) or "none was started"
        raise ToolError(ErrorCode.NOT_FOUND, f"there is no job {arguments.job!r}; jobs: {known}")
    if arguments.kill:
        await context.jobs.kill(job)
    return await _told(job, context, _timeout_s(arguments.timeout_s, context.config.job_first_look_s, context))


async def _told(job: Job, context: ToolContext, wait_s: float) -> ToolResult:
    """What is new of a job, and how it stands."""
    result = await job.wait(wait_s)
    unseen, job.unseen = job.unseen, Tail(context.config.max_result_chars)
    output = plain(bytes(unseen).decode("utf-8", "replace")).rstrip("\n")
    if unseen.dropped_bytes:
        output = f"[… {unseen.dropped_bytes:,} bytes before this …]\n{output}"
    output = cut_middle(output, context.config.max_result_chars - _ENDING_CHARS) or "(no new output)"
    facts: dict[str, JsonValue] = {"job": job.id, "running": job.running}
    if result is not None:
        facts |= {"exit_code": result.exit_code, "timed_out": result.timed_out}
    return ToolResult(f"{output}\n[{_standing(job, result)}]", for_log=job.output.path or "", facts=facts)


def _standing(job: Job, result: ExecResult | None) -> str:
    if job.running:
        return f"job {job.id} is running: read on with job={job.id}"
    if result is None:
        return f"job {job.id} was ended"
    return f"job {job.id} ended: exit code {result.exit_code}{', out of time' if result.timed_out else ''}"
