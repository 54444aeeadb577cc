"""A data set of our own on a local clone: rows of version 5, tests of their own, no network."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from kodkod_app.swebench.rows import write_rows

from ..conftest import git

CALC = """\
def add(a, b):
    return a - b


def double(a):
    return a * 2
"""
PATCH = (
    "diff --git a/calc.py b/calc.py\n--- a/calc.py\n+++ b/calc.py\n@@ -1,5 +1,5 @@\n def add(a, b):\n"
    "-    return a - b\n+    return a + b\n \n \n def double(a):\n"
)
TESTS = """\
import pytest
from calc import add, double


def test_add():
    assert add(1, 2) == 3


def test_double():
    assert double(2) == 4


@pytest.mark.parametrize("words", ["one two", "one three"])
def test_words(words):
    assert " " in words
"""
EVAL_SCRIPT = """\
#!/bin/bash
set -uxo pipefail
cd /testbed
export PYTHONPATH=/testbed PYTEST_DISABLE_PLUGIN_AUTOLOAD=1
git checkout HEAD -- tests/test_calc.py
: '>>>>> Start Test Output'
python -m pytest -rA -p no:cacheprovider --rootdir=/testbed tests/test_calc.py
: '>>>>> End Test Output'
git checkout HEAD -- tests/test_calc.py
"""


@pytest.fixture
def clones(tmp_path: Path) -> Path:
    """A folder with one clone, at two commits."""
    folder = tmp_path / "clones" / "local" / "calc"
    (folder / "tests").mkdir(parents=True)
    (folder / "calc.py").write_text(CALC)
    (folder / "tests" / "test_calc.py").write_text(TESTS)
    # The folder of the tests is a root of its own to pytest, which ids are relative to where none is named.
    (folder / "tests" / "pytest.ini").write_text("[pytest]\n")
    (folder / ".gitignore").write_text("__pycache__/\n")
    git(folder, "init", "-q", "-b", "main")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "base")
    (folder / "calc.py").write_text(CALC.replace("a - b", "a + b"))
    git(folder, "commit", "-q", "-am", "the fix, which nobody may see")
    return tmp_path / "clones"


@pytest.fixture
def rows(clones: Path) -> list[dict[str, object]]:
    """Eight rows on the clone's first commit."""
    commit = git(clones / "local" / "calc", "rev-parse", "HEAD~1").strip()
    return [
        {
            "repo": "local/calc",
            "instance_id": f"local__calc-{number}",
            "base_commit": commit,
            "version": "1",
            "patch": PATCH,
            "test_patch": "",
            "problem_statement": "add(1, 2) gives -1, see tests/test_calc.py::test_add. \u2028 It should give 3.",
            "FAIL_TO_PASS": json.dumps(["tests/test_calc.py::test_add"]),
            "PASS_TO_PASS": json.dumps(["tests/test_calc.py::test_double"]),
            "image": f"sweb.eval.x86_64.local__calc-{number}:latest",
            "eval_script": EVAL_SCRIPT,
            "log_parser": "parse_log_pytest",
            "eval_type": "pass_and_fail",
        }
        for number in range(1, 9)
    ]


@pytest.fixture
def dataset(rows: list[dict[str, object]], tmp_path: Path) -> Path:
    """The rows in a file."""
    path = tmp_path / "dataset.jsonl"
    write_rows(rows, path)
    return path


@pytest.fixture
def on_clones(clones: Path) -> list[str]:
    """Options by which instances stand on the clone and this process's own environment, in no box."""
    return ["--clones", str(clones), "--env", sys.prefix, "--sandbox", "none"]
