"""Forks and rewinds that are killed on the way: either nothing was begun, or opening the session ends it."""

import os
import shutil
import time

import pytest

from kodkod_agent.forks import make_fork
from kodkod_agent.session import Session
from kodkod_agent.session_folder import SessionFolder, list_sessions
from kodkod_agent.snapshots import WorkTreeSnapshots

from .conftest import FAULTY, FINISH, MEND, MENDED, all_events, call, git, says

SCRIPT = [says("", call("view", path="calc.py")), says("", MEND), says("", FINISH)]


class Killed(BaseException):
    """As if the process had ended here."""


@pytest.fixture
async def parent(setup_of, root):
    async with await Session.create(root, setup_of(SCRIPT)) as session:
        await all_events(session, "mend add")
        return session.id


def killed(*_, **__):
    raise Killed


@pytest.mark.parametrize("place", ["shutil.copytree", "kodkod_agent.journal.Journal.add"])
async def test_a_fork_killed_before_it_is_a_session_is_none(parent, setup_of, root, project, monkeypatch, place):
    with monkeypatch.context() as patch:
        patch.setattr(place, killed)
        with pytest.raises(Killed):
            await Session.fork(root, parent, 1, setup_of([]))
    assert [info.id for info in list_sessions(root)] == [parent]
    assert (project / "calc.py").read_text() == MENDED
    (half,) = (path for path in root.iterdir() if path.name != parent)
    SessionFolder.make(root)
    assert half.exists()  # it may be on its way
    os.utime(half, (time.time() - 7200,) * 2)
    SessionFolder.make(root)
    assert not half.exists()


def test_nothing_else_is_ever_cleared_away(root):
    folder = SessionFolder.make(root)
    folder.trajectory.touch()
    (root / "notes").mkdir()
    for path in root.iterdir():
        os.utime(path, (0, 0))
    SessionFolder.make(root)
    assert folder.path.exists()
    assert (root / "notes").exists()


def kill_at(place, patch):
    if place == "after":
        patch.setattr("kodkod_agent.runs.Runs.place", killed)
    else:
        patch.setattr(WorkTreeSnapshots, place, killed)


@pytest.mark.parametrize("place", ["take", "restore", "after"])
async def test_a_fork_killed_on_its_way_arrives_when_it_is_opened(parent, setup_of, root, project, monkeypatch, place):
    (project / "mine.txt").write_text("the person's\n")
    with monkeypatch.context() as patch:
        kill_at(place, patch)
        with pytest.raises(Killed):
            await Session.fork(root, parent, 1, setup_of([]))
    (forked,) = (info.id for info in list_sessions(root) if info.id != parent)
    async with await Session.resume(root, forked, setup_of([says("", FINISH)])) as session:
        assert (project / "calc.py").read_text() == FAULTY
        assert session.steps == [1]
        assert not await session.is_unfinished()
        before = len(session.ledger)
        found = await all_events(session, "go on")
        assert before < len(session.ledger)
    assert found[-1].report.summary == "add adds"
    kept = WorkTreeSnapshots(project, forked, folder=root / forked)
    shown = [kept.diff(one.id, other.id) for one in kept.list() for other in kept.list()]
    assert any("mine.txt" in text for text in shown)  # what was there is on record


async def test_a_fork_that_was_never_opened_arrives(parent, setup_of, root, project, tokenizer):
    folder = make_fork(root, parent, 1, tokenizer, project)
    shutil.rmtree(root / parent)
    assert (project / "calc.py").read_text() == MENDED
    async with await Session.resume(root, folder.path.name, setup_of([])) as session:
        assert (project / "calc.py").read_text() == FAULTY
        assert session.steps == [1]


async def test_a_fork_needs_nothing_of_a_session_that_is_deleted(parent, setup_of, root, project):
    async with await Session.fork(root, parent, 2, setup_of([])) as session:
        forked, before = session.id, (await session.last_report()).diff
    WorkTreeSnapshots(project, parent, folder=root / parent).drop_session()
    git(project, "prune", "--expire=now")
    async with await Session.resume(root, forked, setup_of([])) as session:
        assert (await session.last_report()).diff == before != ""
        (project / "calc.py").write_text("")
        await session.rewind(2)
    assert (project / "calc.py").read_text() == MENDED


@pytest.mark.parametrize("place", ["take", "restore", "after"])
async def test_a_rewind_killed_on_its_way_is_ended_when_the_session_is_opened(
    parent, setup_of, root, project, monkeypatch, place
):
    async with await Session.resume(root, parent, setup_of([])) as session:
        with monkeypatch.context() as patch:
            kill_at(place, patch)
            with pytest.raises(Killed):
                await session.rewind(1)
    async with await Session.resume(root, parent, setup_of([says("", FINISH)])) as session:
        assert (project / "calc.py").read_text() == FAULTY
        assert session.steps == [0, 1]
        await all_events(session, "again")
        assert session.steps == [0, 1, 2]
