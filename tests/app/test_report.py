"""The report as text: counts that agree with git's, and nothing that steers a terminal."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kodkod_agent import events
from kodkod_agent.report import RunReport
from kodkod_agent.state import Status
from kodkod_app.report_text import TextProgress, TextRenderer, diff_stat, told_outcome, told_tests
from kodkod_engine.messages import ToolCall
from kodkod_tools.base import ErrorCode, FileDiff

_LINES = st.lists(
    st.sampled_from(["a\n", "b\n", "-- c\n", "++ d\n", "@@ -1 +1 @@\n", "diff --git a/x b/x\n"]), max_size=12
)


@given(before=_LINES, after=_LINES)
@settings(max_examples=25, deadline=None)
def test_counts_are_gits(tmp_path_factory, before, after):
    folder = tmp_path_factory.mktemp("diff")
    (folder / "a").write_text("".join(before))
    (folder / "b").write_text("".join(after))
    git = ["git", "diff", "--no-index", "--no-color"]
    patch = subprocess.run([*git, "a", "b"], cwd=folder, capture_output=True, text=True, check=False).stdout
    counts = subprocess.run(
        [*git, "--numstat", "a", "b"], cwd=folder, capture_output=True, text=True, check=False
    ).stdout
    stats = diff_stat(patch)
    assert [[str(one.added), str(one.removed)] for one in stats] == [
        line.split("\t")[:2] for line in counts.splitlines()
    ]


@pytest.mark.parametrize("name", ["plain name.py", "漢字 é.py", 'a "quoted" \\ name', "two\nlines\t.py"])
def test_a_file_is_called_what_it_is_called(tmp_path, name):
    (tmp_path / name).write_text("a\n")
    git = ["git", "-c", "core.quotePath=true"]
    subprocess.run([*git, "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run([*git, "add", "-A"], cwd=tmp_path, check=True)
    patch = subprocess.run([*git, "diff", "--cached"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    [stat] = diff_stat(patch)
    assert (stat.path, stat.added) == (name, 1)
    assert "\n" not in str(stat)


def test_a_binary_file_is_named_as_such():
    patch = "diff --git a/x.bin b/x.bin\nindex 1..2 100644\nGIT binary patch\nliteral 3\nKcmZQzWMT#Y01f~L\n\n"
    assert [str(one) for one in diff_stat(patch)] == ["  x.bin  binary"]


def report(**changes):
    given = {"session_id": "s", "status": Status.DONE, "reason": "2 tests pass", "summary": "", "diff": ""}
    return RunReport(**{**given, **changes})


def test_the_outcome_tells_all():
    diff = "diff --git a/a.py b/a.py\n--- a/a.py\n+++ b/a.py\n@@ -1 +1 @@\n-x\n+y\n"
    text = told_outcome(
        report(
            diff=diff,
            tests_before={"passed": 1, "failed": 1, "exit_code": 1},
            tests_after={"passed": 2, "failed": 0, "exit_code": 0},
            turns=3,
            generated_tokens=10,
            prompt_tokens=1500,
            reused_tokens=1000,
            seconds=2.04,
        )
    )
    for words in (
        "  a.py  +1 -1",
        diff,
        "tests before  1 failed, 1 passed",
        "tests after   2 passed",
        "3 turns, 10 tokens written, 500 read anew, 1,000 reused, 2.0 s",
        "ended         done: 2 tests pass",
        "kodkod fix -r s",
    ):
        assert words in text


def ended(capsys, monkeypatch, *found, is_terminal=False, **options):
    """What is on standard output and standard error once a run that wrote "It adds." is over."""
    for stream in (sys.stdout, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: is_terminal)
    renderer = TextRenderer(**options)
    for event in found:
        renderer.show(event)
    renderer.end(report(summary="It adds.\n"), 0)
    return capsys.readouterr()


def test_an_answer_stands_alone_on_standard_output(capsys, monkeypatch):
    out, err = ended(capsys, monkeypatch, is_answer_alone=True)
    assert out == "It adds.\n"
    assert "\nnothing was changed\n" in err
    out, err = ended(capsys, monkeypatch)
    assert out.startswith("It adds.\n\nnothing was changed\n")
    assert err == "\n"


def test_an_answer_that_was_seen_being_written_is_not_said_again(capsys, monkeypatch):
    written = [events.TurnStarted(1, 9, 99), events.TextDelta("It "), events.TextDelta("adds.")]
    out, err = ended(capsys, monkeypatch, *written, is_terminal=True, is_answer_alone=True)
    assert (out, err.count("It adds.")) == ("", 1)
    out, err = ended(capsys, monkeypatch, *written, is_answer_alone=True)
    assert (out, err.count("It adds.")) == ("It adds.\n", 1)
    more = [*written, events.TurnStarted(2, 9, 99), events.TextDelta("Done.")]
    assert ended(capsys, monkeypatch, *more, is_terminal=True).out.startswith("It adds.\n")


def test_tests_in_words():
    assert told_tests({"passed": 0, "errors": 1, "instead": "run by unittest"}) == "1 error (run by unittest)"
    assert told_tests({"passed": 3, "errors": 1, "cause": "No\x1b[31m module\n'x'"}) == (
        "1 error, 3 passed: No\N{REPLACEMENT CHARACTER}[31m module 'x'"
    )
    assert told_tests({"exit_code": 4, "cause": "broken"}) == "the command ended with exit code 4: broken"
    assert told_tests({"timed_out": True}) == "ran out of time"
    assert told_tests({"exit_code": 3}) == "the command ended with exit code 3"
    assert told_tests({"passed": 0, "failed": 0}) == "none were run"
    assert told_tests({"passed": 0, "failed": 2, "errors": 1, "skipped": 4}) == "2 failed, 1 error, 4 skipped"


def shown(capsys, *found):
    progress = TextProgress()
    for event in found:
        progress.show(event)
    out, err = capsys.readouterr()
    assert out == ""
    return err


def finished(**changes):
    return events.CallFinished(**{"call_id": "c", "name": "shell", "for_model": "", **changes})


def test_one_line_per_call(capsys):
    call = events.CallWritten(ToolCall(id="c", name="shell", arguments={"command": "ls\n -l"}))
    cases = [
        (finished(facts={"exit_code": 2}, duration_s=1.25), "  shell ls -l  exit 2  1.2 s\n"),
        (finished(for_person=FileDiff("a", "", 3, 1)), "  shell ls -l  +3 -1  0.0 s\n"),
        (finished(refused=True, for_model="not run: the user refused: why"), "  shell ls -l  refused: why  0.0 s\n"),
        (finished(error=ErrorCode.NOT_FOUND, for_model="error: gone"), "  shell ls -l  error: gone  0.0 s\n"),
        (
            finished(error=ErrorCode.UNAVAILABLE, for_model="\nRan 0 tests", facts={"not_run": "no pytest"}),
            "  shell ls -l  none were run: no pytest  0.0 s\n",
        ),
        (
            finished(for_person="1 error in 0.4 s [exit code 2]", facts={"errors": 1, "passed": 0, "cause": "no x"}),
            "  shell ls -l  1 error: no x  0.0 s\n",
        ),
        (finished(for_person="4 passed"), "  shell ls -l  4 passed  0.0 s\n"),
    ]
    for event, line in cases:
        assert shown(capsys, call, event) == line
    assert shown(capsys, finished(name="test", for_person="x" * 99)) == f"  test  {'x' * 71}…  0.0 s\n"


def test_prose_is_shown_as_it_comes_and_its_line_is_ended(capsys):
    assert (
        shown(capsys, events.TextDelta("Look"), events.TextDelta("ing"), finished()) == "Looking\n  shell  ok  0.0 s\n"
    )
    assert shown(capsys, events.TextDelta("Done.\n"), events.TurnEnded(1)) == "Done.\n"


_WILD = st.text(st.characters(codec="utf-8"), max_size=30) | st.sampled_from(
    ["\x1b[31m", "[red]x[/red]", "\x9b2J", "\r"]
)


@given(text=_WILD)
@settings(max_examples=60, deadline=None)
def test_nothing_that_was_written_steers_the_terminal(text):
    import contextlib
    import io

    kept = io.StringIO()
    with contextlib.redirect_stderr(kept):
        progress = TextProgress()
        call = ToolCall(id="c", name="shell", arguments={"command": text})
        for event in (events.TextDelta(text), events.CallWritten(call), finished(for_person=text), events.Notice(text)):
            progress.show(event)
    assert not any((ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) < 160 for c in kept.getvalue())
