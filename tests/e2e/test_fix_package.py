"""A fault in a published package, mended by the command: a recorded model, real boxes, real tests."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time

import psutil
import pytest

from kodkod_sandbox import bubblewrap, landlock

from .conftest import EDIT, FAULTY, FILE, FINISH, SOUND, TARGET, Call, command, files_of, git, turn, users_git

BOXES = [
    pytest.param("landlock", marks=pytest.mark.skipif(landlock.missing() is not None, reason=str(landlock.missing()))),
    pytest.param(
        "bubblewrap", marks=pytest.mark.skipif(bubblewrap.missing() is not None, reason=str(bubblewrap.missing()))
    ),
    pytest.param("docker", marks=pytest.mark.docker),
]
REPRODUCE = "from more_itertools import prepend; print(list(prepend(0, [1, 2])))"
TURNS = (
    turn(
        "I look at the state of things.",
        Call("git", {"action": "status"}),
        Call("search", {"pattern": "def prepend"}),
    ),
    turn("I reproduce it.", Call("shell", {"command": f"python3 -c '{REPRODUCE}'"})),
    turn("The value goes last; it belongs first.", EDIT),
    turn("", FINISH),
)


@pytest.mark.parametrize("box", BOXES)
def test_from_failing_to_passing(repository, record, box, monkeypatch):
    # The base image has Python by this name alone, and no pytest: the tests are run by unittest there.
    monkeypatch.setenv("KODKOD_TOOLS__TEST_COMMAND", '["python3", "-m", "pytest"]')
    files, of_git = files_of(repository), users_git(repository)
    found = subprocess.run(
        command("fix", "-C", repository, "-m", record(*TURNS), "--sandbox", box, "--failing-test", TARGET,
                "--output-format", "stream-json"),
        capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout + found.stderr
    *entries, result = [json.loads(line) for line in found.stdout.splitlines()]
    assert entries[0]["sandbox"] == box
    assert (result["tests_before"]["failed"], result["tests_after"]["failed"]) == (2, 0)
    assert result["tests_after"]["passed"] > 2, "the neighbours were run as well"
    outcomes = [block for entry in entries if entry["type"] == "user" for block in entry["message"]["content"]]
    assert [block["is_error"] for block in outcomes] == [False] * 5, outcomes
    assert "[1, 2, 0]" in outcomes[2]["content"]

    now = files_of(repository)
    assert {path for path in files.keys() | now.keys() if files.get(path) != now.get(path)} == {FILE}
    assert SOUND in (repository / FILE).read_text()
    assert users_git(repository) == of_git
    assert result["diff"].count("diff --git") == 1
    assert f"-{FAULTY}+{SOUND}" in result["diff"]


def test_the_patch_is_the_work_trees(repository, record, tmp_path):
    """The patch, put on the tree as it was, gives the tree as it is: also for what a shell command did."""
    before = tmp_path / "before"
    shutil.copytree(repository, before, symlinks=True)
    changes = (
        "printf 'x\\r\\n' > crlf.txt; mkdir -p new/deep; echo y > 'new/deep/a b.txt'; rm tox.ini; chmod +x setup.py"
    )
    turns = (turn("", Call("shell", {"command": changes}), EDIT), turn("", FINISH))
    found = subprocess.run(
        command("fix", "-C", repository, "-m", record(*turns), "--sandbox", "landlock", "--failing-test", TARGET,
                "--output-format", "json"),
        capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout + found.stderr
    patch = json.loads(found.stdout)["diff"]
    subprocess.run(["git", "apply", "-"], input=patch.encode(), cwd=before, check=True)
    assert files_of(before) == files_of(repository)
    assert git(before, "diff") == git(repository, "diff")


SLOW_S = 3_418
"""A sleep that no other process has."""


def test_killed_in_the_middle_and_resumed(repository, record):
    # The slow command is slow the first time alone: what is ignored is not put back.
    slow = f"echo once >> counted.txt; test -e ignored/started || {{ touch ignored/started; sleep {SLOW_S}; }}"
    turns = (turn("I begin.", EDIT), turn("Now a slow thing.", Call("shell", {"command": slow})), turn("", FINISH))
    of_git = users_git(repository)
    words = command("fix", "-C", repository, "-m", record(*turns), "--sandbox", "landlock", "--failing-test", TARGET,
                    "--output-format", "stream-json")  # fmt: skip
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        session_id = json.loads(process.stdout.readline())["session_id"]
        wait_for(sleeping)
        process.send_signal(signal.SIGKILL)
    wait_for(lambda: not sleeping())
    assert users_git(repository) == of_git

    found = subprocess.run(
        command("fix", "-r", session_id, "--output-format", "json"),
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    result = json.loads(found.stdout)
    assert (result["session_id"], result["status"]) == (session_id, "done")
    assert result["tests_after"]["passed"] > 2, "the neighbours were run as well"
    assert (repository / "counted.txt").read_text() == "once\n"
    assert result["diff"].count(f"+{SOUND}") == 1
    assert users_git(repository) == of_git


def sleeping():
    """Whether the slow command runs."""
    for process in psutil.process_iter():
        try:
            if process.cmdline() == ["sleep", str(SLOW_S)]:
                return True
        except psutil.Error:
            continue
    return False


def wait_for(condition, timeout_s=60):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.05)
