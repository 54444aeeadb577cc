"""What a person meets first: wrong words, and machines that have not what is asked for."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from kodkod_agent import fitness
from kodkod_agent.errors import WorkTreeUnfit
from kodkod_app.attended import open_attended
from kodkod_app.machine_facts import model_facts
from kodkod_app.wish import Wish
from kodkod_engine.errors import EngineError
from kodkod_engine.placement.admission import require_device

from .conftest import turn


def test_options_of_the_app_are_told_of_as_kodkods_own(kodkod):
    found = kodkod("--nonsense")
    assert (found.code, found.out) == (2, "")
    assert found.err.startswith("Usage: kodkod [OPTIONS]\nTry 'kodkod --help' for help.\n")


def test_the_apps_help_is_its_own(kodkod):
    found = kodkod("-C", ".", "-h")
    assert found.code == 0
    assert found.out.startswith("Usage: kodkod [OPTIONS]\n")
    assert "--permission-mode" in found.out


@pytest.mark.parametrize(
    ("word", "meant"), [("sesions", "did you mean sessions?"), ("fix the tests", "to ask something, kodkod -p PROMPT")]
)
def test_a_word_that_is_no_command_is_told_what_may_be_meant(kodkod, word, meant):
    found = kodkod(word)
    assert (found.code, found.out) == (2, "")
    assert f"there is no command '{word}'; {meant}" in found.err


def test_a_folder_that_is_gone_is_told_in_one_line(kodkod, tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for words in (("sessions",), ("-p", "hi"), ("doctor",), ("trust",), ("eval", "none", "-o", "out")):
        found = kodkod(*words)
        said = "kodkod: the current folder is gone; change to one that is there first\n"
        assert (found.code, found.out, found.err) == (2, "", said)


def test_what_a_terminal_cannot_show_does_not_end_a_command(home):
    told = subprocess.run(
        [sys.executable, "-m", "kodkod_app", "sessions", "-C", "/na\u00efve\u2026"],
        check=False, capture_output=True, timeout=120,
        env={**os.environ, "KODKOD_HOME": str(home), "PYTHONIOENCODING": "latin-1:strict"},
    )  # fmt: skip
    assert (told.returncode, told.stderr) == (0, b"")
    assert told.stdout == "no sessions of /na\u00efve?; --all lists those of others\n".encode("latin-1")


def test_whoever_closes_the_streams_is_told_nothing(home, tmp_path):
    command = 'exec "$0" -m kodkod_app sessions >&- 2>"$1"'
    told = tmp_path / "told"
    done = subprocess.run(["sh", "-c", command, sys.executable, str(told)], check=False)
    assert (done.returncode, told.read_text()) == (0, "")
    asked = subprocess.run(
        ["sh", "-c", 'exec "$0" -m kodkod_app -p - <&-', sys.executable], check=False, capture_output=True, text=True
    )
    assert asked.returncode == 2
    assert "the prompt is empty" in asked.stderr
    assert "Traceback" not in asked.stderr


def test_a_folder_whose_name_is_no_text_is_told_in_one_line(kodkod, record, tmp_path):
    project = Path(os.fsdecode(os.fsencode(tmp_path / "caf") + b"\xe9"))
    project.mkdir()
    found = kodkod("-p", "hi", "-C", project, "-m", record({"text": "hi", "calls": []}), "--sandbox", "none")
    assert (found.code, found.out) == (2, "")
    assert found.err == f"kodkod: the name of {tmp_path}/caf\ufffd is not written in UTF-8; rename the folder\n"


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


@pytest.mark.parametrize("given", [subprocess.DEVNULL, None])
def test_an_editor_is_no_file(given, tmp_path, home):
    with (tmp_path / "answers").open("wb") as answers:
        left = subprocess.run(
            [sys.executable, "-m", "kodkod_app", "acp"],
            check=False,
            **({"input": ""} if given is None else {"stdin": given}),
            stdout=answers,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "KODKOD_HOME": str(home)},
            timeout=120,
        )
    assert left.returncode == 2
    assert left.stderr.startswith("kodkod: standard input and output must lead to an editor")
    assert left.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("answer", "out", "err"),
    [("n\n", "nothing was changed\n", ""), ("", "\n", "kodkod: nobody is there to ask; say --yes\n")],
)
def test_a_question_without_a_yes_changes_nothing_and_says_so(
    answer, out, err, kodkod, project, record, home, monkeypatch
):
    model = record(turn("hi"))
    assert kodkod("-p", "hi", "-C", project, "-m", model, "--sandbox", "none").code == 0
    (session,) = (path.name for path in (home / "sessions").iterdir() if path.is_dir())
    for words, said_no in (
        (("sessions", "delete", session), 130),
        (("sessions", "rewind", session, 0), 130),
        (("trust", project), 1),
    ):
        monkeypatch.setattr("sys.stdin", io.StringIO(answer))
        found = kodkod(*words)
        assert (found.code, found.err) == (said_no if answer else 1, err)
        assert found.out.endswith(f"[y/N]: {out}")
    assert (home / "sessions" / session / "session.json").exists()
    assert kodkod("trust", "--list").err == "no folder is trusted\n"


@pytest.fixture
def much(tmp_path, monkeypatch):
    """A folder that holds more than a session may copy; neither box nor model can be opened."""
    monkeypatch.setattr(fitness, "MAX_FILES", 1)
    monkeypatch.setattr("kodkod_app.headless.open_box", None)
    monkeypatch.setattr("kodkod_app.attended.open_box", None)
    folder = tmp_path / "much"
    folder.mkdir()
    for name in "ab":
        (folder / name).touch()
    return folder


def test_a_folder_that_holds_too_much_is_told_before_anything_is_opened(kodkod, much, record):
    found = kodkod("-p", "hi", "-C", much, "-m", record())
    assert (found.code, found.out) == (2, "")
    assert found.err.startswith(f"kodkod: {much} is no git repository and holds more than")


async def test_so_it_is_in_the_terminal_app_and_in_editors(much, record):
    with pytest.raises(WorkTreeUnfit, match="is no git repository"):
        async with AsyncExitStack() as stack:
            await open_attended(Wish(much, {"model": record()}), None, stack)


def test_what_is_wrong_in_a_command_is_told_without_obeying_it(kodkod):
    found = kodkod("-p", "look", "-C", "no\x1b[31m\u202efolder")  # click itself drops what it knows
    assert found.code == 2
    assert "no\N{REPLACEMENT CHARACTER}folder is not a folder" in found.err
