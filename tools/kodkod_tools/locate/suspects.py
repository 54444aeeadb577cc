"""From the lines each test runs to the functions most under suspicion, by the Ochiai coefficient.

A line's score is ef / sqrt((ef + nf) (ef + ep)): of the failing tests, ef run it and nf do not; ep passing tests run it
(Abreu, Zoeteweij and van Gemund, 2006). A function's score is that of its best line.
"""

from __future__ import annotations

import ast
import math
import warnings
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from kodkod_tools.files import syntax_lock

_MODULE = "<module>"
"""Code outside of every `def`, such as a lambda of the module."""
Place = tuple[str, int]
"""Path and line."""


class BadTrace(ValueError):
    """Not what the plugin writes."""


class TracedTest(BaseModel):
    """One test: how it ended and what it ran."""

    model_config = ConfigDict(frozen=True)

    outcome: Literal["passed", "failed", "error", "skipped"]
    lines: dict[str, frozenset[int]]
    """By path, relative to the project."""
    traceback: dict[str, frozenset[int]] = {}
    calls: tuple[Place, ...] = ()
    """Functions by path and first line, in the order of their first call; of failing tests alone."""

    @property
    def failing(self) -> bool:
        """Whether it counts as a failure."""
        return self.outcome in ("failed", "error")


class Trace(BaseModel):
    """The tests of a run, by node id."""

    model_config = ConfigDict(frozen=True)

    tests: dict[str, TracedTest]

    def narrowed(self, targets: Collection[str]) -> Self:
        """Without failing tests that are not meant by any of `targets`; all of it when none that is meant fails."""
        meant = {name for name, test in self.tests.items() if test.failing and is_meant(name, targets)}
        if not meant:
            return self
        tests = {name: test for name, test in self.tests.items() if name in meant or not test.failing}
        return self.model_copy(update={"tests": tests})

    def failing(self) -> list[TracedTest]:
        """The tests that fail."""
        return [test for test in self.tests.values() if test.failing]

    def failing_paths(self) -> list[str]:
        """Files that failing tests run: those most of them run first, then by name."""
        counts = Counter(path for test in self.failing() for path in test.lines)
        return sorted(counts, key=lambda path: (-counts[path], path))


def read_trace(data: bytes) -> Trace:
    """The tests the plugin recorded.

    Raises:
        BadTrace: not in its form, or cut off.
    """
    try:
        return Trace.model_validate_json(data)
    except ValidationError as error:
        raise BadTrace(f"not in the plugin's form, in {error.error_count()} places") from error


def is_meant(node_id: str, targets: Iterable[str]) -> bool:
    """Whether a test is one of the files, folders, classes or tests named."""
    return any(
        node_id == target or node_id.startswith(tuple(f"{target.rstrip('/')}{end}" for end in ("::", "[", "/")))
        for target in targets
    )


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is told."""

    functions: int = 12
    lines: int = 20
    """Of one function."""
    window: int = 60
    """Lines of a longer function that are shown as one suspect."""


@dataclass(frozen=True, slots=True)
class Suspect:
    """A function, or a window of a long one."""

    path: str
    first_line: int
    last_line: int
    function: str
    lines: tuple[int, ...]
    """Run by failing tests, the most suspicious first."""
    score: float
    """Of its best line: above 0, at most 1."""

    def as_value(self) -> dict[str, JsonValue]:
        """As plain values."""
        return {
            "path": self.path,
            "first_line": self.first_line,
            "last_line": self.last_line,
            "function": self.function,
            "lines": list(self.lines),
            "score": self.score,
        }


@dataclass(frozen=True, slots=True)
class _Function:
    name: str
    first_line: int
    body_line: int
    last_line: int


@dataclass(frozen=True, slots=True)
class _Spectrum:
    """The counts that everything is ordered by."""

    failing: int
    failed: Mapping[Place, int]
    """By line: failing tests that run it."""
    passed: Mapping[Place, int]
    traceback: frozenset[Place]
    call_order: Mapping[Place, int]
    """By path and first line of a function; higher is later."""
    tests: frozenset[str]
    """Files that tests are in."""

    def score(self, place: Place) -> float:
        return ochiai(self.failed[place], self.failing - self.failed[place], self.passed.get(place, 0))

    def covering(self, place: Place) -> int:
        return self.failed[place] + self.passed.get(place, 0)


def ochiai(failed: int, failed_without: int, passed: int) -> float:
    """Suspicion of a line run by `failed` failing and `passed` passing tests, `failed_without` failing ones not."""
    if failed == 0:
        return 0.0
    return failed / math.sqrt((failed + failed_without) * (failed + passed))


def suspects(trace: Trace, sources: Mapping[str, str], limits: Limits | None = None) -> tuple[Suspect, ...]:
    """The functions that failing tests run, most suspicious first; those in files of tests behind all others.

    Equal scores are ordered by: in a failure's traceback, run by fewer tests, called later, path, line. `sources` are
    the files' texts by path; files that are not there or do not parse are left out.
    """
    limits = limits or Limits()
    spectrum = _spectrum(trace)
    numbers: defaultdict[str, list[int]] = defaultdict(list)
    for path, line in spectrum.failed:
        numbers[path].append(line)
    found = [
        (_rank(suspect, spectrum), suspect)
        for path in sorted(numbers)
        if path in sources
        for suspect in _of_file(path, sources[path], numbers[path], spectrum, limits)
    ]
    return tuple(suspect for _, suspect in sorted(found, key=lambda entry: entry[0])[: limits.functions])


def told(suspects: Iterable[Suspect]) -> str:
    """The block the model reads; empty without suspects."""
    lines = [
        f"{suspect.path}:{suspect.first_line}-{suspect.last_line} {suspect.function}: "
        + " ".join(str(line) for line in suspect.lines)
        for suspect in suspects
    ]
    return "\n".join(["Run by the failing tests, most suspicious first:", *lines]) if lines else ""


def _spectrum(trace: Trace) -> _Spectrum:
    failing = trace.failing()
    failed = Counter(place for test in failing for place in _places(test.lines))
    passed = Counter(
        place
        for test in trace.tests.values()
        if test.outcome == "passed"
        for path, lines in test.lines.items()
        for line in lines
        if (place := (path, line)) in failed
    )
    order = {place: index for test in failing for index, place in enumerate(test.calls)}
    traceback = frozenset(place for test in failing for place in _places(test.traceback))
    tests = frozenset(name.split("::")[0] for name in trace.tests)
    return _Spectrum(len(failing), failed, passed, traceback, order, tests)


def _places(lines: Mapping[str, Iterable[int]]) -> Iterator[Place]:
    return ((path, line) for path, numbers in lines.items() for line in numbers)


def _rank(suspect: Suspect, spectrum: _Spectrum) -> tuple[bool, float, bool, int, int, str, int]:
    places = [(suspect.path, line) for line in suspect.lines]
    calls = (
        index
        for (path, line), index in spectrum.call_order.items()
        if path == suspect.path and suspect.first_line <= line <= suspect.last_line
    )
    return (
        suspect.path in spectrum.tests,
        -suspect.score,
        spectrum.traceback.isdisjoint(places),
        spectrum.covering(places[0]),
        -max(calls, default=-1),
        suspect.path,
        suspect.first_line,
    )


def _of_file(path: str, source: str, numbers: list[int], spectrum: _Spectrum, limits: Limits) -> Iterator[Suspect]:
    def suspicion(line: int) -> tuple[float, bool, int]:
        return -spectrum.score((path, line)), (path, line) not in spectrum.traceback, line

    for function, lines in _by_function(_functions(source), numbers, source.removesuffix("\n").count("\n") + 1):
        for first, last, chosen in _windows(function, sorted(lines, key=suspicion), limits.window):
            score = spectrum.score((path, chosen[0]))
            yield Suspect(path, first, last, function.name, tuple(chosen[: limits.lines]), score)


def _functions(source: str) -> list[_Function]:
    """The outermost functions and methods; none where the file does not parse."""
    try:
        with syntax_lock, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the stranger's code, about its own spelling
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    found: list[_Function] = []
    waiting: list[ast.AST] = [tree]
    while waiting:
        for node in ast.iter_child_nodes(waiting.pop()):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
                found.append(_Function(node.name, first, node.body[0].lineno, node.end_lineno or node.lineno))
            elif not isinstance(node, ast.expr):
                waiting.append(node)
    return found


def _by_function(functions: list[_Function], numbers: list[int], num_lines: int) -> list[tuple[_Function, list[int]]]:
    """Each function with its lines; lines of a `def` itself are dropped, for they run when it is defined."""
    owner = {line: function for function in functions for line in range(function.first_line, function.last_line + 1)}
    module = _Function(_MODULE, 1, 1, num_lines)
    lines: defaultdict[_Function, list[int]] = defaultdict(list)
    for line in numbers:
        function = owner.get(line, module)
        if function.body_line <= line <= function.last_line:
            lines[function].append(line)
    return list(lines.items())


def _windows(function: _Function, lines: list[int], most: int) -> Iterator[tuple[int, int, list[int]]]:
    """Ranges of at most `most` lines with their `lines` (most suspicious first), until all have been in one."""
    if function.last_line - function.first_line < most:
        yield function.first_line, function.last_line, lines
        return
    while lines:
        low = high = lines[0]
        for line in lines:
            if max(high, line) - min(low, line) < most:
                low, high = min(low, line), max(high, line)
        spare = most - (high - low + 1)
        first = max(function.first_line, min(low - spare // 2, function.last_line - most + 1))
        last = first + most - 1
        yield first, last, [line for line in lines if first <= line <= last]
        lines = [line for line in lines if not first <= line <= last]
