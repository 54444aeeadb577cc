"""test: real pytest runs on small projects, and reports nobody should trust."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from kodkod_tools import junit
from kodkod_tools.base import ErrorCode, ToolContext
from kodkod_tools.config import ToolsConfig
from kodkod_tools.scratch import read_scratch, scratch, write_scratch

AREA = """
def area(w, h):
    return check(w + h)


def check(n):
    if n > 100:
        raise ValueError('too large')
    return n
"""
TEST_AREA = """
import pytest
from pkg.area import area


def test_right():
    assert area(2, 2) == 4


class TestMore:
    @pytest.mark.parametrize('w', [1, 3])
    def test_wrong(self, w):
        assert area(w, 3) == w * 3


def test_raises():
    area(100, 100)


@pytest.mark.skip(reason='later')
def test_skipped():
    pass


@pytest.fixture
def broken():
    raise RuntimeError('no fixture')


def test_setup(broken):
    pass
"""


@pytest.fixture
def project(tree: Path) -> Path:
    (tree / "pkg").mkdir()
    (tree / "pkg" / "__init__.py").write_text("")
    (tree / "pkg" / "area.py").write_text(AREA.lstrip())
    (tree / "test_area.py").write_text(TEST_AREA.lstrip())
    return tree


def snapshot(tree: Path) -> list[str]:
    return sorted(path.relative_to(tree).as_posix() for path in tree.rglob("*"))


async def test_failures_come_first_and_briefly(project: Path, call) -> None:
    before = snapshot(project)
    result = await call("test")
    assert result.error is None
    assert {key: result.facts[key] for key in ("passed", "failed", "errors", "skipped", "exit_code")} == {
        "passed": 1, "failed": 3, "errors": 1, "skipped": 1, "exit_code": 1,
    }  # fmt: skip
    assert result.facts["failed_tests"] == [
        "test_area.py::TestMore::test_wrong[1]", "test_area.py::TestMore::test_wrong[3]", "test_area.py::test_raises",
        "test_area.py::test_setup",
    ]  # fmt: skip
    assert result.for_model.startswith(
        "FAILED test_area.py::TestMore::test_wrong[1]\ntest_area.py:12 in test_wrong: assert area(w, 3) == w * 3\n"
        "  assert 4 == (1 * 3)\n"
    )
    assert "pkg/area.py:7 in check: raise ValueError('too large')\n  ValueError: too large" in result.for_model
    assert "ERROR test_area.py::test_setup" in result.for_model
    assert "1 passed, 3 failed, 1 error, 1 skipped in " in result.for_model
    assert snapshot(project) == before


async def test_chosen_tests_are_run_by_the_ids_it_gives(project: Path, call) -> None:
    result = await call("test", targets=["test_area.py::TestMore::test_wrong[3]", "test_area.py::test_right"])
    assert (result.facts["passed"], result.facts["failed"]) == (1, 1)
    passing = await call("test", targets=["test_area.py::test_right"])
    assert passing.for_model.startswith("1 passed in ")
    assert passing.for_model.endswith("[exit code 0]")


async def test_a_module_that_cannot_be_collected(project: Path, call) -> None:
    (project / "test_broken.py").write_text("import nowhere_to_be_found\n")
    result = await call("test")
    assert "ERROR collecting" in result.for_model
    assert "test_broken.py:1" in result.for_model
    assert "No module named 'nowhere_to_be_found'" in result.for_model
    assert result.facts["errors"] == 1
    assert result.facts["cause"] == "ModuleNotFoundError: No module named 'nowhere_to_be_found'"


async def test_two_modules_of_one_name(project: Path, call) -> None:
    for folder in ("first", "second"):
        (project / folder).mkdir()
        (project / folder / "test_same.py").write_text("def test_it():\n    pass\n")
    result = await call("test")
    assert result.facts["cause"] == "import file mismatch:"
    assert "use a unique basename for your test file modules" in result.for_model


async def test_a_configuration_that_cannot_be_imported(project: Path, call) -> None:
    (project / "conftest.py").write_text("import nowhere_to_be_found\n")
    result = await call("test")
    assert result.facts["exit_code"] == 4
    assert result.facts["cause"] == "ModuleNotFoundError: No module named 'nowhere_to_be_found'"


async def test_no_tests_and_wrong_targets(tree: Path, call) -> None:
    none = await call("test")
    assert none.for_model.startswith("no tests were found [exit code 5]")
    assert "tools.test_command" in none.facts["cause"]
    wrong = await call("test", targets=["nowhere.py"])
    assert wrong.facts["exit_code"] == 4
    assert "nowhere.py" in wrong.for_model
    assert "file or directory not found: nowhere.py" in wrong.facts["cause"]
    option = await call("test", targets=["--pdb"])
    assert option.error is ErrorCode.BAD_ARGUMENTS


class TestHanging:
    @pytest.fixture
    def config(self) -> ToolsConfig:
        """Without plug-ins, so that the test is reached long before the time is over, on a busy machine too."""
        alone = ("env", "PYTEST_DISABLE_PLUGIN_AUTOLOAD=1", *ToolsConfig().test_command)
        return ToolsConfig(test_command=alone)

    async def test_a_test_that_hangs_is_named(self, tree: Path, call) -> None:
        (tree / "test_hang.py").write_text("import time\n\n\ndef test_slow():\n    time.sleep(600)\n")
        result = await call("test", timeout_s=8)
        assert result.error is ErrorCode.TIMEOUT
        assert "test_slow" in result.for_model
        assert snapshot(tree) == ["test_hang.py"]


async def test_many_failures_are_bounded(tree: Path, call) -> None:
    (tree / "test_many.py").write_text(
        "import pytest\n\n\n@pytest.mark.parametrize('n', range(200))\ndef test_n(n):\n    assert 'x' * 3000 == n\n"
    )
    result = await call("test")
    assert result.facts["failed"] == 200
    assert "190 more fail:" in result.for_model
    assert len(result.for_model) < 12_500


async def test_settings_of_the_project_are_respected(project: Path, call) -> None:
    (project / "pytest.ini").write_text("[pytest]\naddopts = -q --tb=long -p no:cacheprovider\n")
    assert (await call("test")).facts["failed"] == 3


class TestWithoutPytest:
    @pytest.fixture
    def config(self, tmp_path: Path) -> ToolsConfig:
        (tmp_path / "empty").mkdir()
        python = f"{sys.base_prefix}/bin/python{sys.version_info.major}.{sys.version_info.minor}"
        return ToolsConfig(test_command=(python, "-I", "-S", "-m", "pytest"))

    async def test_unittest_takes_over(self, tree: Path, call) -> None:
        (tree / "test_u.py").write_text(
            "import unittest\n\n\nclass T(unittest.TestCase):\n"
            "    def test_a(self):\n        self.assertEqual(1, 2)\n\n"
            "    def test_b(self):\n        pass\n\n    @unittest.skip('x')\n    def test_c(self):\n        pass\n"
        )
        result = await call("test")
        assert "AssertionError: 1 != 2" in result.for_model
        assert "run by unittest" in result.for_model
        assert result.facts["instead"] == "run by unittest, for pytest is not installed"
        assert "failed_tests" not in result.facts
        assert {key: result.facts[key] for key in ("passed", "failed", "errors", "skipped")} == {
            "passed": 1, "failed": 1, "errors": 0, "skipped": 1,
        }  # fmt: skip

    async def test_nothing_to_run_says_how_to_get_pytest(self, tree: Path, call) -> None:
        result = await call("test")
        assert result.error is ErrorCode.UNAVAILABLE
        assert "-m pip install pytest" in result.for_model

    @pytest.mark.parametrize(
        ("does", "says"), [("__import__('time').sleep(600)", "stopped after 2 s"), ("os._exit(3)", "exit code 3")]
    )
    async def test_a_run_that_breaks_off_had_tests(self, does: str, says: str, tree: Path, call) -> None:
        (tree / "test_u.py").write_text(
            f"import os, unittest\n\n\nclass T(unittest.TestCase):\n    def test_a(self):\n        {does}\n"
        )
        result = await call("test", timeout_s=2)
        assert says in result.for_model
        assert "found no tests" not in result.for_model
        assert "not_run" not in result.facts
        assert result.facts["instead"] == "run by unittest, for pytest is not installed"

    async def test_nothing_to_run_is_no_success(self, tree: Path, call) -> None:
        result = await call("test")
        assert result.facts["not_run"] == "pytest is not installed in the sandbox's Python, and unittest found no tests"
        assert "[exit code" not in result.for_model  # 0 up to Python 3.11, and a small model goes by it


class TestOtherCommand:
    @pytest.fixture
    def config(self) -> ToolsConfig:
        return ToolsConfig(test_command=("sh", "-c", 'echo "ran $1"; exit 7', "x"))

    async def test_another_command_is_run_as_it_is(self, tree: Path, call) -> None:
        result = await call("test", targets=["this"])
        assert result.for_model.startswith("ran this\n[exit code 7,")
        assert result.facts["exit_code"] == 7
        assert snapshot(tree) == []


class TestMissingProgram:
    @pytest.fixture
    def config(self) -> ToolsConfig:
        return ToolsConfig(test_command=("no-such-python", "-m", "pytest"))

    async def test_a_missing_program_is_told(self, tree: Path, call) -> None:
        result = await call("test")
        assert result.error is ErrorCode.UNAVAILABLE
        assert "no-such-python is not installed" in result.for_model
        assert result.facts["not_run"] == "no-such-python is not installed in the sandbox"


@pytest.mark.parametrize(
    "report",
    [
        b"",
        b"not xml",
        b"<testsuites><testsuite>",
        b"<html></html>",
        b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;">]><testsuite>&b;</testsuite>',
        b'<!DOCTYPE x SYSTEM "file:///etc/passwd"><testsuite/>',
        b'<?xml version="1.0" encoding="none"?><testsuite/>',
        b'<?xml version="1.0" encoding="big5"?><testsuite/>',
    ],
)
def test_reports_that_no_runner_writes_are_refused(report: bytes) -> None:
    with pytest.raises(junit.BadReport):
        junit.read(report)


async def test_a_report_forged_by_the_tests_is_no_crash(tree: Path, call, context: ToolContext) -> None:
    (tree / "conftest.py").write_text(
        "import os\n\n\ndef pytest_unconfigure(config):\n    path = config.option.xmlpath\n"
        "    os.path.exists(path) and os.unlink(path)\n    os.symlink('/etc/passwd', path)\n"
    )
    (tree / "test_a.py").write_text("def test_a():\n    pass\n")
    result = await call("test")
    assert "root:" not in result.for_model
    assert result.facts["exit_code"] == 0
    assert not (tree / ".kodkod").exists()


def test_a_tear_down_that_fails_is_one_test() -> None:
    cases = junit.read(
        b'<testsuite><testcase name="t" classname="m" file="m.py"/>'
        b'<testcase name="t" classname="m" file="m.py"><error message="failed on teardown">x</error></testcase>'
        b"</testsuite>"
    )
    assert [(case.node_id, case.outcome) for case in cases] == [("m.py::t", junit.Outcome.ERROR)]


def test_scratch_leaves_no_trace_and_respects_what_was_there(tree: Path) -> None:
    with scratch(tree) as place:
        (place.absolute / "report.xml").write_text("x" * 10)
        assert read_scratch(place, "report.xml", 100) == b"x" * 10
        assert read_scratch(place, "report.xml", 5) is None
        assert read_scratch(place, "none.xml", 5) is None
        assert (tree / ".kodkod" / "tmp" / ".gitignore").read_text() == "*\n"
    assert list(tree.iterdir()) == []
    (tree / ".kodkod").mkdir()
    (tree / ".kodkod" / "config.toml").write_text("")
    with scratch(tree):
        pass
    assert snapshot(tree) == [".kodkod", ".kodkod/config.toml"]


async def test_a_scratch_folder_that_is_a_link_is_refused(tree: Path, tmp_path: Path, call) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tree / ".kodkod").symlink_to(tmp_path / "elsewhere")
    result = await call("test")
    assert result.error is ErrorCode.SYSTEM
    assert list((tmp_path / "elsewhere").iterdir()) == []


async def test_a_link_in_the_scratch_folder_leads_nowhere(tree: Path, tmp_path: Path) -> None:
    (tree / ".kodkod" / "tmp").mkdir(parents=True)
    (tree / ".kodkod" / "tmp" / ".gitignore").symlink_to(tmp_path / "profile")
    with scratch(tree):
        assert not (tmp_path / "profile").exists()


async def test_a_folder_that_becomes_a_link_leads_nowhere(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    with scratch(tree) as place:
        place.absolute.rmdir()
        place.absolute.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(NotADirectoryError):
            write_scratch(place, "plugin.py", b"x")
    assert list((tmp_path / "elsewhere").iterdir()) == []
