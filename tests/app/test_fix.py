"""`kodkod fix` and `kodkod -p` as a person uses them: what comes out, and every exit code."""

from __future__ import annotations

import errno
import io
import json
import os
import sys
from pathlib import Path

import pytest

from kodkod_agent.session_folder import list_sessions
from kodkod_app import paths
from kodkod_sandbox.choose import SandboxKind
from kodkod_sandbox.errors import SandboxLost, SandboxUnavailable

from .conftest import FAULTY, FINISH, LOOK, MEND, MENDED, git, shell, turn

PLAIN = ("--sandbox", "none", "--permission-mode", "bypassPermissions")


@pytest.fixture
def fix(kodkod, project, record):
    """Runs `kodkod fix` on the project with a recording."""

    def run(turns, *arguments, issue="add subtracts"):
        said = ("--issue", issue) if issue else ()
        return kodkod("fix", "-C", project, "-m", record(*turns), *PLAIN, *said, *arguments)

    return run


# Help


@pytest.mark.parametrize("arguments", [("fix", "--help"), ("-p", "hi", "--help")])
def test_help_tells_of_trust_exit_codes_and_recordings(kodkod, arguments):
    found = kodkod(*arguments)
    told = " ".join(found.out.split())
    assert found.code == 0
    for words in ("script:FILE", "--allow-build-network", "--permission-mode", "trust", "--fork"):
        assert words in told
    assert "124 limit reached" in " ".join(kodkod("fix", "--help").out.split())
    assert "-p, --print PROMPT" in kodkod("--help").out


# The ways a run ends


def test_done_is_0_and_the_report_is_the_answer(fix, project):
    found = fix([LOOK, MEND, FINISH])
    assert found.code == 0
    assert (project / "calc.py").read_text() == MENDED
    assert found.out.startswith("add adds\n")
    assert "-    return a - b\n+    return a + b\n" in found.out
    assert "  calc.py  +1 -1" in found.out
    assert "edit calc.py  +1 -1" in found.err
    assert "Mend it." in found.err
    (info,) = list_sessions(paths.sessions_folder())
    assert f"kodkod fix -r {info.id}" in found.out


def test_the_model_is_kept_with_the_session_so_that_replay_and_rewind_need_not_be_told(fix, kodkod, record):
    fix([LOOK, MEND, FINISH])
    (info,) = list_sessions(paths.sessions_folder())
    shown = json.loads(kodkod("sessions", "show", info.id, "--output-format", "json").out)
    assert shown["model"] == record(LOOK, MEND, FINISH)


def test_finished_but_not_verified_is_3(fix):
    found = fix([turn("", ("write", {"path": "notes.txt", "content": "n"})), *[FINISH] * 3])
    assert found.code == 3
    assert "ended         unverified" in found.out


def test_a_limit_is_124(fix):
    found = fix([LOOK, LOOK, LOOK], "--max-turns", 2)
    assert (found.code, "ended         limit" in found.out) == (124, True)


def test_a_recording_that_is_over_is_a_fault_and_is_reported(fix):
    found = fix([LOOK])
    assert found.code == 2  # RequestError: the request cannot be served as it stands
    assert "ended         fault: the script has no answer" in found.out
    assert found.err.splitlines()[-1].startswith("kodkod: the script has no answer")


def test_a_box_that_is_lost_is_5_and_is_reported(fix, monkeypatch):
    def lost(*_, **__):
        raise SandboxLost("the box is gone")

    monkeypatch.setattr("kodkod_sandbox.none.NoSandbox.exec_stream", lost)
    found = fix([MEND, FINISH])
    assert found.code == 5
    assert "ended         fault: the box is gone" in found.out


def test_no_box_is_5(fix, monkeypatch):
    async def refuse(kind, *_, **__):
        raise SandboxUnavailable(f"no {kind} here")

    monkeypatch.setattr("kodkod_app.boxes.open_sandbox", refuse)
    found = fix([FINISH], "--sandbox", SandboxKind.AUTO)
    assert (found.code, found.out) == (5, "")
    assert found.err.startswith("kodkod: no box can be had here")


@pytest.mark.parametrize("model", [None, "/nowhere", "script:/nowhere.jsonl"])
def test_no_model_is_4_and_one_line_that_says_how_to_give_one(kodkod, project, model, monkeypatch):
    monkeypatch.setattr("kodkod_app.bootstrap.bundled_model", lambda: None)
    given = ("-m", model) if model else ()
    found = kodkod("fix", "-C", project, "--issue", "x", *given)
    assert (found.code, found.out) == (4, "")
    assert found.err.startswith("kodkod: ")
    assert found.err.count("\n") == 1
    assert "-m DIR" in found.err or "script:FILE" in found.err


def test_a_folder_that_is_no_checkpoint_is_4(kodkod, project):
    found = kodkod("fix", "-C", project, "--issue", "x", "-m", project, *PLAIN)
    assert found.code == 4
    assert "config.json" in found.err


def test_a_recording_that_cannot_be_read_is_4(kodkod, project, tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n\n{"calls": [{"nam": 1}]}\n')
    found = kodkod("fix", "-C", project, "--issue", "x", "-m", f"script:{tmp_path / 'bad.jsonl'}", *PLAIN)
    assert found.code == 4
    assert "line 3: calls.0.name: Field required" in found.err


# Usage


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "nothing to do"),
        (("--issue", " "), "the issue is empty"),
        (("--issue", "a", "--issue-file", "-"), "exclude each other"),
        (("--issue", "a", "-C", "/nowhere"), "is not a folder"),
        (("--issue", "a", "-C", "~nobody-of-this-name/x"), "is not a folder"),
        (("--issue", "a", "--env", "~nobody-of-this-name/x"), "is no Python environment"),
        (("--issue", "a", "--fork"), "--fork goes with"),
        (("-c", "-r", "x"), "exclude each other"),
        (("-c",), "no session has worked on"),
        (("-r", "x"), "no session 'x'"),
        (("--issue", "a", "--max-turns", "0"), "the command line: agent.max_turns"),
        (("--issue", "a", "--env", "/nowhere"), "no Python environment"),
        (("--issue", "a", "--sandbox", "strong"), "is not one of"),
        (("--issue-file", "/nowhere"), "No such file"),
        (("--issue-file", "latin-1.txt"), "--issue-file latin-1.txt is no UTF-8 text (byte 3)"),
    ],
)
def test_wrong_usage_is_2_and_says_why(kodkod, project, record, monkeypatch, arguments, told):
    monkeypatch.chdir(project)
    (project / "latin-1.txt").write_bytes(b"caf\xe9\n")
    found = kodkod("fix", "-m", record(FINISH), *arguments)
    assert (found.code, found.out) == (2, "")
    assert told in found.err


def test_a_file_is_not_a_project(kodkod, project, record):
    found = kodkod("fix", "-C", project / "calc.py", "--issue", "x", "-m", record())
    assert (found.code, "is not a folder" in found.err) == (2, True)


def test_bad_settings_are_2(fix, project):
    (project / ".kodkod" / "config.toml").write_text("[agent]\nmax_turn = 3\n")
    found = fix([FINISH])
    assert found.code == 2
    assert found.err.endswith("config.toml: agent.max_turn: there is no such setting; correct or remove it\n")


def test_a_session_whose_project_is_gone_says_how_to_go_on(kodkod, project, record, fix, tmp_path):
    fix([MEND, FINISH])
    (info,) = list_sessions(paths.sessions_folder())
    project.rename(tmp_path / "moved")
    found = kodkod("fix", "-r", info.id, "--issue", "x", "-m", record(FINISH), *PLAIN)
    assert (found.code, found.out) == (2, "")
    assert f"{project}, where session {info.id} worked, is gone" in found.err
    assert "-C DIR --fork" in found.err
    turns = record(MEND, FINISH, FINISH)
    again = kodkod("fix", "-r", info.id, "-C", tmp_path / "moved", "--fork", "--issue", "x", "-m", turns, *PLAIN)
    assert f"work tree {tmp_path / 'moved'}" in again.err


def test_a_home_that_cannot_be_made_is_one_line(kodkod, project, record, monkeypatch):
    monkeypatch.setenv(paths.HOME_VARIABLE, "/proc/kodkod")
    found = kodkod("fix", "-C", project, "--issue", "x", "-m", record(FINISH), *PLAIN)
    assert (found.code, found.out) == (1, "")
    assert found.err.splitlines()[-1].startswith("kodkod: /proc/kodkod/sessions cannot be made (")
    assert "KODKOD_HOME" in found.err
    assert "Traceback" not in found.err


def test_a_full_disk_is_one_line(kodkod, project, record, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", "/there/journal.jsonl")

    monkeypatch.setattr("kodkod_app.headless.open_session", full)
    found = kodkod("fix", "-C", project, "--issue", "x", "-m", record(FINISH), *PLAIN)
    assert (found.code, found.out) == (1, "")
    assert found.err.splitlines()[-1] == (
        "kodkod: /there/journal.jsonl: No space left on device; make room or allow it, then try again"
    )


def test_tests_that_cannot_be_run_verify_nothing(fix, kodkod, project):
    (project / ".kodkod" / "config.toml").write_text(
        f'[tools]\ntest_command = ["{sys.base_prefix}/bin/python3", "-I", "-S", "-m", "pytest"]\n'
    )
    found = fix([MEND, *[FINISH] * 3])
    why = "pytest is not installed in the sandbox's Python, and unittest found no tests"
    assert found.code == 3
    assert f"tests before  none were run: {why}" in found.out
    assert f"ended         unverified: no tests were run: {why}" in found.out
    (info,) = list_sessions(paths.sessions_folder())
    assert f"tests after: none were run: {why}" in kodkod("sessions", "show", info.id).out


# What is asked for


def test_the_issue_may_come_from_a_file_and_tests_are_named_in_the_prompt(fix, kodkod, project, tmp_path):
    (tmp_path / "issue.md").write_text("add should add\n")
    found = fix(
        [MEND, FINISH], "--issue-file", tmp_path / "issue.md", "--failing-test", "test_calc.py::test_add", issue=None
    )
    assert found.code == 0
    (info,) = list_sessions(paths.sessions_folder())
    assert info.title.startswith("Solve this issue in the project: add should add These tests fail.")
    kept = json.loads((paths.sessions_folder() / info.id / "asked.json").read_text())
    assert kept["agent"]["test_targets"] == ["test_calc.py::test_add"]


@pytest.mark.parametrize("wrong", ["test_calc.py::test_ad", "test_clac.py"])
def test_a_named_test_that_does_not_fail_is_told_before_the_first_turn(fix, project, wrong):
    command = [sys.executable, "-m", "pytest", "--disable-plugin-autoload", "-p", "no:cacheprovider"]
    (project / ".kodkod" / "config.toml").write_text(f"[tools]\ntest_command = {json.dumps(command)}\n")
    found = fix([MEND, *[FINISH] * 3], "--failing-test", wrong)
    note = f"note: {wrong} does not fail, or there is no such test"
    assert found.err.index(note) < found.err.index("  edit ")


def test_without_pytest_no_test_is_said_not_to_fail(fix, project):
    """unittest has other names for them: nothing is known of the one that was named."""
    python = f"{sys.base_prefix}/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    command = [python, "-S", "-m", "pytest"]
    (project / ".kodkod" / "config.toml").write_text(f"[tools]\ntest_command = {json.dumps(command)}\n")
    (project / "test_calc.py").write_text(
        "import unittest\n\n\nclass T(unittest.TestCase):\n    def test_add(self):\n        self.fail()\n"
    )
    found = fix([*[FINISH] * 4], "--failing-test", "test_calc.py::T::test_add")
    assert "tests before: 1 failed (run by unittest, for pytest is not installed)" in found.err
    assert "does not fail, or there is no such test" not in found.err


def test_what_would_be_asked_is_refused_and_the_model_is_told_why(kodkod, project, record):
    turns = [shell("cat /etc/passwd"), MEND, FINISH]
    found = kodkod(
        "fix",
        "-C",
        project,
        "-m",
        record(*turns),
        "--sandbox",
        "none",
        "--issue",
        "x",
        "--output-format",
        "stream-json",
    )
    assert found.code == 0
    entries = [json.loads(line) for line in found.out.splitlines()]
    (refused,) = [
        block["content"]
        for entry in entries
        if entry["type"] == "user"
        for block in entry["message"]["content"]
        if block["is_error"]
    ]
    assert refused.startswith("not run: the user refused: cat /etc/passwd")
    assert "nobody is there to ask" in refused


def test_the_users_branch_index_and_stash_are_left_alone(fix, project):
    (project / "more.txt").write_text("staged\n")
    git(project, "add", "more.txt")
    before = (project / ".git" / "index").read_bytes()
    assert fix([MEND, FINISH]).code == 0
    assert (project / ".git" / "index").read_bytes() == before
    assert git(project, "status", "--porcelain") == " M calc.py\nA  more.txt\n"
    assert git(project, "branch", "--format=%(refname)") == "refs/heads/main\n"


# Going on


def test_a_session_goes_on_with_all_that_was_said(fix, kodkod, project):
    assert fix([LOOK, MEND, FINISH], "--max-turns", 1).code == 124
    assert (project / "calc.py").read_text() == FAULTY
    found = kodkod("fix", "-C", project, "-c", "--issue", "go on", "--max-turns", 9)
    assert found.code == 0, found.err
    assert (project / "calc.py").read_text() == MENDED
    (info,) = list_sessions(paths.sessions_folder())
    ended = kodkod("fix", "-r", info.id)
    assert ended.code == 2
    assert "has ended; say what to do next" in ended.err


@pytest.mark.parametrize(
    ("limit", "setting"),
    [(("--max-turns", 1), "max_turns"), (("--max-tokens", 1), "max_tokens"), (("--timeout", 0.0001), "timeout_s")],
)
def test_what_a_limit_ended_goes_on_as_its_report_says(limit, setting, fix, kodkod, project):
    ended = fix([LOOK, MEND, FINISH], *limit)
    (info,) = list_sessions(paths.sessions_folder())
    assert ended.out.splitlines()[-1] == f"go on with    kodkod fix -r {info.id}"
    assert f"used up; give more by agent.{setting} ({limit[0]})" in ended.out
    found = kodkod("fix", "-r", info.id, limit[0], 900)
    assert found.code == 0, found.err
    assert (project / "calc.py").read_text() == MENDED
    assert found.out.splitlines()[-1] == f"go on with    kodkod fix -r {info.id} --issue TEXT"


def test_what_was_changed_before_a_limit_counts_when_it_goes_on(fix, kodkod, project):
    assert fix([MEND, LOOK, FINISH], "--max-turns", 1).code == 124
    (info,) = list_sessions(paths.sessions_folder())
    found = kodkod("fix", "-r", info.id, "--max-turns", 9)
    assert found.code == 0, found.out
    assert "nothing was changed" not in found.out
    assert "+    return a + b" in found.out
    assert (project / "calc.py").read_text() == MENDED
    again = kodkod("replay", info.id)
    assert again.code == 0, again.out + again.err


def test_a_prompt_can_come_through_a_pipe(kodkod, project, record, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("Où est add?\n".encode())))
    assert kodkod("-p", "-", "-C", project, "-m", record({"text": "In calc."})).code == 0
    (info,) = list_sessions(paths.sessions_folder())
    assert info.title == "Où est add?"
    for given, cause in ((b" \n", "the prompt is empty"), (b"caf\xe9", "standard input is no UTF-8 text (byte 3)")):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(given)))
        refused = kodkod("-p", "-", "-C", project)
        assert (refused.code, cause in refused.err) == (2, True)


def test_a_question_that_a_limit_ended_is_still_one_when_it_goes_on(kodkod, project, record):
    model = record(LOOK, {"text": "It subtracts."})
    assert kodkod("-p", "what does add do?", "-C", project, "-m", model, "--max-turns", 1).code == 124
    (info,) = list_sessions(paths.sessions_folder())
    found = kodkod("fix", "-r", info.id, "--max-turns", 9)
    assert (found.code, found.out.splitlines()[0]) == (0, "It subtracts."), found.err


def test_a_fork_leaves_the_session_as_it_is(fix, kodkod, project):
    assert fix([LOOK, MEND, FINISH], "--max-turns", 1).code == 124
    (first,) = list_sessions(paths.sessions_folder())
    found = kodkod("fix", "-r", first.id, "--fork", "--issue", "go on", "--max-turns", 9)
    assert found.code == 0, found.err
    infos = list_sessions(paths.sessions_folder())
    assert [info.forked_from and info.forked_from.session_id for info in infos] in ([first.id, None], [None, first.id])


def test_a_session_stays_with_its_project(fix, kodkod, tmp_path):
    assert fix([LOOK], "--max-turns", 1).code == 124
    (info,) = list_sessions(paths.sessions_folder())
    found = kodkod("fix", "-r", info.id, "-C", tmp_path, "--issue", "x")
    assert (found.code, "--fork" in found.err) == (2, True)


# -p


def test_an_answer_in_words_is_an_end(kodkod, project, record):
    found = kodkod("-p", "why?", "-C", project, "-m", record(turn("It subtracts.")), *PLAIN)
    assert found.code == 0
    assert found.out == "It subtracts.\n"
    (info,) = list_sessions(paths.sessions_folder())
    assert "\nnothing was changed\n" in found.err
    assert "\ncost          1 turn, " in found.err
    assert found.err.endswith(f"\ngo on with    kodkod -p TEXT -r {info.id}\n")


def test_options_may_come_before_the_prompt(kodkod, project, record):
    found = kodkod("-m", record(MEND, FINISH), "-C", project, *PLAIN, "--output-format", "json", "--print=mend it")
    assert found.code == 0, found.err
    assert json.loads(found.out)["status"] == "done"
    assert (project / "calc.py").read_text() == MENDED


def test_an_empty_prompt_is_2(kodkod):
    assert kodkod("-p", " ").code == 2


def test_a_prompt_that_is_no_utf_8_is_taken_with_signs_in_place_of_its_bytes(kodkod, home, project, record):
    assert kodkod("-p", "caf\udce9", "-C", project, "-m", record(turn("Yes.")), "--sandbox", "none").code == 0
    assert [info.title for info in list_sessions(paths.sessions_folder())] == ["caf\N{REPLACEMENT CHARACTER}"]


def test_a_session_whose_options_cannot_be_kept_is_closed(kodkod, home, project, record, monkeypatch):
    write, closed = Path.write_text, []

    def full(path, *rest, **options):
        if path.name == "asked.json":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, *rest, **options)

    async def close(session):
        closed.append(session)

    monkeypatch.setattr(Path, "write_text", full)
    monkeypatch.setattr("kodkod_agent.session.Session.close", close)
    assert kodkod("-p", "hi", "-C", project, "-m", record(turn("Yes.")), "--sandbox", "none").code == 1
    assert len(closed) == 1
