"""Sessions and their forks as a tree, from real sessions."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from kodkod_agent.errors import SessionNotFound
from kodkod_agent.session_folder import SessionFolder
from kodkod_app.report_text import diff_stat
from kodkod_app.session_branches import read_branches
from kodkod_app.session_shelf import SessionShelf, patch_back
from kodkod_app.session_story import whole_steps
from kodkod_app.tui.history import past_entries

from .session_helpers import FINISH, LOOK, MEND, make_project, record


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return make_project(tmp_path / "project")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "sessions"


def test_forks_hang_at_the_step_they_left(root: Path, project: Path) -> None:
    first = record(root, project, [("mend add", [LOOK, MEND, FINISH]), ("again", [LOOK, FINISH])])
    second = record(root, project, [("differently", [LOOK, FINISH])], fork=(first, 1))
    third = record(root, project, [], fork=(second, 3))
    for asked in (first, second, third):
        top = read_branches(root, asked)
        assert [branch.session_id for branch in top.walk()] == [first, second, third]
        assert [step.number for step in top.steps] == [1, 2, 3, 4, 5]
        assert [step.said for step in top.steps] == [("mend add",), (), (), ("again",), ()]
        assert top.steps[1].calls == ("edit calc.py",)
        assert top.steps[1].reused_tokens > 0
        assert (top.forks[0].forked_at, [step.number for step in top.forks[0].steps]) == (1, [2, 3])
        assert (top.forks[0].forks[0].forked_at, top.forks[0].forks[0].last_step) == (3, 3)


def test_what_going_back_changes_is_told_and_nothing_is_changed(root: Path, project: Path) -> None:
    session_id = record(root, project, [("mend add", [LOOK, MEND, FINISH])])
    (project / "mine.txt").write_text("mine\n")
    before = {path.name: path.read_bytes() for path in project.iterdir() if path.is_file()}
    found = diff_stat(patch_back(SessionFolder.find(root, session_id), 1, project))
    assert {(file.path, file.added, file.removed) for file in found} == {("calc.py", 1, 1), ("mine.txt", 0, 1)}
    assert {path.name: path.read_bytes() for path in project.iterdir() if path.is_file()} == before


def test_a_lost_parent_and_a_damaged_child_leave_the_rest(root: Path, project: Path) -> None:
    first = record(root, project, [("mend add", [LOOK, MEND, FINISH])])
    second = record(root, project, [("on", [LOOK, FINISH])], fork=(first, 1))
    third = record(root, project, [], fork=(second, 2))
    SessionFolder(root / third).journal.write_text("no journal\n\n")
    shutil.rmtree(root / first)
    top = read_branches(root, second)
    assert (top.session_id, top.forked_at) == (second, 1)
    assert [(fork.session_id, fork.status) for fork in top.forks] == [(third, "damaged")]
    with pytest.raises(SessionNotFound):
        read_branches(root, first)
    listed = {one.info.id: one.ending.status for one in SessionShelf(root).sessions()}
    assert listed[third] == "damaged"


def test_a_deleted_session_is_gone_from_the_shelf(root: Path, project: Path) -> None:
    session_id = record(root, project, [("mend add", [LOOK, MEND, FINISH])])
    shelf = SessionShelf(root)
    assert [one.info.id for one in shelf.sessions()] == [session_id]
    shelf.delete(session_id)
    assert shelf.sessions() == []
    with pytest.raises(SessionNotFound):
        shelf.delete(session_id)


def test_a_fork_tells_the_whole_conversation_as_it_was_when_it_left(root: Path, project: Path) -> None:
    first = record(root, project, [("mend add", [LOOK, MEND, FINISH])])
    second = record(root, project, [("differently", [LOOK, FINISH])], fork=(first, 2))
    third = record(root, project, [], fork=(second, 3))
    steps = whole_steps(SessionFolder.find(root, third))
    assert [(step.number, step.said, step.turn.text) for step in steps] == [
        (1, ["mend add"], "I look."),
        (2, [], "I mend it."),
        (3, ["differently"], "I look."),
    ]
    assert len(past_entries(SessionFolder.find(root, third))) == 8, "two things said, three answers, three calls"
    shutil.rmtree(root / first)
    assert [step.number for step in whole_steps(SessionFolder.find(root, third))] == [3]
