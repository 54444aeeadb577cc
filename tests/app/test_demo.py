"""`kodkod demo`: the example mended in a copy, from a failing test to a verified repair."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from kodkod_app.demonstration import example_folder
from kodkod_app.nano.releases import PLAIN_PYTEST

from .conftest import FINISH, turn

WRONG = "return self.start <= other.end and other.start < self.end"
RIGHT = "return self.start < other.end and other.start < self.end"
SPANS = "timesheet/spans.py"


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))


def test_the_example_is_mended_in_a_copy(kodkod, record, tmp_path):
    before = (example_folder() / SPANS).read_text()
    assert WRONG in before
    model = record(turn("", ("edit", {"path": SPANS, "old": WRONG, "new": RIGHT})), FINISH)
    found = kodkod("demo", "-m", model, "--sandbox", "none")
    assert found.code == 0, found.out + found.err
    assert "failing: tests/test_sheet.py::test_one_thing_follows_the_other" in found.err
    assert f"-        {WRONG}\n+        {RIGHT}\n" in found.out
    assert "tests before  1 failed, 4 passed\ntests after   5 passed" in found.out
    assert (example_folder() / SPANS).read_text() == before
    assert "kodkod fix -r" not in found.out, "the copy is gone"
    (told,) = [line for line in found.out.splitlines() if "kodkod sessions show" in line]
    assert kodkod("sessions", "show", told.split()[-1]).code == 0
    assert list((tmp_path / "temporary").glob("kodkod-copies-*/*")) == []


def test_what_is_not_verified_is_3(kodkod, record):
    model = record(turn("", ("edit", {"path": SPANS, "old": WRONG, "new": "return True"})), *[FINISH] * 20)
    found = kodkod("demo", "-m", model, "--sandbox", "none", "--candidates", 1)
    assert found.code == 3, found.out + found.err


def test_the_example_has_one_failing_test_of_many():
    words = [sys.executable, "-B", "-m", "pytest", "-q", "-p", "no:cacheprovider", str(example_folder())]
    variables = {**os.environ, **PLAIN_PYTEST}
    done = subprocess.run(words, cwd=example_folder(), env=variables, check=False, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1].startswith("1 failed, 29 passed")


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("--package", "toolz", "-m", "MODEL"), 1, "write it as NAME==VERSION"),
        (("--package", "a==1", "/tmp"), 2, "exclude each other"),
        (("/tmp",), 2, "name the tests of EXAMPLE that fail"),
    ],
)
def test_wrong_usage(kodkod, record, arguments, code, told):
    found = kodkod("demo", *(record() if word == "MODEL" else word for word in arguments))
    assert (found.code, told in found.err) == (code, True), found.err
