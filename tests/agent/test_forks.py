"""Forks and rewinds that are killed on the way: either nothing was begun, or opening the session ends it."""

import asyncio
import fcntl
import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from kodkod_agent.errors import FilesHalfMoved
from kodkod_agent.forks import make_fork
from kodkod_agent.private_git import GitFault
from kodkod_agent.session import Session
from kodkod_agent.session_folder import SessionFolder, list_sessions
from kodkod_agent.snapshots import WorkTreeSnapshots

from .conftest import FAULTY, FINISH, MEND, MENDED, all_events, call, git, make_project, says

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


async def test_a_fork_copies_snapshots_that_nobody_works_on(parent, setup_of, root, project, tokenizer, monkeypatch):
    copy = shutil.copytree

    def copy_alone(source, *rest):
        if (held := Path(source, "alone")).exists():
            with held.open("wb") as file, pytest.raises(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return copy(source, *rest)

    monkeypatch.setattr(shutil, "copytree", copy_alone)
    assert make_fork(root, parent, 1, tokenizer, project).snapshots.exists()


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


def failing(monkeypatch, times=1):
    """git goes back to a snapshot halfway, and then has no room left."""
    restore, failed = WorkTreeSnapshots.restore, []

    def fail(snapshots, snapshot):
        if len(failed) < times:
            failed.append(snapshot)
            (snapshots._work_tree / "calc.py").write_text("half")
            (snapshots._work_tree / "half.txt").write_text("half")
            raise GitFault("git read-tree: no space left on device")
        restore(snapshots, snapshot)

    monkeypatch.setattr(WorkTreeSnapshots, "restore", fail)


async def test_a_fork_that_fails_on_its_way_is_no_session(parent, setup_of, root, project, monkeypatch):
    failing(monkeypatch)
    (project / "mine.txt").write_text("the person's\n")
    with pytest.raises(GitFault, match="no space"):
        await Session.fork(root, parent, 1, setup_of([]))
    assert [path.name for path in root.iterdir()] == [parent]
    assert sorted(path.name for path in project.iterdir() if not path.name.startswith((".git", "__"))) == [
        "calc.py",
        "mine.txt",
        "test_calc.py",
    ]
    assert (project / "calc.py").read_text() == MENDED
    assert git(project, "for-each-ref", "--format=%(refname)", "refs/kodkod").count(parent) > 0


async def test_a_fork_in_a_repository_without_the_snapshots_is_no_session(parent, setup_of, root, tmp_path):
    other = make_project(tmp_path / "other")
    (other / "more.py").write_text("")
    with pytest.raises(GitFault, match="has no snapshot"):
        await Session.fork(root, parent, 3, setup_of([], work_tree=other))
    assert [info.id for info in list_sessions(root)] == [parent]
    assert (other / "calc.py").read_text() == FAULTY
    assert (other / "more.py").exists()
    assert not git(other, "for-each-ref", "refs/kodkod")


async def test_a_rewind_that_fails_leaves_all_as_it_was(parent, setup_of, root, project, monkeypatch):
    failing(monkeypatch)
    async with await Session.resume(root, parent, setup_of([says("", FINISH)])) as session:
        before, steps = len(session.ledger), session.steps
        with pytest.raises(GitFault, match="no space"):
            await session.rewind(1)
        assert (project / "calc.py").read_text() == MENDED
        assert not (project / "half.txt").exists()
        assert (len(session.ledger), session.steps) == (before, steps)
    async with await Session.resume(root, parent, setup_of([says("", FINISH)])) as session:
        assert (project / "calc.py").read_text() == MENDED
        assert (len(session.ledger), session.steps) == (before, steps)
        await all_events(session, "go on")
        after = len(session.ledger)
        assert after > before
        assert session.steps == [*steps, steps[-1] + 1]
    async with await Session.resume(root, parent, setup_of([])) as session:
        assert len(session.ledger) == after
        await session.rewind(1)
        assert (project / "calc.py").read_text() == FAULTY


async def test_files_that_cannot_be_put_back_either_are_told_of_with_a_way_out(
    parent, setup_of, root, project, monkeypatch
):
    failing(monkeypatch, times=2)
    with pytest.raises(FilesHalfMoved, match="try again: open session") as told:
        await Session.fork(root, parent, 1, setup_of([]))
    (forked,) = (info.id for info in list_sessions(root) if info.id != parent)
    assert forked in str(told.value)
    async with await Session.resume(root, forked, setup_of([])) as session:
        assert (project / "calc.py").read_text() == FAULTY
        assert session.steps == [1]
    failing(monkeypatch, times=2)
    async with await Session.resume(root, parent, setup_of([])) as session:
        with pytest.raises(FilesHalfMoved, match="rewind it to its last step"):
            await session.rewind(1)
        await session.rewind(session.steps[-1])
    assert (project / "calc.py").read_text() == MENDED
    assert not (project / "half.txt").exists()


async def test_a_rewind_is_stopped_while_files_are_recorded_and_else_goes_on_to_its_end(
    parent, setup_of, root, project, monkeypatch
):
    async with await Session.resume(root, parent, setup_of([])) as session:
        before, steps = len(session.ledger), session.steps
        with pytest.raises(asyncio.CancelledError):
            await cancelled(monkeypatch, "take", session.rewind(1))
        assert (project / "calc.py").read_text() == MENDED
        assert (len(session.ledger), session.steps) == (before, steps)
        await cancelled(monkeypatch, "restore", session.rewind(1))
        assert (project / "calc.py").read_text() == FAULTY
        assert session.steps == [0, 1]
        assert len(session.ledger) < before


async def cancelled(monkeypatch, place, going):
    """Cancel something while snapshots do this, which goes on for a while."""
    begun, goes_on = threading.Event(), threading.Event()
    whole = getattr(WorkTreeSnapshots, place)

    def slow(*arguments):
        begun.set()
        assert goes_on.wait(30)
        return whole(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(WorkTreeSnapshots, place, slow)
        task = asyncio.create_task(going)
        assert await asyncio.to_thread(begun.wait, 30)
        task.cancel()
        await asyncio.sleep(0)
        goes_on.set()
        await task
