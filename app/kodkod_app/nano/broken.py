"""Broken packages: faults that the package's own tests show, spread over kinds, files and functions."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from random import Random

from kodkod_app.nano.faults import Candidates, Fault, FaultKind
from kodkod_app.nano.runs import RunResult
from kodkod_app.nano.spans import applied
from kodkod_app.nano.workshop import Workshop
from kodkod_tools.locate.suspects import Suspect, suspects

MAX_NAMED_TESTS = 3
_MAX_FILE_S = 5.0
"""Of a test file that is run whole."""
_RUN_TIMEOUT_S = 20.0
_ATTEMPTS_PER_INSTANCE = 40


@dataclass(frozen=True, slots=True)
class Instance:
    """A fault that tests show."""

    package: str
    """`NAME==VERSION`."""
    path: str
    """The broken file."""
    fault: Fault
    broken: str
    """Its text."""
    test_file: str
    """What was run, whole."""
    failing_tests: tuple[str, ...]
    """At most `MAX_NAMED_TESTS`, the shortest ids first; more may fail."""
    run_result: RunResult

    def suspects(self, workshop: Workshop) -> tuple[Suspect, ...]:
        """As the test tool finds them, which also narrows the trace to the tests that are named."""
        narrowed = self.run_result.trace.narrowed(self.failing_tests)
        sources: Mapping[str, str] = {path: workshop.read(path) for path in narrowed.failing_paths()}
        return suspects(narrowed, {**sources, self.path: self.broken})


@dataclass(frozen=True, slots=True)
class _Function:
    path: str
    first_line: int
    lines: frozenset[int]
    """Where faults may stand: the lines that tests run, and the signature."""
    covered: frozenset[int]


def broken_instances(workshop: Workshop, rng: Random, count: int) -> Iterator[Instance]:
    """So many different ones, or fewer where the tests show no more.

    Of the kinds that a function admits the one found least often so far is tried, in one of the functions tried least
    often so far.

    Raises:
        RunnerFault: the tests cannot be run any more.
    """
    search = _Search(workshop, rng)
    found = 0
    for _ in range(count * _ATTEMPTS_PER_INSTANCE):
        if found == count or not search.functions:
            return
        if instance := search.attempt():
            found += 1
            yield instance


class _Search:
    """What was tried so far."""

    def __init__(self, workshop: Workshop, rng: Random) -> None:
        self._workshop = workshop
        self._rng = rng
        every = (function for path in workshop.paths for function in _functions(workshop, path))
        self.functions = [function for function in every if self._quick_files(function.path, function.covered)]
        self._tried: Counter[_Function] = Counter()
        self._found: Counter[FaultKind] = Counter()
        self._seen: set[tuple[str, str]] = set()
        self._candidates: dict[_Function, Candidates] = {}

    def attempt(self) -> Instance | None:
        """One fault, run; None when no test shows it."""
        least = min(self._tried[function] for function in self.functions)
        function = self._rng.choice([one for one in self.functions if self._tried[one] == least])
        self._tried[function] += 1
        source = self._workshop.read(function.path)
        fault = self._drawn(function, source)
        if fault is None:
            self.functions.remove(function)
            return None
        broken = applied(source, fault.edit)
        if (function.path, broken) in self._seen:
            return None
        self._seen.add((function.path, broken))
        return self._run(function, fault, broken)

    def _drawn(self, function: _Function, source: str) -> Fault | None:
        if function not in self._candidates:
            self._candidates[function] = Candidates(source, function.lines)
        candidates = self._candidates[function]
        for kind in sorted(candidates.kinds, key=lambda kind: (self._found[kind], self._rng.random())):
            if fault := candidates.draw(kind, self._rng):
                return fault
        return None

    def _run(self, function: _Function, fault: Fault, broken: str) -> Instance | None:
        test_file = self._test_file(function, fault)
        if test_file is None:
            return None
        result = self._workshop.run({function.path: broken}, [test_file], _RUN_TIMEOUT_S)
        failed = result.failed & self._workshop.baseline.seconds.keys()
        if result.timed_out or not result.cases or not failed:
            return None
        self._found[fault.kind] += 1
        named = tuple(sorted(failed, key=lambda name: (len(name), name))[:MAX_NAMED_TESTS])
        pinned = self._workshop.package.spec.pinned
        return Instance(pinned, function.path, fault, broken, test_file, named, result)

    def _test_file(self, function: _Function, fault: Fault) -> str | None:
        """One with tests that run the faulty line; for a signature, any line of the function."""
        line = fault.edit.line + fault.edit.old.count("\n")
        lines = [line] if line in function.covered else sorted(function.covered)
        quick = self._quick_files(function.path, lines)
        return self._rng.choice(quick) if quick else None

    def _quick_files(self, path: str, lines: Iterable[int]) -> list[str]:
        """The test files that run any of the lines and are no matter of many seconds."""
        files = {test.split("::")[0] for line in lines for test in self._workshop.tests_covering(path, line)}
        return sorted(file for file in files if self._workshop.file_seconds[file] <= _MAX_FILE_S)


def _functions(workshop: Workshop, path: str) -> Iterator[_Function]:
    """Those of which tests run a line."""
    covered = workshop.lines_covered(path)
    try:
        tree = ast.parse(workshop.read(path))
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = frozenset(range(node.body[0].lineno, (node.end_lineno or node.lineno) + 1)) & covered
            signature = range(node.lineno, node.body[0].lineno)
            if body:
                yield _Function(path, node.lineno, body | frozenset(signature), body)
