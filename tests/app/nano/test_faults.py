from __future__ import annotations

import ast
import json
import re
import textwrap
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kodkod_app.nano.faults import Fault, FaultKind, all_faults, inverse_edits, plant
from kodkod_app.nano.spans import applied

SOURCE = textwrap.dedent('''\
    import os

    LIMIT = 3


    class Basket:
        """Things."""

        def __init__(self, things: list[str] = (), limit: int = 2, *, strict=False) -> None:
            self.things = list(things)
            self.limit = limit
            self.strict = strict  # kept

        def first(self, count):
            """The first ones."""
            if not self.things and self.strict:
                raise ValueError("none")
            total = count * 2 + self.limit
            while total >= 0 and (count is not None):
                total -= 1
            names = [name.strip() for name in self.things if name != "" and not (name in "ab")]
            return names[: total + 1], f"{total + 1}", clamp(count, total)

        async def fetch(self, client, key):
            answer = await client.get(key, None)
            if answer == "none" or answer == "left":
                return None
            return not answer.startswith("none", 2)


    def clamp(value, least, most=10):
        äöü = max(least, min(value, most)); low = "ß" + str(value)
        if value < least or (value > most):
            return range(least - 1, most)[value]
        return os.path.join(low, äöü, sep="/")
    ''')

SOURCES = [SOURCE, *(Path(module.__file__ or "").read_text() for module in (textwrap, json.decoder))]


def broken_and_mended(source: str, fault: Fault) -> str:
    broken = applied(source, fault.edit)
    assert ast.dump(ast.parse(broken)) != ast.dump(ast.parse(source))
    assert applied(broken, fault.repair) == source
    return broken


def assert_searchable(broken: str, fault: Fault) -> None:
    if fault.kind is not FaultKind.DROPPED_STATEMENT:
        assert fault.repair in inverse_edits(broken, [fault.repair.line])


@pytest.fixture(scope="module")
def faults() -> list[Fault]:
    return list(all_faults(SOURCE))


@pytest.mark.parametrize("kind", FaultKind)
def test_every_kind_is_planted_and_found_again(kind: FaultKind, faults: list[Fault]) -> None:
    of_kind = [fault for fault in faults if fault.kind is kind]
    assert of_kind
    for fault in of_kind:
        assert_searchable(broken_and_mended(SOURCE, fault), fault)


@given(st.sampled_from(SOURCES), st.integers(0, 2**32), st.sets(st.sampled_from(FaultKind)))
@settings(max_examples=40, deadline=None)
def test_a_planted_fault_breaks_and_its_repair_mends(source: str, seed: int, kinds: set[FaultKind]) -> None:
    fault = plant(source, Random(seed), kinds or None)
    if fault is None:
        assert kinds
        return
    assert not kinds or fault.kind in kinds
    assert_searchable(broken_and_mended(source, fault), fault)


def replacement(kind: FaultKind, line: str) -> set[str]:
    """The lines that faults of a kind make of one line in a function."""
    source = f"def f(a, b, c, xs):\n    {line}\n    return 0\n"
    found = (applied(source, fault.edit) for fault in all_faults(source, [2]) if fault.kind is kind)
    return {broken.split("\n")[1].strip() for broken in found}


@pytest.mark.parametrize(
    ("kind", "line", "broken"),
    [
        (FaultKind.COMPARISON, "a < b", {f"a {other} b" for other in ("<=", ">", ">=", "==", "!=")}),
        (FaultKind.BOOLEAN, "a and b or c", {"a or b or c", "a and b and c"}),
        (FaultKind.ARITHMETIC, "a <<= b", {"a >>= b"}),
        (FaultKind.ARITHMETIC, '"%s" % a', set()),
        (FaultKind.NEGATION, "assert a is b", {"assert not a is b", "assert a is not b"}),
        (FaultKind.NEGATION, "return (a in b)", {"return not (a in b)", "return (a not in b)"}),
        (FaultKind.MISSING_NOT, "c = not (a or b)", {"c = (a or b)"}),
        (FaultKind.MISSING_NOT, "f(not a, b not in c)", {"f(a, b not in c)", "f(not a, b in c)"}),
        (FaultKind.CONSTANT, "return True", {"return False"}),
        (FaultKind.CONSTANT, "a = 0", {"a = 2"}),
        (FaultKind.OFF_BY_ONE, "a[b]", {"a[b + 1]", "a[b - 1]"}),
        (FaultKind.OFF_BY_ONE, "c = 7", {"c = 6", "c = 8"}),
        (FaultKind.WRONG_VARIABLE, "return a", {"return b", "return c", "return xs"}),
        (FaultKind.WRONG_ATTRIBUTE, "xs.append(a)", {f"xs.{other}(a)" for other in ("extend", "insert", "appendleft")}),
        (FaultKind.SWAPPED_ARGUMENTS, "f(a, (b), c)", {"f(b, (a), c)", "f(a, (c), b)"}),
        (FaultKind.SWAPPED_ARGUMENTS, "f(x=a, y=b, *xs)", {"f(x=b, y=a, *xs)"}),
        (FaultKind.MISSING_RETURN, "return a + b", {"a + b"}),
        (FaultKind.WRONG_DEFAULT, "xs.get(a, False)", {"xs.get(a, True)", "xs.get(a, None)"}),
        (FaultKind.DROPPED_STATEMENT, "a = b", {"return 0"}),
    ],
)
def test_what_is_made_of_a_line(kind: FaultKind, line: str, broken: set[str]) -> None:
    assert replacement(kind, line) == broken


def test_a_default_in_the_signature_is_changed() -> None:
    signature = "def f(a, b=False):"
    faults = [fault for fault in all_faults(f"{signature}\n    return b\n") if fault.kind is FaultKind.WRONG_DEFAULT]
    broken = {applied(signature, fault.edit) for fault in faults}
    assert broken == {"def f(a, b=True):", "def f(a, b=None):"}


def test_lines_bound_where_faults_stand() -> None:
    wanted = [line for line, text in enumerate(SOURCE.split("\n"), 1) if re.search(r"while|clamp\(count", text)]
    faults = list(all_faults(SOURCE, wanted))
    assert {fault.edit.line for fault in faults} == set(wanted)
    assert {edit.line for edit in inverse_edits(SOURCE, wanted)} == set(wanted)


def test_formatting_and_f_strings_are_left_alone(faults: list[Fault]) -> None:
    for fault in faults:
        broken = applied(SOURCE, fault.edit)
        assert 'f"{total + 1}"' in broken
        assert "# kept" in broken or fault.kind is FaultKind.DROPPED_STATEMENT


@pytest.mark.parametrize(
    "source", ["", "x = 1\n", "def f(:\n", "def f(a):\r\n    return a\r\n", "def f():\n    pass\0"]
)
def test_no_fault_where_there_is_no_place_for_one(source: str) -> None:
    assert plant(source, Random(0)) is None
    assert list(all_faults(source)) == []
    assert inverse_edits(source, [1, 2]) == []


def test_the_same_seed_plants_the_same_fault() -> None:
    assert plant(SOURCE, Random(5)) == plant(SOURCE, Random(5))
    assert len({plant(SOURCE, Random(seed)) for seed in range(20)}) > 10
