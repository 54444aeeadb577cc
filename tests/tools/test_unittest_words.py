"""unittest's names, and the counts at the end of what it says."""

from __future__ import annotations

import pytest

from kodkod_tools import unittest_words


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("tests/test_a.py::A::test_x", "tests.test_a.A.test_x"),
        ("test_a.py::test_x", "test_a.test_x"),
        ("tests/test_a.py", "tests/test_a.py"),
        ("tests.test_a", "tests.test_a"),
    ],
)
def test_names_of_tests(target: str, name: str) -> None:
    assert unittest_words.dotted(target) == name


@pytest.mark.parametrize(
    ("output", "counts"),
    [
        ("...\nRan 3 tests in 0.001s\n\nOK\n", (3, 3, 0, 0, 0)),
        ("Ran 1 test in 0.001s\n\nFAILED (failures=1)\n", (1, 0, 1, 0, 0)),
        ("Ran 9 tests in 0.1s\n\nFAILED (failures=1, errors=2, skipped=3)\n", (9, 3, 1, 2, 3)),
        ("Ran 4 tests in 0.1s\n\nFAILED (unexpected successes=1)\n", (4, 3, 1, 0, 0)),
        ("Ran 1 test in 0s\n\nOK\nRan 4 tests in 0.1s\n\nFAILED (failures=2)\n", (4, 2, 2, 0, 0)),
        ("a test says failures=7\nRan 2 tests in 0.1s\n\nOK (skipped=1)\n", (2, 1, 0, 0, 1)),
    ],
)
def test_counts_of_a_run(output: str, counts: tuple[int, ...]) -> None:
    ran = unittest_words.num_run(output)
    facts = unittest_words.facts(output, ran)
    assert (ran, facts["passed"], facts["failed"], facts["errors"], facts["skipped"]) == counts


@pytest.mark.parametrize("output", ["", "NO TESTS", "I Ran 3 tests", "Ran 0 tests in 0.000s\n\nNO TESTS RAN\n"])
def test_nothing_was_run(output: str) -> None:
    assert unittest_words.num_run(output) == 0
