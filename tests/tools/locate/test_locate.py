"""`test` with `locate`: real pytest runs on a small project."""

from __future__ import annotations

import ast
import sys
from collections.abc import Awaitable, Callable
from importlib import resources
from pathlib import Path

import pytest

from kodkod_tools.base import ToolResult
from kodkod_tools.config import ToolsConfig

Call = Callable[..., Awaitable[ToolResult]]

GRADES = """\
import functools

SCALE = {name: index for index, name in enumerate('abc')}


def twice(function):
    @functools.wraps(function)
    def run(*arguments):
        return function(*arguments) * 2
    return run


@twice
def grade(points,
          bonus=0):
    if points >= 50:
        return 1 + bonus
    return 0


def hard(n): return sum(k for k in range(n))


def unused():
    return None
"""
TESTS = """\
import pytest
from pkg.grades import grade, hard


@pytest.fixture
def points():
    return 60


def test_good(points):
    assert grade(points) == 4


def test_bad():
    assert grade(10) == 0


def test_hard():
    assert hard(3) == 3


def test_other():
    raise RuntimeError
"""


@pytest.fixture
def project(tree: Path) -> Path:
    for folder, files in {
        "pkg": {"__init__.py": "", "grades.py": GRADES},
        "tests": {
            "helper.py": "def help(): pass\n",
            "test_grades.py": TESTS,
            "test_more.py": "def test_m():\n    1/0\n",
        },
    }.items():
        (tree / folder).mkdir()
        for name, text in files.items():
            (tree / folder / name).write_text(text)
    return tree


async def test_suspects_stand_between_failures_and_counts(project: Path, call: Call) -> None:
    result = await call("test", targets=["tests/test_grades.py::test_good"], locate=True)
    failures, _, rest = result.for_model.partition("\n\nRun by the failing tests, most suspicious first:\n")
    assert failures.startswith("FAILED tests/test_grades.py::test_good\n")
    assert "FAILED tests/test_grades.py::test_other" in failures
    assert "test_more" not in result.for_model
    block, _, counts = rest.partition("\n\n")
    assert block == "pkg/grades.py:13-18 grade: 17 16\npkg/grades.py:6-10 twice: 9"
    assert counts.startswith("2 passed, 2 failed in ")
    assert result.facts["suspects"][0] == {  # type: ignore[index, call-overload]  # a list of mappings
        "path": "pkg/grades.py", "first_line": 13, "last_line": 18, "function": "grade", "lines": [17, 16],
        "score": 1.0,
    }  # fmt: skip
    assert sorted(path.name for path in project.iterdir()) == ["pkg", "tests"]


async def test_without_failures_there_is_no_block(project: Path, call: Call) -> None:
    (project / "tests" / "test_grades.py").write_text("def test_a():\n    pass\n")
    result = await call("test", targets=["tests/test_grades.py"], locate=True)
    assert result.for_model.startswith("1 passed in ")
    assert result.facts["suspects"] == []


async def test_a_tracer_that_was_there_goes_on(project: Path, call: Call) -> None:
    (project / "conftest.py").write_text(
        "import sys\n\n\ndef mine(frame, event, arg):\n    return None\n\n\nsys.settrace(mine)\n\n\n"
        "def pytest_runtest_teardown():\n    assert sys.gettrace() is mine\n"
    )
    result = await call("test", targets=["tests/test_grades.py::test_good"], locate=True)
    assert result.facts["errors"] == 0
    assert "13-18 grade" in result.for_model


async def test_a_forged_trace_is_told_and_the_result_stays(project: Path, call: Call) -> None:
    (project / "conftest.py").write_text(
        "import os\nfrom pathlib import Path\n\n\ndef pytest_unconfigure():\n"
        "    path = Path(os.environ['_KODKOD_TRACE_FILE'])\n    path.unlink()\n    path.symlink_to('/etc/passwd')\n"
    )
    result = await call("test", targets=["tests/test_grades.py"], locate=True)
    assert result.facts["failed"] == 2
    assert result.for_model.endswith(
        "[the lines that the tests run are not known: the plugin wrote no trace, or too large a one]"
    )
    assert "suspects" not in result.facts


class TestPluginNotFound:
    @pytest.fixture
    def config(self) -> ToolsConfig:
        return ToolsConfig(test_command=(sys.executable, "-I", "-m", "pytest"))

    async def test_the_plain_result_is_given(self, project: Path, call: Call) -> None:
        (project / "pytest.ini").write_text("[pytest]\npythonpath = .\n")
        result = await call("test", targets=["tests/test_grades.py::test_good"], locate=True)
        assert result.facts["failed_tests"] == ["tests/test_grades.py::test_good"]
        assert result.for_model.endswith(
            "[the lines that the tests run are not known: pytest did not run with the plugin that traces]"
        )


class TestNoPytest:
    @pytest.fixture
    def config(self) -> ToolsConfig:
        python = f"{sys.base_prefix}/bin/python{sys.version_info.major}.{sys.version_info.minor}"
        return ToolsConfig(test_command=(python, "-I", "-S", "-m", "pytest"))

    async def test_unittest_takes_over_and_says_so(self, tree: Path, call: Call) -> None:
        (tree / "test_u.py").write_text(
            "import unittest\n\n\nclass T(unittest.TestCase):\n    def test_a(self):\n        self.fail()\n"
        )
        result = await call("test", locate=True)
        assert result.facts["failed"] == 1
        assert result.for_model.endswith("[the lines that the tests run are not known: only pytest is traced]")


def test_the_plugin_speaks_old_python_and_needs_pytest_alone() -> None:
    text = resources.files("kodkod_tools.locate").joinpath("plugin.py").read_text(encoding="utf-8")
    tree = ast.parse(text, feature_version=(3, 8))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in imported | modules if name} <= {*sys.stdlib_module_names, "pytest"}
