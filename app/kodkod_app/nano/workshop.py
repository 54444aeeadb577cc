"""A package with all that breaking it takes: the tests to be relied on, the lines each runs, a quick runner."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from kodkod_app.nano.packages import Package
from kodkod_app.nano.runs import FastRunner, RunnerFault, RunResult

_BASELINE_TIMEOUT_S = 900.0
_MAX_TEST_S = 2.0
"""Slower tests are left out."""


class Baseline(BaseModel):
    """What the sound package's tests do."""

    model_config = ConfigDict(frozen=True)

    seconds: dict[str, float]
    """Of each test that passes every time, quickly, traced."""
    left_out: tuple[str, ...]
    """The others."""
    lines: dict[str, dict[str, tuple[int, ...]]]
    """By test and path, what it runs in the package's own code."""


class Workshop:
    """A context manager; one run at a time. `another` gives one to work beside it."""

    def __init__(self, package: Package, baseline: Baseline) -> None:
        self.package = package
        self.baseline = baseline
        self._runner = FastRunner(package, baseline.left_out)
        # Every test module once, for the compiled code that later runs find beside it.
        self._runner.run({}, ["--collect-only", *package.spec.tests], _BASELINE_TIMEOUT_S, keep_bytecode=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the scratch copy."""
        self._runner.close()

    def another(self) -> Workshop:
        """The same with a scratch copy of its own."""
        return Workshop(self.package, self.baseline)

    @property
    def tree(self) -> Path:
        """The scratch copy, sound between runs."""
        return self._runner.tree

    def read(self, path: str) -> str:
        """A file of the sound tree."""
        return self._runner.read(path)

    def run(self, changes: Mapping[str, str], tests: Sequence[str], timeout_s: float) -> RunResult:
        """Run tests with files changed; see `FastRunner.run`."""
        return self._runner.run(changes, tests, timeout_s)

    def tests_covering(self, path: str, line: int) -> tuple[str, ...]:
        """Node ids, in order, of the tests that run a line of the sound source."""
        return tuple(self._tests_of.get(path, {}).get(line, ()))

    def lines_covered(self, path: str) -> frozenset[int]:
        """Lines of a file that any test runs."""
        return frozenset(self._tests_of.get(path, ()))

    @cached_property
    def paths(self) -> tuple[str, ...]:
        """The package's files that tests run."""
        return tuple(sorted(self._tests_of))

    @cached_property
    def file_seconds(self) -> Mapping[str, float]:
        """How long all tests of each test file take, traced."""
        found: dict[str, float] = {}
        for name, seconds in self.baseline.seconds.items():
            file = name.split("::")[0]
            found[file] = found.get(file, 0.0) + seconds
        return found

    @cached_property
    def _tests_of(self) -> Mapping[str, Mapping[int, Sequence[str]]]:
        found: dict[str, dict[int, list[str]]] = {}
        for name, by_path in self.baseline.lines.items():
            for path, lines in by_path.items():
                for line in () if self._is_test(path) else lines:
                    found.setdefault(path, {}).setdefault(line, []).append(name)
        return found

    def _is_test(self, path: str) -> bool:
        return any(path == test or path.startswith(f"{test}/") for test in self.package.spec.tests)


def prepare(package: Package) -> Workshop:
    """The package's workshop; its baseline is measured once and kept beside the package.

    Raises:
        RunnerFault: its tests cannot be run here.
    """
    file = package.folder / f"baseline-{_baseline_key()}.json"
    try:
        baseline = Baseline.model_validate_json(file.read_bytes())
    except (OSError, ValidationError):
        baseline = measure(package)
        draft = file.with_suffix(".part")
        draft.write_text(baseline.model_dump_json(), encoding="utf-8")
        draft.replace(file)
    return Workshop(package, baseline)


def measure(package: Package) -> Baseline:
    """Run all tests, and then those again that passed quickly: what does not do so both times is left out.

    Raises:
        RunnerFault: its tests cannot be run here.
    """
    everything = ["--continue-on-collection-errors", *package.spec.tests]
    with FastRunner(package) as runner:
        first = runner.run({}, everything, _BASELINE_TIMEOUT_S, max_test_s=2 * _MAX_TEST_S)
        said = runner.last_words()
        every = first.trace.tests.keys()
        quick = frozenset(name for name in every if _is_steady(name, first))
        runner.left_out = frozenset(every - quick)
        second = runner.run({}, everything, _BASELINE_TIMEOUT_S, max_test_s=2 * _MAX_TEST_S)
    steady = {name for name in quick if _is_steady(name, second)}
    if not steady:
        raise RunnerFault(f"no test of {package.spec.pinned} passes here; pytest said: {said}")
    lines = {
        name: {path: tuple(sorted(numbers)) for path, numbers in first.trace.tests[name].lines.items()}
        for name in sorted(steady)
    }
    return Baseline(
        seconds={name: min(first.seconds[name], second.seconds[name]) for name in sorted(steady)},
        left_out=tuple(sorted(every - steady)),
        lines=lines,
    )


def _is_steady(name: str, run: RunResult) -> bool:
    test = run.trace.tests.get(name)
    return test is not None and test.outcome == "passed" and run.seconds.get(name, _MAX_TEST_S) < _MAX_TEST_S


def _baseline_key() -> str:
    """Of what a baseline depends on besides the package."""
    plugin = (files("kodkod_tools.locate") / "plugin.py").read_bytes()
    return hashlib.sha256(plugin + sys.version.encode()).hexdigest()[:12]
