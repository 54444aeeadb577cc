"""Made-up failing tests, for faults that no test was run against: ids, errors and tracebacks like pytest's.

What went wrong fits the kind of fault as far as its text lets one guess. The result is put into words by the test
tool's own code.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from random import Random

from kodkod_app.nano.faults import FaultKind
from kodkod_app.nano.spans import Edit
from kodkod_tools.junit import Case, Outcome

_ENDINGS = (
    "", "", "", "_simple", "_empty", "_default", "_none", "_multiple", "_nested", "_invalid", "_returns", "_basic",
    "_error", "_twice", "_1", "_2", "_works", "_with_args", "_large", "_order", "_unicode",
)  # fmt: skip
_WORDS = ("foo", "bar", "a", "b", "x", "name", "test", "value", "key", "hello", "abc", "data", "one", "two", "item")
_TYPES = ("int", "str", "list", "NoneType", "dict", "tuple", "float", "bool", "bytes", "set", "function")
_NAME = re.compile(r"[A-Za-z_]\w*")
_ATTRIBUTE = re.compile(r"\.([A-Za-z_]\w*)")
_ASSIGNED = re.compile(r"\n\s*([A-Za-z_]\w*) = ")
_KEYWORDS = frozenset(
    [
        "and",
        "or",
        "not",
        "in",
        "is",
        "if",
        "else",
        "elif",
        "return",
        "await",
        "for",
        "while",
        "def",
        "class",
        "None",
        "True",
        "False",
        "with",
        "as",
    ]
)


@dataclass(frozen=True, slots=True)
class Place:
    """A function with a fault, as its project knows it."""

    path: str
    function: str
    class_name: str
    """Empty for a plain function."""
    repair: Edit
    """Of the file."""
    kind: FaultKind
    frames: tuple[tuple[int, str], ...]
    """Lines of the function that run, with their text; the faulty one first where it runs."""


@dataclass(frozen=True, slots=True)
class _Failure:
    """What one test says."""

    lines: tuple[str, ...]
    """Without pytest's mark."""
    inside: bool
    """Raised in the function, not by an assertion of the test."""


def failing_cases(place: Place, count: int, rng: Random) -> list[Case]:
    """Tests of one file that fail for the fault."""
    file = _test_file(place.path, rng)
    group = _group(place, rng)
    name = "test_" + place.function.strip("_")
    endings = rng.sample(_ENDINGS[2:], count)
    return [_case(place, file, group, name + ending, rng) for ending in endings]


def passing_cases(count: int) -> list[Case]:
    """Tests that pass: they are only counted."""
    return [Case(f"passes_{number}", "", "") for number in range(count)]


def _test_file(path: str, rng: Random) -> str:
    place = PurePosixPath(path)
    stem = place.stem.strip("_") or place.parent.name
    if stem == "init":
        stem = place.parent.name
    folder = rng.choice(["tests", "tests", "tests", "test", f"tests/{place.parent.name}", f"{place.parts[0]}/tests"])
    return f"{folder}/test_{stem}.py"


def _group(place: Place, rng: Random) -> str:
    """The class the tests are in; none for most."""
    if rng.random() < 0.6:
        return ""
    name = place.class_name or "".join(word.title() for word in place.function.strip("_").split("_"))
    return f"Test{name}" if rng.random() < 0.8 else f"{name}Tests"


def _case(place: Place, file: str, group: str, name: str, rng: Random) -> Case:
    failure = _failure(place, rng)
    called = f"{place.function}({', '.join(_value(rng) for _ in range(rng.randrange(3)))})"
    test_line = rng.randrange(8, 900)
    said = f"    assert {called} == {_value(rng)}" if rng.random() < 0.7 else f"    {called}"
    frames = [f"{file}:{test_line}: in {name}", said]
    if failure.inside and place.frames:
        line, text = place.frames[0] if rng.random() < 0.6 else rng.choice(place.frames)
        frames += [f"{place.path}:{line}: in {place.function}", f"    {text.strip()}"]
    text = "\n".join([*frames, *(f"E   {line}" for line in failure.lines)])
    module = ".".join(filter(None, [file.removesuffix(".py").replace("/", "."), group]))
    return Case(name, module, file, Outcome.FAILED, failure.lines[0], text)


def _failure(place: Place, rng: Random) -> _Failure:
    """By the kind of fault; most often a plain assertion."""
    special = _special(place, rng)
    if special is not None and rng.random() < 0.75:
        return special
    if rng.random() < 0.25:
        return _Failure((_raised(place, rng),), inside=True)
    return _Failure(_asserted(place, rng), inside=False)


def _special(place: Place, rng: Random) -> _Failure | None:
    old, new = place.repair.old, place.repair.new
    match place.kind:
        case FaultKind.WRONG_ATTRIBUTE if found := _ATTRIBUTE.search(old) or _NAME.search(old):
            owner = rng.choice([*_TYPES, place.class_name or "Node"])
            return _Failure(
                (f"AttributeError: '{owner}' object has no attribute '{found[found.lastindex or 0]}'",), True
            )
        case FaultKind.MISSING_RETURN:
            if rng.random() < 0.6:
                return _Failure((f"assert None {rng.choice(['==', 'is', '=='])} {_value(rng)}",), False)
            return _Failure((_of_none(rng),), rng.random() < 0.3)
        case FaultKind.MISSING_AWAIT:
            address = f"0x7f{rng.randrange(16**10):010x}"
            return _Failure((f"assert <coroutine object {_called(new)} at {address}> == {_value(rng)}",), False)
        case FaultKind.DROPPED_STATEMENT if found := _ASSIGNED.search(new):
            name = found[1]
            told = f"cannot access local variable '{name}' where it is not associated with a value"
            return _Failure((f"UnboundLocalError: {told}" if rng.random() < 0.6 else _name_error(name),), True)
        case FaultKind.SWAPPED_ARGUMENTS | FaultKind.WRONG_VARIABLE:
            return _Failure((_raised(place, rng),), inside=True) if rng.random() < 0.5 else None
        case _:
            return None


def _asserted(place: Place, rng: Random) -> tuple[str, ...]:
    """An assertion that pytest has taken apart."""
    if place.kind in (FaultKind.NEGATION, FaultKind.MISSING_NOT, FaultKind.BOOLEAN, FaultKind.COMPARISON):
        pairs = [("True", "False"), ("False", "True"), ("None", _value(rng)), ("[]", f"[{_value(rng)}]")]
    elif place.kind in (FaultKind.OFF_BY_ONE, FaultKind.ARITHMETIC, FaultKind.CONSTANT):
        number = rng.choice([0, 1, 2, 3, 4, 5, 8, 10, 16, 100, rng.randrange(1000)])
        pairs = [(str(number), str(number + rng.choice([-2, -1, 1, 1, 2, 10])))]
    else:
        pairs = [(_value(rng), _value(rng))]
    left, right = rng.choice(pairs)
    if rng.random() < 0.12:
        return (f"AssertionError: {left} != {right}",)
    if rng.random() < 0.08:
        wanted = rng.choice(["ValueError", "TypeError", "KeyError", "RuntimeError"])
        return (f"Failed: DID NOT RAISE <class '{wanted}'>",)
    where = (f" +  where {left} = {place.function}({_value(rng)})",) if rng.random() < 0.4 else ()
    return (f"assert {left} == {right}", *where)


def _raised(place: Place, rng: Random) -> str:
    """An exception that the function itself might raise."""
    one, other = rng.sample(_TYPES, 2)
    names = [name for name in _NAME.findall(place.frames[0][1] if place.frames else "") if name not in _KEYWORDS]
    name = rng.choice(names or ["value"])
    return rng.choice([
        f"TypeError: unsupported operand type(s) for {rng.choice('+-*/')}: '{one}' and '{other}'",
        f"TypeError: '{rng.choice(['<', '>', '<=', '>='])}' not supported between instances of '{one}' and '{other}'",
        f"TypeError: '{one}' object is not {rng.choice(['iterable', 'subscriptable', 'callable'])}",
        f"TypeError: {place.function}() missing 1 required positional argument: '{name}'",
        f"AttributeError: '{one}' object has no attribute '{name}'",
        _of_none(rng),
        f"KeyError: '{name}'",
        f"ValueError: invalid {name}: {_value(rng)}",
        f"ValueError: not enough values to unpack (expected {rng.randrange(2, 4)}, got 1)",
        "IndexError: list index out of range",
        _name_error(name),
    ])  # fmt: skip


def _of_none(rng: Random) -> str:
    return rng.choice([
        "TypeError: 'NoneType' object is not iterable",
        "TypeError: 'NoneType' object is not subscriptable",
        f"AttributeError: 'NoneType' object has no attribute '{rng.choice(_WORDS)}'",
    ])  # fmt: skip


def _name_error(name: str) -> str:
    return f"NameError: name '{name}' is not defined"


def _called(text: str) -> str:
    names = _NAME.findall(text.replace("await", ""))
    return names[-1] if names else "run"


def _value(rng: Random) -> str:
    """A short literal."""
    word = rng.choice(_WORDS)
    return rng.choice([
        str(rng.randrange(12)), str(rng.randrange(12)), f"'{word}'", f"'{word}'", "None", "True", "False", "''", "[]",
        f"['{word}']", f"{{'{word}': {rng.randrange(9)}}}", f"[{rng.randrange(9)}, {rng.randrange(9)}]",
        f"({rng.randrange(9)}, '{word}')", f"{rng.randrange(99) / 10}",
    ])  # fmt: skip
