"""What is said of a test run with a report: to the model at length, to the person in a line, to the agent in facts."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pydantic import JsonValue

from kodkod_tools import junit
from kodkod_tools.config import ToolsConfig
from kodkod_tools.locate.suspects import Suspect, is_meant, told
from kodkod_tools.text.truncate import cut_line, cut_middle

MAX_OUTPUT_CHARS = 6_000
"""Of a run whose report names no cause: how much of the output is shown."""
_NO_TESTS = 5
"""Exit code of pytest."""
_NO_TESTS_CAUSE = "pytest finds none; another runner is named by tools.test_command in .kodkod/config.toml"
_MAX_ERROR_LINES = 12
_MAX_NAMES = 50


def told_result(
    cases: Sequence[junit.Case],
    suspects: Sequence[Suspect] | None,
    exit_code: int,
    duration_s: float,
    config: ToolsConfig,
    *,
    targets: Sequence[str] = (),
    output: str = "",
) -> str:
    """What the model reads of a run with a report: failures (of `targets` first), suspects, counts.

    `suspects` is None where they were not asked for. `output` is shown of a run that fails without a failing test.
    """
    bad = sorted(_failing(cases), key=lambda case: not is_meant(case.node_id, targets))
    block = told(suspects or ())
    if bad and suspects is not None and not block:
        block = "[the failing tests run no function of the project]"
    detailed = bad[: config.max_failures]
    room = (config.max_result_chars - 1_500 - len(block)) // max(1, len(detailed))
    blocks = [cut_middle(_told(case, config.max_line_chars), room) for case in detailed]
    if others := [case.node_id for case in bad[len(detailed) :]]:
        names = "\n".join(cut_line(name, 200) for name in others[:_MAX_NAMES])
        blocks.append(cut_middle(f"{len(others)} more fail:\n{names}", 1_000))
    if block:
        blocks.append(block)
    if not bad and exit_code not in (0, _NO_TESTS):
        blocks.append(cut_middle(output, MAX_OUTPUT_CHARS))
    return "\n\n".join([*blocks, summary(cases, exit_code, duration_s)])


MAX_FAILED_TESTS = 200
"""Named in the facts of a run, which are kept with every call."""
MAX_CAUSE_CHARS = 200


def _failing(cases: Sequence[junit.Case]) -> list[junit.Case]:
    return [case for case in cases if case.outcome in (junit.Outcome.FAILED, junit.Outcome.ERROR)]


def _counts(cases: Sequence[junit.Case]) -> dict[junit.Outcome, int]:
    return {outcome: sum(case.outcome is outcome for case in cases) for outcome in junit.Outcome}


def facts(cases: Sequence[junit.Case], exit_code: int) -> dict[str, JsonValue]:
    """What an agent decides by; see `run_tests.Test`."""
    counts = _counts(cases)
    found: dict[str, JsonValue] = {
        "passed": counts[junit.Outcome.PASSED],
        "failed": counts[junit.Outcome.FAILED],
        "errors": counts[junit.Outcome.ERROR],
        "skipped": counts[junit.Outcome.SKIPPED],
        "failed_tests": [case.node_id for case in _failing(cases)[:MAX_FAILED_TESTS]],
        "exit_code": exit_code,
        "timed_out": False,
    }
    errors = (case for case in cases if case.outcome is junit.Outcome.ERROR)
    if lines := [line for case in errors for line in junit.error_lines(case, 2)[:1]]:
        found["cause"] = cut_line(lines[0], MAX_CAUSE_CHARS)
    elif not cases and exit_code == _NO_TESTS:
        found["cause"] = _NO_TESTS_CAUSE
    return found


_CAUSE = re.compile(r"(?:^E {3}|\bERROR: )(\S.*)$", re.MULTILINE)


def cause_in(output: str) -> str:
    """What pytest says of a start that came to nothing: the innermost error; empty where it names none."""
    named = _CAUSE.findall(output)
    return cut_line(named[-1], MAX_CAUSE_CHARS) if named else ""


def summary(cases: Sequence[junit.Case], exit_code: int, duration_s: float) -> str:
    """The counts in a line, for the person and at the end of what the model reads."""
    if not cases:
        return f"no tests were found [exit code {exit_code}]; name a file with targets"
    numbers = ", ".join(f"{number} {outcome}" for outcome, number in _counts(cases).items() if number)
    return f"{numbers} in {duration_s:.1f} s [exit code {exit_code}]"


def _told(case: junit.Case, max_line_chars: int) -> str:
    """One failure: its id, where in the project, what went wrong."""
    kind = "FAILED" if case.outcome is junit.Outcome.FAILED else "ERROR"
    if case.message == junit.COLLECTION_FAILURE:
        kind = "ERROR collecting"
    lines = [f"{kind} {case.node_id}"]
    if frame := junit.innermost_frame(case.text):
        inside = f" in {frame.function}" if frame.function else ""
        lines.append(f"{frame.path}:{frame.line}{inside}" + (f": {frame.code}" if frame.code else ""))
    lines += [f"  {line}" for line in junit.error_lines(case, _MAX_ERROR_LINES)]
    return "\n".join(cut_line(line, max_line_chars) for line in lines)
