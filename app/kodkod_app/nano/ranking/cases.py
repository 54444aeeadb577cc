"""What the weights are learnt from: faults whose repair is known, with every edit that might have been tried instead.

Simulated cases are functions of the corpus with a planted fault: what they teach is which code is usual. Real ones are
packages whose own tests were run: they teach what suspects and failures say.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from kodkod_app.nano.broken import Instance, broken_instances
from kodkod_app.nano.corpus import Function, Module
from kodkod_app.nano.faults import Candidates, Fault
from kodkod_app.nano.faults.sites import Source
from kodkod_app.nano.ranking.evidence import Failure, clues
from kodkod_app.nano.ranking.features import FileView, features, hashed
from kodkod_app.nano.ranking.plausible import PlausibleEdit, plausible_edits
from kodkod_app.nano.ranking.ranker import located
from kodkod_app.nano.spans import Edit, applied
from kodkod_app.nano.weighted_faults import draw_weighted
from kodkod_app.nano.workshop import Workshop
from kodkod_app.repair_eval.bench import TOOLS
from kodkod_tools.tests_told import told_result

MAX_EDITS = 120
"""Of a simulated case, the repair among them; of more, so many are drawn."""
_MAX_CLASS_LINES = 250
_FAULTS_PER_FUNCTION = 2
_ARRAYS = {"code": np.uint32, "counts": np.int8, "clues": np.uint32, "repair": np.int64}
_BOUNDS = ("code_ends", "clue_ends", "case_ends")


@dataclass(slots=True)
class Cases:
    """Edits of cases in a row: hashes of features with their counts, hashes of clues, and which edit is the repair."""

    code: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    code_ends: list[int] = field(default_factory=lambda: [0])
    """By edit."""
    clues: list[int] = field(default_factory=list)
    clue_ends: list[int] = field(default_factory=lambda: [0])
    """By edit."""
    case_ends: list[int] = field(default_factory=lambda: [0])
    """By case, in edits."""
    repair: list[int] = field(default_factory=list)
    """By case, from its first edit; below 0 where it is not among them."""
    kinds: list[str] = field(default_factory=list)
    packages: list[str] = field(default_factory=list)

    def add_edit(self, found: Mapping[int, int], told: Iterable[int] = ()) -> None:
        """One edit of the case that is to be ended next."""
        self.code += found.keys()
        self.counts += found.values()
        self.code_ends.append(len(self.code))
        self.clues += told
        self.clue_ends.append(len(self.clues))

    def end(self, repair: int, kind: str, package: str) -> None:
        """The edits since the last end are one case."""
        self.case_ends.append(len(self.code_ends) - 1)
        self.repair.append(repair)
        self.kinds.append(kind)
        self.packages.append(package)

    def extend(self, other: Cases) -> None:
        """Those of another behind these."""
        for name in _BOUNDS:
            ends: list[int] = getattr(self, name)
            begin = ends[-1]
            ends += [begin + end for end in getattr(other, name)[1:]]
        for name in (*_ARRAYS, "kinds", "packages"):
            getattr(self, name).extend(getattr(other, name))

    def __len__(self) -> int:
        return len(self.repair)

    def write(self, path: Path) -> None:
        """As arrays, by name."""
        arrays: dict[str, Any] = {name: np.array(getattr(self, name), dtype) for name, dtype in _ARRAYS.items()}
        arrays |= {name: np.array(getattr(self, name), np.int64) for name in _BOUNDS}
        np.savez(path, kinds=np.array(self.kinds), packages=np.array(self.packages), **arrays)


@dataclass(frozen=True, slots=True)
class CaseArrays:
    """Many cases, to compute with; the names are those of `Cases`."""

    code: npt.NDArray[np.uint32]
    counts: npt.NDArray[np.int8]
    code_ends: npt.NDArray[np.int64]
    clues: npt.NDArray[np.uint32]
    clue_ends: npt.NDArray[np.int64]
    case_ends: npt.NDArray[np.int64]
    repair: npt.NDArray[np.int64]
    kinds: npt.NDArray[np.str_]
    packages: npt.NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.repair)

    @classmethod
    def read(cls, paths: Sequence[Path]) -> Self:
        """Those of several files, one after another.

        Raises:
            OSError, KeyError, ValueError: a file is none that `Cases.write` wrote.
        """
        files = [np.load(path) for path in paths]
        found: dict[str, Any] = {
            name: np.concatenate([file[name] for file in files]) for name in (*_ARRAYS, "kinds", "packages")
        }
        found |= {name: _joined([file[name] for file in files]) for name in _BOUNDS}
        return cls(**found)


def _joined(bounds: Sequence[npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
    """Bounds of rows that are put one behind another."""
    begins = np.cumsum([0, *(ends[-1] for ends in bounds)])
    parts = [ends[1:] + begin for ends, begin in zip(bounds, begins, strict=False)]
    return np.concatenate([np.zeros(1, np.int64), *parts])


def simulate(modules: Iterable[Module], seed: int, most: int) -> Cases:
    """At most so many cases of one package's modules, in functions drawn at random."""
    rng, cases = Random(seed), Cases()
    functions = [(module, function) for module in modules for function in module.functions]
    rng.shuffle(functions)
    for module, function in functions:
        if len(cases) >= most:
            break
        text, offset = _surroundings(module, function)
        lines = range(function.first_line - offset, function.last_line - offset + 1)
        candidates = Candidates(text, lines)
        for _ in range(_FAULTS_PER_FUNCTION):
            fault = draw_weighted(candidates, rng)
            if fault is not None:
                _add_simulated(cases, text, lines, fault, module.package, rng)
    return cases


def _surroundings(module: Module, function: Function) -> tuple[str, int]:
    """The class of a method, else the function alone; and how many lines of the file are before it."""
    lines = module.lines
    own = module.text(function) + "\n"
    if not lines[function.first_line - 1].startswith(" "):
        return own, function.first_line - 1
    first = next((n for n in range(function.first_line - 2, -1, -1) if lines[n].startswith("class ")), None)
    if first is not None and all(not line or line[0] in " #)" for line in lines[first + 1 : function.first_line - 1]):
        behind = range(function.last_line, len(lines))
        last = next((n for n in behind if lines[n] and not lines[n].startswith((" ", "#"))), len(lines))
        if last - first <= _MAX_CLASS_LINES:
            return "\n".join(lines[first:last]) + "\n", first
    return f"class _:\n{own}", function.first_line - 2


def _add_simulated(cases: Cases, text: str, lines: range, fault: Fault, package: str, rng: Random) -> None:
    broken = applied(text, fault.edit)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd literals in other people's code
        source = Source(broken)
    edits = plausible_edits(source, lines)
    repair = _index(edits, fault.repair)
    if repair is None:
        return
    others = [edit for number, edit in enumerate(edits) if number != repair]
    chosen = [edits[repair], *(others if len(edits) <= MAX_EDITS else rng.sample(others, MAX_EDITS - 1))]
    view = FileView(source)
    for edit in chosen:
        cases.add_edit(features(view, edit))
    cases.end(0, fault.kind, package)


def _index(edits: Sequence[PlausibleEdit], repair: Edit) -> int | None:
    for number, edit in enumerate(edits):
        if edit.line == repair.line and edit.after == edit.before.replace(repair.old, repair.new):
            return number
    return None


def play(workshop: Workshop, seed: int, most: int) -> Iterator[Cases]:
    """Real cases of one package, one by one: faults that its tests show, as the agent would come to know of them."""
    rng = Random(f"{seed} {workshop.package.spec.pinned} ranking")
    for instance in broken_instances(workshop, rng, most):
        cases = Cases()
        _add_real(cases, workshop, instance)
        yield cases


def _add_real(cases: Cases, workshop: Workshop, instance: Instance) -> None:
    found = instance.suspects(workshop)
    run = instance.run_result
    told = told_result(run.cases, found, run.exit_code, run.duration_s, TOOLS, targets=instance.failing_tests)
    failure = Failure(told)
    texts = {one.path: instance.broken if one.path == instance.path else workshop.read(one.path) for one in found}
    repair = -1
    views: dict[str, FileView] = {}
    for number, (path, edit, place) in enumerate(located(found, texts)):
        if path not in views:
            views[path] = FileView(edit.function.source)
        if path == instance.path and _index([edit], instance.fault.repair) == 0:
            repair = number
        told_of = [hashed(*clue) for clue in clues(edit, place, failure)]
        cases.add_edit(features(views[path], edit), told_of)
    cases.end(repair, instance.fault.kind, workshop.package.spec.name)
