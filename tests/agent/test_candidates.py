"""Candidates: what follows a run whose change does not pass, with a scripted model, real git and real sessions."""

from __future__ import annotations

import asyncio
import shutil
from contextlib import aclosing, asynccontextmanager, closing
from dataclasses import replace

import pytest

from kodkod_agent import events, trajectory
from kodkod_agent.candidate_starts import Start, most_probable
from kodkod_agent.candidates import Candidates, Place
from kodkod_agent.config import AgentConfig, CandidatesConfig
from kodkod_agent.session import Session
from kodkod_agent.session_folder import SessionFolder, list_sessions
from kodkod_agent.snapshots import WorkTreeSnapshots
from kodkod_agent.state import Status
from kodkod_engine.backends.scripted import ScriptedEngine
from kodkod_engine.messages import AssistantMessage
from kodkod_sandbox.base import BoxOptions
from kodkod_sandbox.errors import SandboxLost
from kodkod_sandbox.none import NoSandbox

from .conftest import FAULTY, FINISH, MENDED, QUICK_TESTS, call, git, turn_ids
from .guided import FAILING, GUIDED, TRACED, make_faulty

CONFIG = AgentConfig(max_verifications=1)
LOOK = AssistantMessage(calls=(call("view", path="calc.py"),))
END = AssistantMessage(calls=(FINISH,))


def edit(new):
    return AssistantMessage(calls=(call("edit", path="calc.py", old="a - b", new=new),))


@pytest.fixture
def places(tmp_path):
    """Opens places under a folder; what is left of them there can be looked at."""
    folder = tmp_path / "places"
    folder.mkdir()
    numbers = iter(range(100))

    @asynccontextmanager
    async def open_place(session: SessionFolder, snapshot):
        parent = folder / str(next(numbers))
        tree = (parent / "tree").resolve()
        git(folder, "clone", "-q", "--no-hardlinks", str(session.info.work_tree), str(tree))
        if snapshot:
            WorkTreeSnapshots(tree, session.path.name, folder=parent / "placing").restore(snapshot)
        box = NoSandbox(BoxOptions(work_tree=tree))
        await box.start()
        try:
            yield Place(tree, box)
        finally:
            await box.close()
            shutil.rmtree(parent)

    open_place.folder = folder
    return open_place


async def run(session, places, count, *, at_once=1, **options):
    candidates = Candidates(session, CandidatesConfig(count=count, at_once=at_once), places, **options)
    found = [event async for event in candidates.follow(session.send("mend it"))]
    assert [isinstance(event, events.RunEnded) for event in found].count(True) == 1
    assert isinstance(found[-1], events.RunEnded)
    return found[-1].report, found


async def test_the_first_that_passes_is_put_into_the_work_tree(root, project, setup_of, places):
    script = [LOOK, edit("a * b"), END, edit("b - a"), END, edit("a + b"), END]
    head, index = git(project, "rev-parse", "HEAD"), (project / ".git" / "index").read_bytes()
    async with await Session.create(root, setup_of(script, config=CONFIG)) as session:
        report, found = await run(session, places, 8)
        # Three were tried; the others were never asked for a turn, for the recording has no more.
        assert (report.status, report.winner, len(report.candidates)) == (Status.DONE, 3, 3)
    assert (project / "calc.py").read_text() == MENDED
    assert [one.status for one in report.candidates] == [Status.UNVERIFIED, Status.UNVERIFIED, Status.DONE]
    assert "-    return a - b\n+    return a + b" in report.diff
    assert "a * b" not in report.diff
    # Each verified once, the run before it too, and the winner's changes again where they are used.
    assert [one.test_runs for one in report.candidates] == [2, 1, 1]
    assert report.test_runs == 5
    assert report.reused_tokens > 0
    assert [one.turns for one in report.candidates] == [3, 2, 2]
    assert sum(isinstance(event, events.CandidateEnded) for event in found) == 3
    assert git(project, "rev-parse", "HEAD") == head
    assert (project / ".git" / "index").read_bytes() == index
    assert list(places.folder.iterdir()) == []


async def test_candidates_are_sessions_that_name_the_one_they_left(root, setup_of, places):
    script = [LOOK, edit("a * b"), END, edit("a + b"), END]
    async with await Session.create(root, setup_of(script, config=CONFIG)) as session:
        report, _ = await run(session, places, 2)
    kept = {info.id: info for info in list_sessions(root)}
    winner = kept[report.candidates[1].session_id]
    assert winner.forked_from is not None
    assert (winner.forked_from.session_id, winner.forked_from.step) == (session.id, 1)
    entries = trajectory.read(root / winner.id / "trajectory.jsonl")
    assert sum(isinstance(entry.event, trajectory.AssistantTurn) for entry in entries) == 2


async def test_one_that_takes_back_what_it_tried_is_told_so(root, setup_of, places):
    back = AssistantMessage(calls=(call("edit", path="calc.py", old="a * b", new="a - b"),))
    script = [LOOK, edit("a * b"), back, END, END]
    async with await Session.create(root, setup_of(script, config=CONFIG)) as session:
        report, _ = await run(session, places, 2)
    assert [one.reason for one in report.candidates] == ["what it tried was taken back", "nothing was changed"]


async def test_a_run_that_passes_is_alone(root, setup_of, places):
    async with await Session.create(root, setup_of([edit("a + b"), END], config=CONFIG)) as session:
        report, _ = await run(session, places, 8)
    assert (report.status, report.candidates, report.winner, report.test_runs) == (Status.DONE, (), None, 2)


async def test_one_candidate_is_the_run_alone(root, setup_of, places):
    async with await Session.create(root, setup_of([edit("a * b"), END], config=CONFIG)) as session:
        report, _ = await run(session, places, 1)
    assert (report.status, report.candidates) == (Status.UNVERIFIED, ())


async def test_when_none_passes_the_run_stays_as_it_ended(root, project, setup_of, places):
    script = [edit("a * b"), END, edit("b - a"), END, edit("a / b"), END]
    async with await Session.create(root, setup_of(script, config=CONFIG)) as session:
        report, _ = await run(session, places, 3)
    assert (report.status, report.winner, len(report.candidates)) == (Status.UNVERIFIED, None, 3)
    assert report.reason.startswith("none of 3 candidates passes")
    assert "a * b" in (project / "calc.py").read_text()


async def test_given_turns_come_first_and_cost_nothing(root, project, tokenizer, setup_of, places):
    async def begin(junction, count):
        assert (junction.tools.work_tree / "calc.py").read_text() == FAULTY
        assert junction.tools.work_tree != project
        assert [call.name for call in junction.tried] == ["edit", "finish"]
        turns = (tuple(turn_ids(tokenizer, LOOK)), tuple(turn_ids(tokenizer, edit("a + b"))))
        return [Start(junction.setup.config, turns, -0.5)][:count]

    async with await Session.create(root, setup_of([edit("a * b"), END, END], config=CONFIG)) as session:
        report, _ = await run(session, places, 4, begin=begin)
    assert (report.status, report.winner) == (Status.DONE, 2)
    won = report.candidates[1]
    assert (won.logprob, won.turns, won.calls) == (-0.5, 3, 3)
    assert won.generated_tokens == len(turn_ids(tokenizer, END))
    assert (project / "calc.py").read_text() == MENDED


async def test_the_persons_other_changes_stay(root, project, setup_of, places):
    (project / "calc.py").write_text(FAULTY + "\n\nLIMIT = 1\n")
    (project / "notes").write_text("mine")
    script = [edit("a * b"), END, edit("a + b"), END]
    async with await Session.create(root, setup_of(script, config=CONFIG)) as session:
        report, _ = await run(session, places, 2)
    assert report.status is Status.DONE
    assert (project / "calc.py").read_text() == MENDED + "\n\nLIMIT = 1\n"
    assert (project / "notes").read_text() == "mine"


async def test_a_winner_that_no_longer_fits_leaves_the_files_alone(root, project, setup_of, places):
    script = [edit("a * b"), END, edit("a + b"), END]

    async def begin(junction, count):
        (project / "calc.py").write_text("changed meanwhile\n")
        return [Start(junction.setup.config)]

    async with await Session.create(root, setup_of(script, config=CONFIG)) as session:
        report, _ = await run(session, places, 2, begin=begin)
    assert report.status is Status.UNVERIFIED
    assert report.reason.startswith("candidate 2 passes, but its changes cannot be put into the work tree")
    assert (project / "calc.py").read_text() == "changed meanwhile\n"


async def test_several_at_once_and_the_rest_are_stopped(root, project, setup_of, places):
    slow = AssistantMessage(calls=(call("shell", command="sleep 60"),))
    starts = [slow, edit("a + b")]

    def begin_with(tokenizer):
        async def begin(junction, count):
            return [Start(junction.setup.config, (tuple(turn_ids(tokenizer, first)),)) for first in starts]

        return begin

    setup = setup_of([edit("a * b"), END, END], config=CONFIG)
    async with asyncio.timeout(30), await Session.create(root, setup) as session:
        report, _ = await run(session, places, 3, at_once=2, begin=begin_with(setup.tokenizer))
    assert (report.status, report.winner) == (Status.DONE, 3)
    assert [one.number for one in report.candidates] == [1, 3]
    assert list(places.folder.iterdir()) == []


@pytest.mark.parametrize("moment", ["a candidate passed", "its changes are put in"])
async def test_cancelled_between_a_candidate_that_passes_and_its_adoption(root, setup_of, places, monkeypatch, moment):
    """Nothing runs then that could be stopped: the interrupt was lost."""
    adopt = Session.adopt

    async def interrupted(session, *arguments):
        candidates.cancel()
        async with aclosing(adopt(session, *arguments)) as found:
            async for event in found:
                yield event

    if moment == "its changes are put in":
        monkeypatch.setattr(Session, "adopt", interrupted)
    setup = setup_of([edit("a * b"), END, edit("a + b"), END], config=CONFIG)
    async with asyncio.timeout(60), await Session.create(root, setup) as session:
        candidates = Candidates(session, CandidatesConfig(count=2), places)
        last = None
        async for event in candidates.follow(session.send("mend it")):
            last = event
            if isinstance(event, events.CandidateEnded) and event.report.status is Status.DONE:
                assert event.report.number == 2
                if moment == "a candidate passed":
                    candidates.cancel()
    assert last.report.status is Status.INTERRUPTED


async def test_cancelled_while_candidates_are_tried(root, setup_of, places):
    slow = AssistantMessage(calls=(call("shell", command="sleep 60"),))
    async with (
        asyncio.timeout(30),
        await Session.create(root, setup_of([edit("a * b"), END, slow], config=CONFIG)) as (session),
    ):
        candidates = Candidates(session, CandidatesConfig(count=3, at_once=1), places)
        last = None
        async for event in candidates.follow(session.send("mend it")):
            last = event
            if isinstance(event, events.CandidateEnded):
                asyncio.get_running_loop().call_later(0.5, candidates.cancel)
    assert last.report.status is Status.INTERRUPTED
    assert list(places.folder.iterdir()) == []


async def _reports(stream, found):
    async for event in stream:
        found += [event.report] if isinstance(event, events.RunEnded) else []


async def test_a_fault_in_a_candidate_is_reported_and_raised(root, setup_of, places, monkeypatch):
    @asynccontextmanager
    async def broken(session, snapshot):
        raise SandboxLost("the box is gone")
        yield

    ended = []
    async with await Session.create(root, setup_of([edit("a * b"), END], config=CONFIG)) as session:
        candidates = Candidates(session, CandidatesConfig(count=2), broken)
        stream = candidates.follow(session.send("mend it"))
        with pytest.raises(SandboxLost):
            await _reports(stream, ended)
    assert [(report.status, report.reason) for report in ended] == [(Status.FAULT, "the box is gone")]


async def test_a_later_process_goes_on_with_the_candidates(root, project, setup_of, places):
    async with await Session.create(root, setup_of([edit("a * b"), END], config=CONFIG)) as session:
        first = Candidates(session, CandidatesConfig(count=1), places)
        assert [event async for event in first.follow(session.send("mend it"))]
        assert not await first.are_due()
    setup = setup_of([edit("a + b"), END], config=CONFIG)
    async with await Session.resume(root, session.id, setup) as again:
        candidates = Candidates(again, CandidatesConfig(count=2), places)
        assert await candidates.are_due()
        found = [event async for event in candidates.follow(again.proceed())]
    assert found[-1].report.status is Status.DONE
    assert (project / "calc.py").read_text() == MENDED


async def test_a_tree_without_a_repository(root, project, setup_of, places, sandbox):
    shutil.rmtree(project / ".git")

    @asynccontextmanager
    async def open_place(session, snapshot):
        parent = places.folder / "copy"
        shutil.copytree(session.snapshots, parent / "placing" / session.snapshots.name)
        (parent / "tree").mkdir()
        tree = (parent / "tree").resolve()
        WorkTreeSnapshots(tree, session.path.name, folder=parent / "placing").restore(snapshot)
        box = NoSandbox(BoxOptions(work_tree=tree))
        await box.start()
        yield Place(tree, box)
        await box.close()

    setup = replace(setup_of([edit("a * b"), END, edit("a + b"), END], config=CONFIG), tools=QUICK_TESTS)
    async with await Session.create(root, setup) as session:
        report, _ = await run(session, open_place, 2)
    assert report.status is Status.DONE, report.reason
    assert (project / "calc.py").read_text() == MENDED


def guided_script(tokenizer):
    """Knows where to look; writes a wrong edit first, and the right one when asked again."""
    view = call("view", path="clip.py", start=1, end=7)
    wrong = call("edit", path="clip.py", line=6, old=" low", new=" value")
    right = call("edit", path="clip.py", line=6, old=" low", new=" high")
    turns = {2: view, 3: wrong}

    def answer(prompt_ids):
        tag = tokenizer.special.assistant_id
        number, begun = prompt_ids.count(tag), len(prompt_ids) - 1 - prompt_ids[::-1].index(tag)
        if number > 3:
            turns[3] = right
        # Where nothing is known the constraint leaves one thing to say.
        return turn_ids(tokenizer, AssistantMessage(calls=(turns.get(number, call("test")),)))[
            len(prompt_ids) - begun - 1 :
        ]

    return answer


async def test_a_guided_model_tries_what_is_most_probable(root, project, setup_of, places, tokenizer):
    make_faulty(project)
    git(project, "add", "-A")
    git(project, "commit", "-q", "-m", "clip")
    config = AgentConfig(test_targets=(FAILING,), max_tries=1, max_verifications=1)
    command = ("env", "PYTEST_DISABLE_PLUGIN_AUTOLOAD=1", *TRACED.test_command)
    tools = TRACED.model_copy(update={"test_command": command})
    setup = setup_of([], config=config, tools=tools, profile=GUIDED)
    script = guided_script(tokenizer)
    options = {"vocab_size": tokenizer.vocab_size, "eos_id": tokenizer.eos_id, "tokenizer": tokenizer}
    with closing(ScriptedEngine(script, **options)) as engine:
        async with await Session.create(root, replace(setup, engine=engine)) as session:
            report, _ = await run(session, places, 3, begin=most_probable, leaves_before=("view", "edit"))
    assert (report.status, report.winner) == (Status.DONE, 2), report.reason
    assert "return high" in (project / "clip.py").read_text()
    first, second = report.candidates
    assert (first.status, first.change) == (Status.UNVERIFIED, "clip.py:6:  low →  value")
    assert (second.change, second.malformed_calls) == ("clip.py:6:  low →  high", 0)
    assert second.logprob == pytest.approx(0.0)
    # Before anything was changed, at the first look, and after the edit; the second after its edit, and at the end.
    assert [one.test_runs for one in report.candidates] == [3, 2]
