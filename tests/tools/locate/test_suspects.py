"""Suspicion, its order, and the text the model reads; on traces made up for the purpose."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kodkod_tools.config import ToolsConfig
from kodkod_tools.junit import Case, Outcome
from kodkod_tools.locate.suspects import BadTrace, Limits, Trace, ochiai, read_trace, suspects, told
from kodkod_tools.tests_told import told_result

SOURCE = """\
KEY = lambda x: x + 1


@decorated
def first(a,
          b=1):
    \"\"\"Doc.\"\"\"
    c = a

    def inner():
        return c

    return inner


class Thing:
    def second(self): return 2

    async def third(self):
        x = 1
        return x
"""


def trace(**tests: object) -> Trace:
    return read_trace(json.dumps({"tests": tests}).encode())


def test(outcome: str, *lines: int, **more: object) -> dict[str, object]:
    return {"outcome": outcome, "lines": {"m.py": lines}, **more}


test.__test__ = False  # type: ignore[attr-defined]  # a maker of data, not a test


def spans(found: object) -> list[str]:
    return told(found).splitlines()[1:]  # type: ignore[arg-type]


def test_the_text_names_functions_and_lines_by_suspicion() -> None:
    made = trace(t1=test("failed", 1, 4, 5, 8, 11, 13, 17), t2=test("passed", 8, 13, 17), t3=test("passed", 17, 20, 21))
    assert told(suspects(made, {"m.py": SOURCE})) == (
        "Run by the failing tests, most suspicious first:\n"
        "m.py:1-21 <module>: 1\nm.py:4-13 first: 11 8 13\nm.py:17-17 second: 17"
    )
    assert told(()) == ""


def test_equal_scores_are_ordered_by_traceback_then_calls_then_line() -> None:
    plain = trace(t=test("failed", 8, 17, 20))
    assert [s.split()[1] for s in spans(suspects(plain, {"m.py": SOURCE}))] == ["first:", "second:", "third:"]
    called = trace(t=test("failed", 8, 17, 20, calls=[("m.py", 19), ("m.py", 17), ("m.py", 4)]))
    assert [s.split()[1] for s in spans(suspects(called, {"m.py": SOURCE}))] == ["first:", "second:", "third:"]
    later = trace(t=test("failed", 8, 17, 20, calls=[("m.py", 4), ("m.py", 17), ("m.py", 19)]))
    assert [s.split()[1] for s in spans(suspects(later, {"m.py": SOURCE}))] == ["third:", "second:", "first:"]
    raised = trace(t=test("failed", 8, 17, 20, 21, traceback={"m.py": [21]}))
    assert spans(suspects(raised, {"m.py": SOURCE}))[0] == "m.py:19-21 third: 21 20"


def test_only_failures_that_are_meant_count() -> None:
    made = trace(**{"a.py::x[1]": test("failed", 8), "a.py::xy": test("failed", 20), "a.py::ok": test("passed", 20)})
    assert len(suspects(made.narrowed(["a.py::x"]), {"m.py": SOURCE})) == 1
    assert len(suspects(made.narrowed(["a.py"]), {"m.py": SOURCE})) == 2
    assert made.narrowed(["elsewhere.py"]) == made


@pytest.mark.parametrize("source", [{}, {"m.py": "def f(:\n"}, {"m.py": "\0"}, {"m.py": "(" * 5_000}])
def test_sources_that_are_missing_or_do_not_parse_are_no_crash(source: dict[str, str]) -> None:
    assert {found.function for found in suspects(trace(t=test("failed", 1)), source)} <= {"<module>"}


@pytest.mark.parametrize(
    "data", [b"", b"{}", b'{"tests":{"a":{"outcome":"lost","lines":{}}}}', b'{"tests":{"a"', b"\xff"]
)
def test_what_the_plugin_does_not_write_is_refused(data: bytes) -> None:
    with pytest.raises(BadTrace):
        read_trace(data)


counts = st.integers(0, 50)


@settings(max_examples=100, deadline=None)
@given(counts, counts, counts)
def test_ochiai_grows_with_failures_and_shrinks_with_passes(failed: int, without: int, passed: int) -> None:
    score = ochiai(failed, without, passed)
    assert 0 <= score <= 1 + 1e-12
    assert (score == 0) == (failed == 0)
    assert ochiai(failed, without, passed + 1) <= score
    assert ochiai(failed, without + 1, passed) <= score
    assert ochiai(failed + 1, without, passed) >= score - 1e-12


outcomes = st.sampled_from(["passed", "failed", "error", "skipped"])
tests = st.dictionaries(
    st.sampled_from("abcdef"), st.builds(lambda how, lines: test(how, *lines), outcomes, st.sets(st.integers(1, 260)))
)
LONG = "def long():\n" + "    x = 1\n" * 199 + "\n\ndef short():\n" + "    x = 1\n" * 50


@settings(max_examples=60, deadline=None)
@given(tests, st.randoms())
def test_windows_are_small_ordered_and_miss_nothing(drawn: dict[str, object], random: object) -> None:
    limits = Limits(functions=100, lines=100)
    found = suspects(trace(**drawn), {"m.py": LONG}, limits)
    names = list(drawn)
    random.shuffle(names)  # type: ignore[attr-defined]  # hypothesis' Random
    assert found == suspects(trace(**{name: drawn[name] for name in names}), {"m.py": LONG}, limits)
    assert all(before.score >= after.score for before, after in pairwise(found))
    for suspect in found:
        assert suspect.last_line - suspect.first_line < 60
        assert all(suspect.first_line <= line <= suspect.last_line for line in suspect.lines)
    failing = [value for value in drawn.values() if value["outcome"] in ("failed", "error")]  # type: ignore[index]
    run = {line for value in failing for line in value["lines"]["m.py"] if 2 <= line <= 200 or 204 <= line <= 253}
    told_lines = [line for suspect in found if suspect.function != "<module>" for line in suspect.lines]
    assert sorted(told_lines) == sorted(run)
    short = suspects(trace(**drawn), {"m.py": LONG})
    assert len(short) <= 8
    assert all(len(suspect.lines) <= 20 for suspect in short)


def test_the_result_needs_no_box() -> None:
    bad = [Case(f"test_{n}", "tests.test_a", "tests/test_a.py", Outcome.FAILED, "no", "") for n in range(3)]
    found = suspects(trace(t=test("failed", 8)), {"m.py": SOURCE})
    text = told_result(
        [*bad, Case("test_ok", "tests.test_a", "tests/test_a.py")], found, 1, 0.31, ToolsConfig(),
        targets=["tests/test_a.py::test_2"],
    )  # fmt: skip
    assert text == (
        "FAILED tests/test_a.py::test_2\n  no\n\nFAILED tests/test_a.py::test_0\n  no\n\n"
        "FAILED tests/test_a.py::test_1\n  no\n\n"
        "Run by the failing tests, most suspicious first:\nm.py:4-13 first: 8\n\n"
        "1 passed, 3 failed in 0.3 s [exit code 1]"
    )
    assert "run no function" in told_result(bad, (), 1, 0.1, ToolsConfig())
