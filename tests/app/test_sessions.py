"""`kodkod sessions`, on real sessions."""

from __future__ import annotations

import json
import pwd
import shutil
from pathlib import Path

import numpy as np
import pytest

from kodkod_agent.atif import AtifDocument
from kodkod_agent.config import AgentConfig
from kodkod_agent.errors import SessionBusy
from kodkod_agent.ledger_log import LedgerLog
from kodkod_agent.session_folder import SessionFolder
from kodkod_agent.snapshots import WorkTreeSnapshots
from kodkod_app import paths
from kodkod_app.cli import _run
from kodkod_app.session_shelf import remove_unsaid
from kodkod_engine.kv.segments import SegmentFolder, keys_of

from .session_helpers import (
    FAULTY,
    FINISH,
    LOOK,
    MEND,
    MENDED,
    PYTEST,
    add_tests,
    call,
    git,
    make_project,
    record,
    says,
)

HOSTILE = "\x1b[31mred\x1b]0;owned\x07 [bold]bold[/bold] [/nothing] \x9b2J\r"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(paths.HOME_VARIABLE, str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    return paths.sessions_folder()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return make_project(tmp_path / "project")


@pytest.fixture
def kodkod(capsys, monkeypatch):
    """Runs a command: exit code, standard output, standard error."""

    def run(*arguments: object):
        capsys.readouterr()
        code = _run([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def mended(root: Path, project: Path) -> str:
    return record(root, project, [("mend add", [LOOK, MEND, FINISH])])


def refs(project: Path, session_id: str) -> str:
    return git(project, "for-each-ref", f"refs/kodkod/{session_id}/")


@pytest.mark.parametrize("broken", ["packed-refs", ".git"])
def test_what_git_refuses_leaves_a_session_without_a_word(broken, root, project):
    folder = SessionFolder(root / "20260101-000000-aaaaaa")
    folder.path.mkdir()
    folder.describe(project)
    snapshots = WorkTreeSnapshots(project, folder.path.name, folder=folder.path)
    snapshots.take(1)
    if broken == ".git":
        shutil.rmtree(project / ".git")
        (project / ".git").write_text("gitdir: /nowhere")
    else:
        (project / ".git" / broken).write_text("[")
    remove_unsaid(folder)


def test_a_user_whom_the_machine_does_not_know_needs_no_home(kodkod, project, tmp_path, monkeypatch):
    def unknown(_uid):
        raise KeyError

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setenv(paths.HOME_VARIABLE, str(tmp_path / "home"))
    for variable in ("HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(variable, "")  # so that it is put back afterwards
        monkeypatch.delenv(variable)
    assert kodkod("sessions", "-C", project)[0] == 0
    assert kodkod("trust", "--list")[0] == 0
    assert Path.home() == Path("/")


def test_home_moves_every_folder(root, tmp_path):
    assert root == tmp_path / "home" / "sessions"
    assert paths.cache_folder() == tmp_path / "home" / "cache"


def test_the_latest_session_comes_first_and_others_work_trees_only_with_all(root, project, tmp_path, kodkod):
    other = make_project(tmp_path / "other", with_git=False)
    first, second = mended(root, project), record(root, other, [("just look", [LOOK, FINISH])])
    forked = record(root, project, [("go on", [LOOK, FINISH])], fork=(first, 1))
    code, out, _ = kodkod("sessions", "--all", "--output-format", "json")
    rows = json.loads(out)
    assert code == 0
    assert {row["id"] for row in rows} == {first, second, forked}
    assert [row["id"] for row in rows] == sorted((first, second, forked), reverse=True)
    row = next(row for row in rows if row["id"] == forked)
    assert row["forked_from"] == {"session_id": first, "step": 1}
    assert (row["steps"], row["status"], row["work_tree"]) == (3, "unverified", str(project))
    here = json.loads(kodkod("sessions", "-C", project, "--output-format", "json")[1])
    assert {row["id"] for row in here} == {first, forked}
    assert "just look" not in kodkod("sessions", "list", "-C", project)[1]
    assert f"forked from {first}, step 1" in kodkod("sessions", "list", "-C", project)[1]
    assert "--all" in kodkod("sessions", "-C", tmp_path)[1]


def test_an_id_is_whole_on_a_narrow_terminal(root, project, kodkod, monkeypatch):
    session_id = record(root, project, [("mend add, please, and tell me about it at some length" * 3, [LOOK, FINISH])])
    monkeypatch.setenv("COLUMNS", "80")
    out = kodkod("sessions", "-C", project)[1]
    assert session_id in out
    assert "unverified" in out
    assert all(len(line) <= 80 for line in out.splitlines())


def test_in_a_pipe_nothing_is_cut(root, project, kodkod, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    session_id = record(root, project, [("mend add, please, and tell me about it at some length", [LOOK, FINISH])])
    (line,) = [line for line in kodkod("sessions", "list", "--all")[1].splitlines() if session_id in line]
    assert "tell me about it at some length" in line
    assert line.rstrip().endswith(str(project))


def test_show_tells_steps_calls_outcomes_and_tokens(root, project, kodkod):
    free = AgentConfig(baseline_tests=False, verify=False, constraints=False)  # a tool that there is not
    script = [LOOK, says("", call("explode")), MEND, FINISH]
    session_id = record(root, project, [("mend add", script)], config=free)
    code, out, _ = kodkod("sessions", "show", session_id)
    assert code == 0
    assert 'view(path="calc.py")  [ok]' in out
    assert "explode()  [" in out
    assert "explode()  [ok]" not in out
    shown = json.loads(kodkod("sessions", "show", session_id, "--output-format", "json")[1])
    turns = shown["turns"]
    assert [turn["step"] for turn in turns] == [1, 2, 3, 4]
    assert turns[0]["user"] == ["mend add"]
    assert turns[0]["reused_tokens"] == 0
    assert turns[1]["reused_tokens"] > turns[1]["new_tokens"]
    assert turns[2]["calls"][0]["arguments"]["new"] == "return a + b"


def test_tests_are_told(root, project, kodkod):
    add_tests(project)
    config = AgentConfig(baseline_tests=True)
    session_id = record(root, project, [("mend add", [MEND, FINISH])], config=config, tools=PYTEST)
    _, out, _ = kodkod("sessions", "show", session_id)
    assert "tests before: 0 passed, 1 failed" in out
    assert "tests after: 1 passed, 0 failed" in out
    assert "done" in kodkod("sessions", "-C", project)[1]


def test_nothing_hostile_reaches_the_terminal(root, project, kodkod):
    (project / "evil.txt").write_text(HOSTILE)
    turn = says(HOSTILE, call("view", path="evil.txt"), call(HOSTILE, path=HOSTILE))
    session_id = record(root, project, [(f"{HOSTILE}\n# title", [turn, FINISH])])
    (project / f"n{HOSTILE[:4]}.txt").write_text("new")
    for arguments in (
        ("-C", project),
        ("list", "--all"),
        ("show", session_id),
        ("show", session_id, "--output-format", "json"),
        ("export", session_id),
        ("export", session_id, "--format", "atif"),
        ("export", session_id, "--format", "jsonl"),
        ("rewind", session_id, "0", "--yes"),
    ):
        code, out, err = kodkod("sessions", *arguments)
        assert code == 0
        assert not [sign for sign in out + err if (ord(sign) < 32 and sign not in "\n\t") or 127 <= ord(sign) < 160]
    assert "[bold]bold[/bold] [/nothing]" in kodkod("sessions", "-C", project)[1]


def test_rewind_says_what_changes_asks_and_puts_files_and_conversation_back(root, project, kodkod, monkeypatch):
    session_id = mended(root, project)
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda _: "n")
    code, out, _ = kodkod("sessions", "rewind", session_id, 1)
    assert code == 130
    assert "steps 2 to 3 are dropped" in out
    assert "  calc.py\n" in out
    assert (project / "calc.py").read_text() == MENDED
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda _: "y")
    head = git(project, "rev-parse", "HEAD")
    assert kodkod("sessions", "rewind", session_id, 1)[0] == 0
    assert (project / "calc.py").read_text() == FAULTY
    assert git(project, "rev-parse", "HEAD") == head
    shown = json.loads(kodkod("sessions", "show", session_id, "--output-format", "json")[1])
    assert [turn["step"] for turn in shown["turns"]] == [1]


@pytest.mark.parametrize("with_git", [True, False])
def test_rewind_needs_no_question_with_yes(root, tmp_path, kodkod, with_git):
    project = make_project(tmp_path / "tree", with_git=with_git)
    session_id = mended(root, project)
    assert kodkod("sessions", "rewind", session_id, 0, "--yes")[0] == 0
    assert (project / "calc.py").read_text() == FAULTY


def test_what_cannot_be_rewound(root, project, kodkod):
    session_id = mended(root, project)
    code, _, err = kodkod("sessions", "rewind", session_id, 9, "--yes")
    assert (code, "has no step 9; it has 0, 1, 2, 3" in err) == (2, True)
    with SessionFolder.find(root, session_id).locked():
        code, _, err = kodkod("sessions", "rewind", session_id, 1, "--yes")
    assert (code, "open elsewhere" in err) == (SessionBusy.exit_code, True)
    shutil.rmtree(project)
    code, _, err = kodkod("sessions", "rewind", session_id, 1, "--yes")
    assert (code, "is gone" in err) == (1, True)


def test_that_a_conversation_was_shortened_is_told_with_its_summary(root, project, kodkod):
    (project / "long.txt").write_text("all work and no play\n" * 270)
    turns = [LOOK, says("", call("view", path="long.txt")), says("I looked."), MEND, FINISH]
    session_id = record(root, project, [("read it", turns)], context_tokens=24_000)
    assert ": I looked." in kodkod("sessions", "show", session_id)[1]
    shown = json.loads(kodkod("sessions", "show", session_id, "--output-format", "json")[1])
    (told,) = [each for turn in shown["turns"] for each in turn["shortened"]]
    assert told["summary"] == "I looked."
    assert told["tokens_after"] < told["tokens_before"]
    assert "tokens\n\nI looked.\n\n" in kodkod("sessions", "export", session_id)[1]


def test_exports(root, project, tmp_path, kodkod):
    (project / "fences.md").write_text("````\n```\n")
    session_id = record(root, project, [("mend\nadd", [LOOK, says("", call("view", path="fences.md")), MEND, FINISH])])
    code, out, _ = kodkod("sessions", "export", session_id)
    assert code == 0
    assert out.startswith("# mend add\n")
    assert "> mend\n> add" in out
    assert "\n`````\n" in out
    place = tmp_path / "told.json"
    assert kodkod("sessions", "export", session_id, "--format", "atif", "-o", place)[0] == 0
    document = AtifDocument.model_validate_json(place.read_bytes())
    assert document.schema_version == "ATIF-v1.8"
    assert [step.step_id for step in document.steps] == list(range(1, len(document.steps) + 1))
    lines = kodkod("sessions", "export", session_id, "--format", "jsonl")[1]
    assert lines.encode() == SessionFolder.find(root, session_id).trajectory.read_bytes()
    code, _, err = kodkod("sessions", "export", session_id, "-o", tmp_path / "none" / "x.md")
    assert (code, "cannot be written" in err) == (1, True)


def test_delete_takes_the_hidden_references_along(root, project, kodkod):
    session_id, other = mended(root, project), mended(root, project)
    assert refs(project, session_id)
    assert kodkod("sessions", "delete", session_id, "--yes")[0] == 0
    assert not refs(project, session_id)
    assert refs(project, other)
    assert not (root / session_id).exists()
    code, _, err = kodkod("sessions", "show", session_id)
    assert (code, "list them with `kodkod sessions`" in err) == (2, True)


@pytest.mark.parametrize("is_elsewhere", [False, True])
def test_delete_takes_what_the_model_computed_of_it_along(root, project, kodkod, tmp_path, monkeypatch, is_elsewhere):
    session_id, model, kept = mended(root, project), "0" * 24, paths.kv_folder()
    if is_elsewhere:
        kept = tmp_path / "elsewhere"
        monkeypatch.setenv("KODKOD_ENGINE__KV_FOLDER", str(kept))
    (token_ids,) = LedgerLog(SessionFolder.find(root, session_id).ledger).all_tokens()
    others = [99, *token_ids]
    folder = SegmentFolder(kept, model, 1 << 20)
    for key in (*keys_of(token_ids), *keys_of(others)):
        folder.write(key, np.zeros(8, np.uint8))
    assert kodkod("sessions", "delete", session_id, "--yes")[0] == 0
    assert {path.name for path in (kept / model).iterdir()} == {key.hex() for key in keys_of(others)}


@pytest.mark.parametrize("bad", ["..", "../x", "a/b", "", "."])
def test_an_id_is_never_a_path(root, project, kodkod, bad):
    mended(root, project)
    assert kodkod("sessions", "delete", "--yes", "--", bad)[0] == 2
    assert list(root.iterdir())


def test_damaged_sessions_stop_nobody(root, project, kodkod):
    torn, lost, good = mended(root, project), mended(root, project), mended(root, project)
    SessionFolder.find(root, torn).journal.write_text("nonsense\n")
    (root / lost / "session.json").write_text("{")
    code, out, err = kodkod("sessions", "-C", project)
    assert code == 0
    assert good in out
    assert "damaged" in out
    assert err.startswith(f"kodkod: {root / lost / 'session.json'} cannot be read (")
    assert err.endswith(f"); restore it, or remove the session with `kodkod sessions delete {lost}`\n")
    code, _, err = kodkod("sessions", "show", torn)
    assert (code, "cannot be read" in err, err.count("\n")) == (1, True, 1)
    for session_id in (torn, lost):
        assert kodkod("sessions", "delete", session_id, "--yes")[0] == 0
    assert [path.name for path in root.iterdir()] == [good]


def test_a_narrow_terminal_is_told_how_sessions_ended_and_what_they_are(root, project, kodkod, monkeypatch):
    session_id = mended(root, project)
    monkeypatch.setenv("COLUMNS", "50")
    _, out, _ = kodkod("sessions", "-C", project)
    head, line = out.splitlines()
    assert head.split() == ["id", "ended", "title"]
    assert line.split()[:2] == [session_id, "unverified"]
    assert len(line.split()) > 2
    assert max(map(len, (head, line))) <= 50


def test_a_torn_trajectory_is_shown_to_its_last_whole_line(root, project, kodkod):
    session_id = mended(root, project)
    with SessionFolder.find(root, session_id).trajectory.open("ab") as file:
        file.write(b'{"number":')
    assert kodkod("sessions", "show", session_id)[0] == 0
    assert kodkod("sessions", "export", session_id, "--format", "jsonl")[1].endswith("}\n")
