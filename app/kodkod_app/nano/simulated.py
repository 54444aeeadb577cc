"""Simulated dialogues: a fault planted in a function of the corpus, failing tests made up, the tools real.

They are many and cheap, where real ones need a package's tests to run. What a test run says and which lines it
covers is invented (`made_up`, and `_Coverage` here); the code, the fault, the view and the edit are as always.
"""

from __future__ import annotations

import dis
import functools
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from types import CodeType

from kodkod_app.nano.corpus import Function, Module
from kodkod_app.nano.dialogue import Dialogue, Origin, Turn, edit_turn, finish_turn, run_turn, view_turn
from kodkod_app.nano.faults import Candidates, Fault
from kodkod_app.nano.made_up import Place, failing_cases, passing_cases
from kodkod_app.nano.spans import Edit, applied
from kodkod_app.nano.tool_desk import ToolDesk
from kodkod_app.nano.weighted_faults import draw_weighted
from kodkod_tools.locate.suspects import Suspect
from kodkod_tools.tests_told import told_result

MAX_FUNCTION_LINES = 50
_LONG_LINES, _SHARE_OF_LONG = 14, 0.45
"""Longer functions than this are passed over more often than not: short documents teach more for their tokens."""
_FAULTS_PER_FUNCTION = 3
_FIRST_OF_SUSPECTS = 0.6
"""How often the faulty function leads the list, where others are on it."""
_NUM_OTHERS = (0, 1, 1, 2, 3, 4, 5, 6, 8, 11, 11)
_NUM_FAILING = (1, 1, 1, 1, 1, 1, 1, 2, 2, 3)
_GOES_ON = 0.12
"""To the passing test and the end."""
_MAX_SUSPECT_LINES = 20
_HEADERS = ("\n", "class _:\n")
"""In front of a function that is parsed alone: keeps a method's indentation, and its line numbers one off."""


@dataclass(frozen=True, slots=True)
class _Broken:
    """A module with a fault in one function; lines are the file's."""

    module: Module
    function: Function
    fault: Fault
    repair: Edit
    lines: tuple[str, ...]
    """Of the whole file."""
    last_line: int
    """Of the function, which may have lost a statement."""
    runnable: tuple[int, ...]


def dialogues(module: Module, seed: int, desk: ToolDesk) -> Iterator[Dialogue]:
    """Some for each short function of a module. Equal seeds give equal dialogues."""
    for function in module.functions:
        rng = Random(f"{seed} {module.package} {module.path} {function.first_line}")
        if not _is_wanted(function, rng):
            continue
        source = _alone(module, function)
        candidates = Candidates(source)
        repairs: set[Edit] = set()
        for _ in range(_FAULTS_PER_FUNCTION):
            fault = draw_weighted(candidates, rng)
            if fault is not None and fault.repair not in repairs and _compiles(applied(source, fault.edit)):
                repairs.add(fault.repair)
                yield _dialogue(_broken(module, function, source, fault), rng, desk)


def _alone(module: Module, function: Function) -> str:
    """A function's source to be parsed alone; its lines are one off."""
    return _HEADERS[module.lines[function.first_line - 1].startswith(" ")] + module.text(function) + "\n"


def _is_wanted(function: Function, rng: Random) -> bool:
    if function.num_lines <= _LONG_LINES:
        return True
    return function.num_lines <= MAX_FUNCTION_LINES and rng.random() < _SHARE_OF_LONG


def _broken(module: Module, function: Function, source: str, fault: Fault) -> _Broken:
    broken = applied(source, fault.edit)
    offset = function.first_line - 2
    repair = Edit(fault.repair.line + offset, fault.repair.old, fault.repair.new)
    own = broken.split("\n")[1:-1]
    lines = (*module.lines[: function.first_line - 1], *own, *module.lines[function.last_line :])
    runnable = tuple(line + offset for line in _runnable(broken))
    return _Broken(module, function, fault, repair, lines, function.first_line + len(own) - 1, runnable)


@functools.lru_cache(maxsize=4096)
def _compiles(source: str) -> bool:
    """What parses may not: without its assignment a `nonlocal` name is none."""
    try:
        _compiled(source)
    except SyntaxError:
        return False
    return True


def _compiled(source: str) -> CodeType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd literals in other people's code
        return compile(source, "<function>", "exec", dont_inherit=True)


@functools.lru_cache(maxsize=4096)
def _runnable(source: str) -> tuple[int, ...]:
    """Lines of a function's body that a tracer can see run."""
    waiting = list(_inner(_compiled(source)))
    found: set[int] = set()
    first = min((code.co_firstlineno for code in waiting), default=0)
    while waiting:
        code = waiting.pop()
        waiting += _inner(code)
        if code.co_name != "_":
            found |= {line for _, line in dis.findlinestarts(code) if line is not None and line != code.co_firstlineno}
    return tuple(sorted(line for line in found if line > first))


def _inner(code: CodeType) -> Iterator[CodeType]:
    return (constant for constant in code.co_consts if isinstance(constant, CodeType))


def _dialogue(broken: _Broken, rng: Random, desk: ToolDesk) -> Dialogue:
    root = rng.choice(["", "", "src/"])
    path = root + broken.module.path
    covered = _covered(broken.runnable, broken.repair.line, rng)
    frames = tuple((line, broken.lines[line - 1]) for line in covered)
    function = broken.function
    place = Place(path, function.name, function.class_name, broken.repair, broken.fault.kind, frames)
    failing = failing_cases(place, rng.choice(_NUM_FAILING), rng)
    passing = passing_cases(rng.choice([0, 0, 1, 2, 3, 5, 8, rng.randrange(60)]))
    suspects = _suspects(broken, path, covered, rng)
    result = told_result([*failing, *passing], suspects, 1, _duration_s(rng), desk.config)
    tests = tuple(case.node_id for case in failing)
    turns = [run_turn(result, locate=True), *_mend(broken, path, rng, desk)]
    if turns[-1].result is not None:
        passed = told_result(passing_cases(len(failing)), None, 0, _duration_s(rng), desk.config)
        turns += [run_turn(passed), finish_turn()]
    return Dialogue(tests, tuple(turns), broken.fault.kind, Origin.SIMULATED)


def _mend(broken: _Broken, path: str, rng: Random, desk: ToolDesk) -> list[Turn]:
    """The view, and the edit with its result where the dialogue is to go on."""
    desk.put(path, "\n".join(broken.lines))
    first, last, repair = broken.function.first_line, broken.last_line, broken.repair
    seen = desk.call("view", {"path": path, "start": first, "end": last})
    edit = edit_turn(path, repair.line, repair.old, repair.new)
    if rng.random() < _GOES_ON:
        edit = edit_turn(path, repair.line, repair.old, repair.new, desk.call("edit", edit.arguments).for_model)
    return [view_turn(path, first, last, seen.for_model), edit]


def _covered(runnable: Sequence[int], faulty: int, rng: Random) -> tuple[int, ...]:
    """Lines that the failing tests ran, in order of suspicion; the faulty one is among them where it can be seen."""
    share = rng.uniform(0.5, 1.0)
    ran = sorted(line for line in runnable if line == faulty or rng.random() < share)
    if not ran or rng.random() < 0.5:
        return _faulty_first_among_equals(ran, faulty, 0, rng)
    return _faulty_first_among_equals(ran, faulty, rng.randrange(1, len(ran) + 1), rng)


def _faulty_first_among_equals(ran: list[int], faulty: int, num_top: int, rng: Random) -> tuple[int, ...]:
    """`num_top` neighbours of the faulty line lead, as if passing tests did not run them."""
    if not num_top or faulty not in ran:
        return tuple(ran)
    start = max(0, ran.index(faulty) - rng.randrange(num_top))
    top = ran[start : start + num_top]
    return (*top, *(line for line in ran if line not in top))


def _suspects(broken: _Broken, path: str, covered: Sequence[int], rng: Random) -> list[Suspect]:
    function = broken.function
    own = Suspect(path, function.first_line, broken.last_line, function.name, tuple(covered[:_MAX_SUSPECT_LINES]), 1.0)
    shift = broken.last_line - function.last_line
    candidates = [other for other in broken.module.functions if other != function]
    others = rng.sample(candidates, min(rng.choice(_NUM_OTHERS), len(candidates)))
    found = [_other(broken.module, other, path, shift if other.first_line > function.last_line else 0, rng)
             for other in others]  # fmt: skip
    at = 0 if rng.random() < _FIRST_OF_SUSPECTS else rng.randrange(len(found) + 1)
    return [*found[:at], own, *found[at:]]


def _other(module: Module, function: Function, path: str, shift: int, rng: Random) -> Suspect:
    """Another function of the file that the tests run as well."""
    offset = function.first_line - 2 + shift
    runnable = [line + offset for line in _runnable(_alone(module, function))]
    share = rng.uniform(0.5, 1.0)
    lines = tuple(line for line in runnable if rng.random() < share) or tuple(runnable[:1])
    return Suspect(
        path, function.first_line + shift, function.last_line + shift, function.name, lines[:_MAX_SUSPECT_LINES], 0.5
    )


def _duration_s(rng: Random) -> float:
    return min(60.0, 0.1 + rng.expovariate(1.5))
