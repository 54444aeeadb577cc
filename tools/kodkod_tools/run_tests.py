"""The test tool: run the project's tests in the box and tell what fails, first and briefly."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shlex
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from pydantic import Field, JsonValue

from kodkod_sandbox.base import ExecResult
from kodkod_tools import junit, unittest_words
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
from kodkod_tools.files import read_text
from kodkod_tools.jobs import streaming
from kodkod_tools.locate.suspects import BadTrace, Suspect, read_trace, suspects
from kodkod_tools.locate.tracing import TRACE_FILE, Tracing, tracing
from kodkod_tools.output import Kept, OutputKeeper, keep_text
from kodkod_tools.paths import Place, resolve
from kodkod_tools.schema import declare
from kodkod_tools.scratch import read_scratch, scratch
from kodkod_tools.shell import ended
from kodkod_tools.tests_told import MAX_OUTPUT_CHARS, cause_in, facts, summary, told_result

_REPORT = "report.xml"
_USAGE_ERROR = 4
"""Exit code of pytest."""
_MAX_SOURCES = 200
"""Files of the project that are read to tell the suspects."""
_UNTRACED = "the lines that the tests run are not known"
_ENVIRONMENT = {"PYTHONDONTWRITEBYTECODE": "1"}
_NOT_FOUND = 127
"""Exit code of a shell that finds no such command."""
_NO_PYTEST_NOTE = "run by unittest, for pytest is not installed"
_NO_RUNNER = "pytest is not installed in the sandbox's Python, and unittest found no tests"
_NO_PYTEST = re.compile(r"No module named '?\"?pytest")


class TestArguments(Arguments):
    """Which tests."""

    __test__ = False  # not a test class, whatever its name says to pytest

    targets: list[str] = Field(
        default=[], description="Files, folders or ids such as tests/test_a.py::test_x; default: all"
    )
    timeout_s: float | None = Field(default=None, gt=0, description="Seconds")
    locate: bool = Field(default=False, description="Also list the functions and lines that failing tests run")


class Test:
    """Facts: `passed`, `failed`, `errors`, `skipped` (counts), `failed_tests` (ids, at most 200), `exit_code`,
    `timed_out`.

    Counts are missing where no report could be read; `failed_tests` too where unittest ran them, and `instead` says why
    it did. `not_run` is there where nothing could be run, and says why, whatever the exit code; `cause` where an error
    kept tests from being run: a line of its own words. That tests fail is no error of the call. With `locate` all tests
    of the targets' files are run, for the contrast between those that fail and those that pass; `suspects` (see
    `locate.suspects.Suspect`) is missing where they could not be traced.
    """

    __test__ = False

    effect = Effect.EXECUTES
    arguments = TestArguments
    spec = declare("test", TestArguments)

    async def run(self, arguments: TestArguments, context: ToolContext) -> ToolStream:
        """Run pytest with a report; unittest where pytest is not installed; another configured command as it is."""
        if not arguments.targets:
            arguments = arguments.model_copy(update={"targets": list(context.config.test_targets)})
        require_passable(*arguments.targets)
        for target in arguments.targets:
            if target.startswith("-"):
                raise ToolError(
                    ErrorCode.BAD_ARGUMENTS, f"targets: {target!r} is an option; name files, folders or test ids"
                )
        runs = _with_report if "pytest" in " ".join(context.config.test_command) else _plain
        async with aclosing(runs(arguments, context)) as items:
            async for item in items:
                yield item


@dataclass(slots=True)
class _Run:
    """One command, as it goes and as it ended."""

    command: Sequence[str]
    timeout_s: float
    environment: Mapping[str, str] = field(default_factory=dict)
    result: ExecResult | None = None
    kept: Kept | None = None

    async def stream(self, context: ToolContext) -> AsyncGenerator[ToolOutput, None]:
        """Its output; afterwards `result` and `kept` are there."""
        config = context.config
        keeper = OutputKeeper(context.log_folder, "test", config.max_result_chars, config.max_log_bytes)
        environment = {**_ENVIRONMENT, **self.environment}
        try:
            async with streaming(context.sandbox, self.command, env=environment, timeout_s=self.timeout_s) as stream:
                async for item in stream:
                    if isinstance(item, ExecResult):
                        self.result, self.kept = item, keeper.kept()
                    else:
                        yield ToolOutput(keeper.add(item.channel, item.data), item.channel)
        finally:
            keeper.close()

    def ended(self) -> tuple[ExecResult, Kept]:
        """How it ended."""
        assert self.result is not None
        assert self.kept is not None
        return self.result, self.kept


def _run(
    arguments: TestArguments, context: ToolContext, command: Sequence[str], environment: Mapping[str, str] | None = None
) -> _Run:
    timeout_s = min(arguments.timeout_s or context.config.test_timeout_s, context.config.max_command_timeout_s)
    return _Run(command, timeout_s, environment or {})


async def _plain(arguments: TestArguments, context: ToolContext) -> ToolStream:
    run = _run(arguments, context, [*context.config.test_command, *arguments.targets])
    async with aclosing(run.stream(context)) as chunks:
        async for chunk in chunks:
            yield chunk
    yield _noted(_without_report(run, context), f"{_UNTRACED}: only pytest is traced" if arguments.locate else "")


async def _with_report(arguments: TestArguments, context: ToolContext) -> ToolStream:
    trace: bytes | None = None
    with scratch(context.work_tree) as place:
        traced = _tracing(place, context) if arguments.locate else Tracing((), {})
        command = [
            *context.config.test_command, *traced.options,
            "-v", "--tb=short", "--color=no", "-o", "junit_family=xunit1", f"--junitxml={place.absolute / _REPORT}",
            "-o", f"cache_dir={place.absolute / 'cache'}",
            *(_files(arguments.targets) if arguments.locate else arguments.targets),
        ]  # fmt: skip
        run = _run(arguments, context, command, traced.environment)
        async with aclosing(run.stream(context)) as chunks:
            async for chunk in chunks:
                yield chunk
        report = read_scratch(place, _REPORT, context.config.max_report_bytes)
        if arguments.locate:
            trace = read_scratch(place, TRACE_FILE, context.config.max_report_bytes)
    async with aclosing(_concluded(arguments, context, run, report, trace)) as items:
        async for item in items:
            yield item


def _tracing(place: Place, context: ToolContext) -> Tracing:
    return tracing(place, context.work_tree, context.sandbox.options.env.get("PYTHONPATH", ""))


def _files(targets: Sequence[str]) -> list[str]:
    """The files of the targets, each once: all their tests are run, for contrast."""
    return list(dict.fromkeys(target.split("::")[0] for target in targets))


async def _concluded(
    arguments: TestArguments, context: ToolContext, run: _Run, report: bytes | None, trace: bytes | None
) -> ToolStream:
    """What a run with a report comes to; one that could not do as asked is made again in a simpler way."""
    result, kept = run.ended()
    if report is not None and not result.timed_out:
        try:
            yield await asyncio.to_thread(_reported, junit.read(report), arguments, run, trace, context)
        except junit.BadReport as error:
            yield _without_report(run, context, f"the test report cannot be used: {error}")
        return
    note = ""
    if result.timed_out:
        again = None
    elif result.exit_code and _NO_PYTEST.search(kept.for_model):
        again, note = _unittest, f"{_UNTRACED}: only pytest is traced"
    elif arguments.locate:
        again, note = _with_report, f"{_UNTRACED}: pytest did not run with the plugin that traces"
    else:
        again = None
    if again is None:
        yield _without_report(run, context)
        return
    async with aclosing(again(arguments.model_copy(update={"locate": False}), context)) as items:
        async for item in items:
            yield _noted(item, note if arguments.locate else "") if isinstance(item, ToolResult) else item


def _noted(result: ToolResult, note: str) -> ToolResult:
    return replace(result, for_model=f"{result.for_model}\n[{note}]") if note else result


def _reported(
    cases: list[junit.Case], arguments: TestArguments, run: _Run, trace: bytes | None, context: ToolContext
) -> ToolResult:
    """The result from a report: what fails, the suspects, then the counts."""
    result, kept = run.ended()
    located: tuple[Suspect, ...] | None = None
    note = ""
    if arguments.locate:
        try:
            located = _located(trace, arguments.targets, context)
        except BadTrace as error:
            note = f"{_UNTRACED}: {error}"
    text = told_result(
        cases, located, result.exit_code, result.duration_s, context.config,
        targets=arguments.targets, output=kept.for_model,
    )  # fmt: skip
    found = {**facts(cases, result.exit_code), **_why_none(result, run.command, kept, "")}
    if located is not None:
        found["suspects"] = [suspect.as_value() for suspect in located]
    person = summary(cases, result.exit_code, result.duration_s)
    return _noted(ToolResult(text, for_person=person, for_log=kept.for_log, facts=found), note)


def _located(trace: bytes | None, targets: Sequence[str], context: ToolContext) -> tuple[Suspect, ...]:
    if trace is None:
        raise BadTrace("the plugin wrote no trace, or too large a one")
    narrowed = read_trace(trace).narrowed(targets)
    sources: dict[str, str] = {}
    for path in narrowed.failing_paths()[:_MAX_SOURCES]:
        with contextlib.suppress(ToolError):
            sources[path] = read_text(resolve(context, path), context.config.max_syntax_bytes).text
    return suspects(narrowed, sources)


def _without_report(run: _Run, context: ToolContext, note: str = "") -> ToolResult:
    """The result from exit code and output alone."""
    result, kept = run.ended()
    shown = keep_text(
        kept.for_model, context.log_folder, "test", min(MAX_OUTPUT_CHARS, context.config.max_result_chars // 2)
    )
    told = ended(result, Kept(shown.for_model, kept.for_log), run.timeout_s)
    hint = note or _hint(result, run.command)
    is_missing = result.exit_code == _NOT_FOUND
    return ToolResult(
        f"{told.for_model}\n[{hint}]" if hint else told.for_model,
        for_log=kept.for_log,
        error=told.error or (ErrorCode.UNAVAILABLE if is_missing else None),
        facts={**told.facts, **_why_none(result, run.command, kept, hint)},
    )


def _why_none(result: ExecResult, command: Sequence[str], kept: Kept, hint: str) -> dict[str, JsonValue]:
    """Facts on a run that ran nothing."""
    if result.exit_code == _NOT_FOUND:
        return {"not_run": hint}
    if _has_not_started(result, command) and (cause := cause_in(kept.for_model)):
        return {"cause": cause}
    return {}


def _has_not_started(result: ExecResult, command: Sequence[str]) -> bool:
    return result.exit_code == _USAGE_ERROR and "pytest" in " ".join(command)


def _hint(result: ExecResult, command: Sequence[str]) -> str:
    if result.timed_out:
        return "the last test named above was running when the time was over; run fewer with targets"
    if result.exit_code == _NOT_FOUND:
        return f"{command[0]} is not installed in the sandbox"
    if _has_not_started(result, command):
        return "pytest could not start: see its message above; check that the targets exist"
    return ""


async def _unittest(arguments: TestArguments, context: ToolContext) -> ToolStream:
    """Where there is no pytest: the standard library's runner, by the same Python."""
    command = list(context.config.test_command)
    python = command[: command.index("-m")] if "-m" in command else ["python"]
    targets = [unittest_words.dotted(target) for target in arguments.targets] or ["discover"]
    run = _run(arguments, context, [*python, "-m", "unittest", *targets])
    async with aclosing(run.stream(context)) as chunks:
        async for chunk in chunks:
            yield chunk
    result, kept = run.ended()
    told = _without_report(run, context)
    num_run = unittest_words.num_run(kept.for_model)
    if not num_run and (unittest_words.has_counted(kept.for_model) or not result.exit_code):
        install = shlex.join([*python, "-m", "pip", "install", "pytest"])
        # Its exit code may be 0, and is not told: nothing was run that could pass.
        text = f"{kept.for_model.rstrip()}\n[{_NO_RUNNER}; install it there ({install}) where the network allows]"
        not_run = {**told.facts, "not_run": _NO_RUNNER}
        yield ToolResult(text, for_log=kept.for_log, error=ErrorCode.UNAVAILABLE, facts=not_run)
        return
    # Out of time, or ended by a test, it does not say how many there were.
    counts = unittest_words.facts(kept.for_model, num_run) if num_run else {}
    found = {**told.facts, **counts, "instead": _NO_PYTEST_NOTE}
    yield replace(_noted(told, _NO_PYTEST_NOTE), facts=found)
