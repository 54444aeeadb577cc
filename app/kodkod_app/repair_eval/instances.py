"""Faults planted in a package such that its own tests show them, from a seed."""

from __future__ import annotations

import ast
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from random import Random

from kodkod_app.nano.faults import plant
from kodkod_app.nano.spans import applied
from kodkod_app.repair_eval.bench import Bench
from kodkod_app.repair_eval.records import PlantedFault
from kodkod_tools.locate.suspects import Trace

_BASELINE_TIMEOUT_S = 420.0
_RUN_TIMEOUT_S = 60.0
_MAX_FAILING = 3
"""Tests that are named to the agent."""
_ATTEMPTS_PER_FAULT = 40


@dataclass(frozen=True, slots=True)
class Baseline:
    """A sound package: which tests run which lines."""

    failed: frozenset[str]
    """Without any fault of ours."""
    tests_of: Mapping[tuple[str, int], frozenset[str]]
    """Passing tests by the line they run: (path, line)."""

    @property
    def lines_of(self) -> Mapping[str, frozenset[int]]:
        """Lines that are tested, by path."""
        found: dict[str, set[int]] = {}
        for path, line in self.tests_of:
            found.setdefault(path, set()).add(line)
        return {path: frozenset(lines) for path, lines in found.items()}


@dataclass(frozen=True, slots=True)
class Instance:
    """A broken package."""

    fault: PlantedFault
    broken: str
    """Text of the broken module."""
    test_file: str
    """Holds the failing tests."""
    failed: frozenset[str]
    """All tests of that file that fail with the fault."""
    failed_before: frozenset[str]
    """And without it."""
    covered: Mapping[str, frozenset[int]]
    """Lines the failing tests run, by path."""


async def measure(bench: Bench) -> Baseline | None:
    """Run the sound package's tests; None where they cannot be traced, or none passes."""
    trace = await bench.trace((), _BASELINE_TIMEOUT_S)
    if trace is None:
        return None
    tests_of: dict[tuple[str, int], set[str]] = {}
    modules = set(bench.package.modules)
    for name, test in trace.tests.items():
        if test.outcome == "passed":
            for path, lines in test.lines.items():
                for line in lines if path in modules else ():
                    tests_of.setdefault((path, line), set()).add(name)
    if not tests_of:
        return None
    return Baseline(_failed(trace), {place: frozenset(names) for place, names in tests_of.items()})


async def plant_faults(bench: Bench, baseline: Baseline, seed: int, count: int) -> AsyncIterator[Instance]:
    """So many different faults, or fewer where the tests show no more. The bench is sound again after each."""
    rng = Random(f"{seed} {bench.package.spec.pinned}")
    seen: set[tuple[str, int, str, str]] = set()
    found = 0
    for _ in range(count * _ATTEMPTS_PER_FAULT):
        if found == count:
            return
        instance = await _attempt(bench, baseline, rng, f"{bench.package.spec.pinned}/{seed}/{found}")
        if instance is None:
            continue
        place = (instance.fault.path, instance.fault.line, instance.fault.old, instance.fault.new)
        if place not in seen:
            seen.add(place)
            found += 1
            yield instance


async def _attempt(bench: Bench, baseline: Baseline, rng: Random, key: str) -> Instance | None:
    """One fault, if the tests show it."""
    lines_of = baseline.lines_of
    paths = sorted(lines_of)
    path = rng.choices(paths, [len(lines_of[one]) for one in paths])[0]
    sound = bench.read(path)
    near = _function_lines(sound, rng.choice(sorted(lines_of[path])))
    fault = plant(sound, rng, lines=near & lines_of[path])
    if fault is None:
        return None
    names = baseline.tests_of.get((path, fault.edit.line), frozenset())
    files = sorted({name.split("::")[0] for name in names})
    if not files:
        return None
    test_file, broken = rng.choice(files), applied(sound, fault.edit)
    bench.write(path, broken)
    try:
        trace = await bench.trace((test_file,), _RUN_TIMEOUT_S)
    finally:
        bench.write(path, sound)
    failing = _named_tests(trace, baseline) if trace is not None else ()
    if trace is None or not failing:
        return None
    planted = PlantedFault(
        key=key, package=bench.package.spec.pinned, kind=fault.kind, path=path, line=fault.edit.line,
        old=fault.edit.old, new=fault.edit.new, failing_tests=failing,
    )  # fmt: skip
    before = frozenset(name for name in baseline.failed if name.startswith(f"{test_file}::"))
    return Instance(planted, broken, test_file, _failed(trace), before, _covered(trace, failing))


def _named_tests(trace: Trace, baseline: Baseline) -> tuple[str, ...]:
    """Those that fail newly, a few. A module that cannot be imported any more is none: there is nothing to locate."""
    newly = (name for name in _failed(trace) - baseline.failed if "::" in name)
    return tuple(sorted(newly, key=lambda name: (len(name), name))[:_MAX_FAILING])


def _failed(trace: Trace) -> frozenset[str]:
    return frozenset(name for name, test in trace.tests.items() if test.outcome in ("failed", "error"))


def _covered(trace: Trace, names: tuple[str, ...]) -> Mapping[str, frozenset[int]]:
    found: dict[str, frozenset[int]] = {}
    for name in names:
        for path, lines in trace.tests[name].lines.items():
            found[path] = found.get(path, frozenset()) | lines
    return found


def _function_lines(source: str, line: int) -> frozenset[int]:
    """Lines of the innermost function around a line; of the whole file where there is none."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return frozenset()
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    around = [node for node in functions if node.lineno <= line <= (node.end_lineno or node.lineno)]
    if not around:
        return frozenset(range(1, source.count("\n") + 2))
    innermost = max(around, key=lambda node: node.lineno)
    return frozenset(range(innermost.lineno, (innermost.end_lineno or innermost.lineno) + 1))
