"""Does the work hold? The tests decide, run by the agent itself; what failed before the run is not held against it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from kodkod_agent.config import AgentConfig
from kodkod_engine.messages import ToolCall
from kodkod_tools import registry
from kodkod_tools.base import ToolContext, ToolResult
from kodkod_tools.config import ToolsConfig
from kodkod_tools.locate.suspects import is_meant

_TEST_SIGNS = (
    "tests",
    "test",
    "conftest.py",
    "pytest.ini",
    "test_*.py",
    "*_test.py",
    "*/test_*.py",
    "*/tests",
    "*/*/tests",
)
Facts = Mapping[str, JsonValue]
"""Of the test tool; see `kodkod_tools.run_tests.Test`."""


@dataclass(frozen=True, slots=True)
class Check:
    """What the tests say."""

    holds: bool
    reason: str
    """One line."""


def has_tests(work_tree: Path, config: AgentConfig, tools: ToolsConfig) -> bool:
    """Whether there is something to run: said so, a test command of its own, or files that look like tests."""
    if config.run_tests is not None:
        return config.run_tests
    if config.test_targets or tools.test_command != ToolsConfig().test_command:
        return True
    return any(next(work_tree.glob(sign), None) is not None for sign in _TEST_SIGNS)


async def run_tests(config: AgentConfig, tools: ToolContext) -> ToolResult:
    """Run the tests that decide, as the test tool does.

    All of the files of the named ones: what mends one test may break its neighbour.

    Raises:
        SandboxError: the box failed.
    """
    files = dict.fromkeys(target.partition("::")[0] for target in config.test_targets)
    call = ToolCall(id="", name="test", arguments={"targets": list(files)})
    result: ToolResult | None = None
    async with aclosing(registry.run_call(call, tools)) as items:
        async for item in items:
            if isinstance(item, ToolResult):
                result = item
    assert result is not None, "a tool's stream ends with its result"
    return result


def not_failing(before: Facts, targets: Sequence[str]) -> list[str]:
    """Named tests that did not fail in a run that named all that did: they pass, or there are none of that name."""
    if not _names_all(before):
        return []
    failed = _names(before)
    return [target for target in targets if not any(is_meant(name, (target,)) for name in failed)]


def check(before: Facts, after: Facts, targets: Sequence[str] = ()) -> Check:
    """Compare two test runs.

    Args:
        before: the run before the first change; empty when there was none.
        after: the run at the end.
        targets: tests that must pass, whatever else failed before.
    """
    if after.get("not_run"):
        return Check(False, f"no tests were run: {after['not_run']}")
    if after.get("timed_out"):
        return Check(False, "the tests ran out of time")
    if "failed" not in after:
        code = after.get("exit_code")
        return Check(code == 0, f"the test command ended with exit code {code}")
    bad, passed = _count(after, "failed", "errors"), _count(after, "passed")
    if not bad:
        return Check(passed > 0, _tests(passed, "passes", "pass") if passed else "no tests were run")
    return _check_failing(before, after, bad, targets)


def _check_failing(before: Facts, after: Facts, bad: int, targets: Sequence[str]) -> Check:
    """With tests that fail, the work holds when each failed before, none must pass, and some that did no longer do."""
    was, now = _names(before), _names(after)
    if was and not (_names_all(before) and _names_all(after)):
        return Check(False, f"{bad} tests fail, too many to be compared with those that failed before")
    new = now - was
    must_pass = any(is_meant(name, targets) for name in now) if targets else False
    if was and not new and not must_pass and bad < _count(before, "failed", "errors"):
        mended = _tests(len(was - now), "is mended", "are mended")
        return Check(True, f"{mended}; {bad} of those that failed before still do")
    named = ", ".join(sorted(new or now)[:3])
    failing = _tests(bad, "fails", "fail")
    return Check(False, f"{failing}{f', {len(new)} of them newly' if was and new else ''}: {named}")


def _tests(count: int, does: str, do: str) -> str:
    return f"1 test {does}" if count == 1 else f"{count} tests {do}"


def _count(facts: Facts, *keys: str) -> int:
    values = (facts.get(key, 0) for key in keys)
    return sum(value for value in values if isinstance(value, int))


def _names_all(facts: Facts) -> bool:
    """Whether each test that failed is named; of very many only some are."""
    names = facts.get("failed_tests")
    return isinstance(names, list) and len(names) >= _count(facts, "failed", "errors")


def _names(facts: Facts) -> frozenset[str]:
    names = facts.get("failed_tests", ())
    return frozenset(str(name) for name in names) if isinstance(names, list) else frozenset()
