"""What a person meets first: wrong words, and machines that have not what is asked for."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from kodkod_app.machine_facts import model_facts
from kodkod_engine.errors import EngineError
from kodkod_engine.placement.admission import require_device


def test_options_of_the_app_are_told_of_as_kodkods_own(kodkod):
    found = kodkod("--nonsense")
    assert (found.code, found.out) == (2, "")
    assert found.err.startswith("Usage: kodkod [OPTIONS]\nTry 'kodkod --help' for help.\n")


def test_the_apps_help_is_its_own(kodkod):
    found = kodkod("-C", ".", "-h")
    assert found.code == 0
    assert found.out.startswith("Usage: kodkod [OPTIONS]\n")
    assert "--permission-mode" in found.out


def test_a_repository_of_a_hub_has_an_owner_and_a_name(kodkod):
    found = kodkod("pull", "LongCat")
    assert (found.code, "LongCat is no OWNER/NAME" in found.err) == (2, True)


@pytest.mark.parametrize(("arguments", "is_told"), [(("-p", "hi"), True), (("fix", "--failing-test", "a"), False)])
def test_whoever_asks_the_small_model_for_more_is_told_what_it_does(kodkod, project, monkeypatch, arguments, is_told):
    ran = []
    monkeypatch.setattr("kodkod_app.headless.run_headless", lambda *_: ran.append(1) or 0)
    found = kodkod(*arguments, "-C", project)
    assert (found.code, ran) == (0, [1])
    assert ("the small one that comes along runs the tests and mends what fails" in found.err) is is_told


def test_nobody_trusted_is_said(kodkod):
    found = kodkod("trust", "--list")
    assert (found.out, found.err) == ("", "no folder is trusted\n")


def test_the_model_that_comes_along_is_no_missing_one(monkeypatch):
    (fact,) = model_facts(None)
    assert fact.is_good
    assert "the small one that comes along" in fact.detail
    monkeypatch.setattr("kodkod_app.bootstrap.bundled_model", lambda: None)
    (fact,) = model_facts(None)
    assert (fact.is_good, "-m DIR" in fact.detail) == (False, True)


@pytest.mark.parametrize("device", ["banana", "cuda:x", "cpu:1", ""])
def test_a_device_that_there_is_not_is_named_with_those_there_are(device):
    with pytest.raises(EngineError, match="cpu, cuda, or one of several as cuda:1"):
        require_device(device)


def test_an_editor_is_no_file(tmp_path, home):
    with (tmp_path / "answers").open("wb") as answers:
        left = subprocess.run(
            [sys.executable, "-m", "kodkod_app", "acp"],
            check=False,
            input="",
            stdout=answers,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "KODKOD_HOME": str(home)},
            timeout=120,
        )
    assert left.returncode == 2
    assert left.stderr.startswith("kodkod: standard input and output must lead to an editor")
    assert left.stderr.count("\n") == 1
