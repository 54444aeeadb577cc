"""Whole runs: what the person says goes in, real files change, events and a report come out."""

import asyncio
import shutil
import time
from contextlib import suppress

import pytest

from kodkod_agent import events, graph, nodes
from kodkod_agent.approval import Approval
from kodkod_agent.config import AgentConfig
from kodkod_agent.errors import SessionBusy, SessionNotFound
from kodkod_agent.moment import is_of_the_moment
from kodkod_agent.policy import PermissionMode
from kodkod_agent.private_git import GitFault
from kodkod_agent.rules import Rule, Rules
from kodkod_agent.session import Session
from kodkod_agent.session_folder import list_sessions
from kodkod_agent.state import Node, Status
from kodkod_agent.trajectory import Decided, SessionStarted, read
from kodkod_engine.chat.ledger_state import Origin
from kodkod_engine.errors import DeviceLost, EngineError
from kodkod_engine.messages import AssistantMessage, ToolMessage, UserMessage
from kodkod_sandbox.errors import SandboxLost
from kodkod_tools.base import ErrorCode, FileDiff

from .conftest import FAULTY, FINISH, MEND, MENDED, PYTEST, all_events, call, git, says

LOOK = says("Look.", call("view", path="calc.py"))


def of(found, kind):
    return [event for event in found if isinstance(event, kind)]


async def collect(stream, into):
    async for event in stream:
        into.append(event)


async def run(root, setup, text="add subtracts"):
    """One run in a session of its own: its events and what the conversation is afterwards."""
    async with await Session.create(root, setup) as session:
        found = await all_events(session, text)
        return found, session.ledger.view()


async def test_a_fault_is_mended_end_to_end(setup_of, project, root):
    script = [LOOK, says("Mend it.", MEND, reasoning="minus is wrong"), says("", call("test")), says("", FINISH)]
    setup = setup_of(script, tools=PYTEST, config=AgentConfig())
    found, _ = await run(root, setup)
    report = found[-1].report
    assert isinstance(found[0], events.RunStarted)
    assert (project / "calc.py").read_text() == MENDED
    assert (report.status, report.exit_code, report.summary) == (Status.DONE, 0, "add adds")
    assert (report.tests_before["failed"], report.tests_after["passed"]) == (1, 1)
    assert "-    return a - b\n+    return a + b\n" in report.diff
    assert report.turns == 4
    assert report.reused_tokens > report.prompt_tokens / 2
    assert "".join(e.text for e in of(found, events.TextDelta)) == "Look.Mend it."
    assert "".join(e.text for e in of(found, events.ReasoningDelta)) == "minus is wrong"
    assert [e.name for e in of(found, events.CallFinished)] == ["view", "edit", "test", "finish"]
    assert isinstance(of(found, events.CallFinished)[1].for_person, FileDiff)
    assert git(project, "status", "--porcelain") == " M calc.py\n"
    assert git(project, "log", "--oneline").count("\n") == 1


async def test_the_ledger_holds_the_very_ids_the_model_wrote(setup_of, root):
    async with await Session.create(root, setup_of([LOOK, says("", MEND), says("", FINISH)])) as session:
        await all_events(session, "go")
        assert session.ledger.renders_back()
        kept = session.ledger.token_ids
        session_id = session.id
    async with await Session.resume(root, session_id, setup_of([])) as again:
        assert again.ledger.token_ids == kept
        assert not await again.is_unfinished()


async def test_failing_tests_come_back_to_the_model(setup_of, project, root):
    wrong = call("edit", path="calc.py", old="return a - b", new="return a * b")
    right = call("edit", path="calc.py", old="return a * b", new="return a + b")
    script = [says("", wrong), says("", FINISH), says("", right), says("", FINISH)]
    found, view = await run(root, setup_of(script))
    assert [e.facts["exit_code"] for e in of(found, events.TestsRan)] == [1, 0]
    assert any(isinstance(m, UserMessage) and "not verified yet" in m.text for m in view)
    assert found[-1].report.status is Status.DONE


async def test_a_run_that_never_passes_ends_unverified(setup_of, project, root):
    wrong = call("edit", path="calc.py", old="return a - b", new="return a * b")
    config = AgentConfig(baseline_tests=False, max_verifications=2)
    found, _ = await run(root, setup_of([says("", wrong), says("", FINISH), says("", FINISH)], config=config))
    report = found[-1].report
    assert (report.status, report.exit_code) == (Status.UNVERIFIED, 3)
    assert report.tests_after["exit_code"] == 1
    assert "a * b" in report.diff


@pytest.mark.parametrize(
    ("config", "reason"),
    [(AgentConfig(baseline_tests=False, run_tests=False), "no tests"), (AgentConfig(verify=False), "no tests")],
)
async def test_without_tests_nothing_is_verified(setup_of, root, config, reason):
    found, _ = await run(root, setup_of([says("", MEND), says("", FINISH)], config=config))
    assert found[-1].report.status is Status.UNVERIFIED
    assert reason in found[-1].report.reason


async def test_finish_without_a_change_is_not_verified(setup_of, root):
    found, _ = await run(root, setup_of([says("", FINISH)]))
    assert (found[-1].report.status, found[-1].report.reason) == (Status.UNVERIFIED, "nothing was changed")


async def test_prose_is_nudged_and_then_ends_the_run_unverified(setup_of, root):
    found, view = await run(root, setup_of([says("Hm."), says("Well."), says("Done.")]))
    assert found[-1].report.status is Status.UNVERIFIED
    assert found[-1].report.summary == "Done."
    assert sum("You wrote no tool call" in m.text for m in view if isinstance(m, UserMessage)) == 2


async def test_with_a_person_prose_is_an_answer(setup_of, root):
    async with await Session.create(
        root, setup_of([says("Hello."), LOOK, says("A calculator.")], config=AgentConfig(attended=True))
    ) as session:
        first = await all_events(session, "hello")
        second = await all_events(session, "what is this?")
    assert [(r.status, r.summary, r.turns) for r in (first[-1].report, second[-1].report)] == [
        (Status.DONE, "Hello.", 1),
        (Status.DONE, "A calculator.", 2),
    ]


# Permissions


async def answering(session, text, *approvals):
    found = []
    async for event in session.send(text):
        found.append(event)
        if isinstance(event, events.ApprovalAsked):
            session.answer(
                *(approval for approval in approvals if approval.call_id in {r.call.id for r in event.requests})
            )
    return found


ASKING = {"mode": PermissionMode.DEFAULT}


async def test_a_call_waits_for_the_persons_yes(setup_of, project, root):
    async with await Session.create(root, setup_of([LOOK, says("", MEND), says("", FINISH)], **ASKING)) as session:
        found = await answering(session, "go", Approval(call_id="call_1", allowed=True))
    (asked,) = of(found, events.ApprovalAsked)
    assert [request.call.name for request in asked.requests] == ["edit"]
    assert (project / "calc.py").read_text() == MENDED
    assert found[-1].report.status is Status.DONE


async def test_a_refused_call_is_not_run_and_the_model_reads_why(setup_of, project, root):
    async with await Session.create(root, setup_of([says("", MEND), says("", FINISH)], **ASKING)) as session:
        found = await answering(session, "go", Approval(call_id="call_0", allowed=False, message="leave it"))
        view = session.ledger.view()
    assert (project / "calc.py").read_text() == FAULTY
    assert of(found, events.CallFinished)[0].refused
    assert ToolMessage(call_id="call_0", text="not run: the user refused: leave it") in view


async def test_an_unanswered_request_is_refused(setup_of, project, root):
    async with await Session.create(root, setup_of([says("", MEND), says("", FINISH)], **ASKING)) as session:
        await answering(session, "go")
    assert (project / "calc.py").read_text() == FAULTY


async def test_an_edited_call_runs_as_edited(setup_of, project, root):
    changed = {"path": "calc.py", "old": "return a - b", "new": "return b + a"}
    async with await Session.create(root, setup_of([says("", MEND), says("", FINISH)], **ASKING)) as session:
        await answering(session, "go", Approval(call_id="call_0", allowed=True, arguments=changed))
        told = [message.text for message in session.ledger.view() if isinstance(message, ToolMessage)]
        decided = [entry.event for entry in read(session.folder.trajectory) if isinstance(entry.event, Decided)]
    assert "return b + a" in (project / "calc.py").read_text()
    assert told[0].startswith("[the user changed this call before it was run: new='return b + a']")
    assert (decided[0].by_person, decided[0].arguments) == (True, changed)


async def test_an_edited_call_cannot_pass_a_rule_that_denies(setup_of, project, root):
    setup = setup_of([says("", MEND), says("", FINISH)], rules=Rules(deny=(Rule.read("edit(test_*)"),)), **ASKING)
    changed = {"path": "test_calc.py", "old": "== 3", "new": "!= 3"}
    async with await Session.create(root, setup) as session:
        await answering(session, "go", Approval(call_id="call_0", allowed=True, arguments=changed))
        told = [message.text for message in session.ledger.view() if isinstance(message, ToolMessage)]
    assert "the user changed it to what may not be done" in told[0]
    assert "== 3" in (project / "test_calc.py").read_text()


async def test_always_is_not_asked_again(setup_of, project, root):
    back = call("edit", path="calc.py", old="return a + b", new="return a +  b")
    script = [says("", MEND), says("", back), says("", FINISH)]
    async with await Session.create(root, setup_of(script, **ASKING)) as session:
        found = await answering(session, "go", Approval(call_id="call_0", allowed=True, always=(Rule.read("edit"),)))
    assert len(of(found, events.ApprovalAsked)) == 1
    assert "a +  b" in (project / "calc.py").read_text()


async def test_plan_mode_changes_nothing_and_says_so(setup_of, project, root):
    found, view = await run(root, setup_of([says("", MEND), says("", FINISH)], mode=PermissionMode.PLAN))
    assert (project / "calc.py").read_text() == FAULTY
    assert not of(found, events.ApprovalAsked)
    assert any("Plan mode is on" in m.text for m in view if isinstance(m, UserMessage))


async def test_waiting_for_a_person_does_not_count_as_time(setup_of, root):
    async with await Session.create(root, setup_of([says("", MEND), says("", FINISH)], **ASKING)) as session:
        began_s = time.monotonic()
        async for event in session.send("go"):
            if isinstance(event, events.ApprovalAsked):
                asked_s = time.monotonic()
                await asyncio.sleep(1)
                waited_s = time.monotonic() - asked_s
                session.answer(Approval(call_id="call_0", allowed=True))
        whole_s = time.monotonic() - began_s
    assert isinstance(event, events.RunEnded)
    assert 0 < event.report.seconds <= whole_s - waited_s


# What a model does wrong


async def test_malformed_and_unknown_calls_are_results_the_model_reads(setup_of, tokenizer, root):
    broken = [
        *tokenizer.encode_text("Now: "),
        tokenizer.special.ids["<longcat_tool_call>"],
        *tokenizer.encode_text("edit\nnonsense"),
        tokenizer.eos_id,
    ]
    script = [broken, says("", call("explode", path="x")), says("", MEND), says("", FINISH)]
    config = AgentConfig(baseline_tests=False, constraints=False)
    found, view = await run(root, setup_of(script, config=config))
    assert [e.error for e in of(found, events.CallFinished)] == [
        ErrorCode.MALFORMED_CALL,
        ErrorCode.MALFORMED_CALL,
        None,
        None,
    ]
    assert found[-1].report.status is Status.DONE
    assert sum(isinstance(message, ToolMessage) for message in view) == 4


async def test_only_malformed_calls_end_the_run(setup_of, root):
    config = AgentConfig(baseline_tests=False, max_malformed_calls=3, constraints=False)
    script = [says("", call("explode", at=n)) for n in range(9)]
    found, _ = await run(root, setup_of(script, config=config))
    assert (found[-1].report.status, found[-1].report.turns) == (Status.LIMIT, 3)


async def test_going_in_circles_is_told_and_then_ended(setup_of, root):
    config = AgentConfig(baseline_tests=False, max_loop_warnings=1)
    found, view = await run(root, setup_of([LOOK] * 9, config=config))
    assert found[-1].report.status is Status.LIMIT
    assert "circles" in found[-1].report.reason
    assert found[-1].report.turns == 4
    assert any("You have made this very view call 3 times" in m.text for m in view if isinstance(m, UserMessage))


async def test_calls_after_finish_are_not_run(setup_of, project, root):
    found, _ = await run(root, setup_of([says("", FINISH, MEND)]))
    assert (project / "calc.py").read_text() == FAULTY
    assert of(found, events.CallFinished)[1].refused


# Limits


async def test_turns_are_limited_and_the_session_goes_on_afterwards(setup_of, project, root):
    script = [LOOK, says("", call("view", path="test_calc.py")), says("", MEND), says("", FINISH)]
    async with await Session.create(
        root, setup_of(script, config=AgentConfig(baseline_tests=False, max_turns=2))
    ) as session:
        first = await all_events(session, "go")
        assert (first[-1].report.status, first[-1].report.exit_code) == (Status.LIMIT, 124)
        assert "2 turns are used up" in session.ledger.view()[-1].text
        second = await all_events(session, "go on")
    assert second[-1].report.status is Status.DONE
    assert second[-1].report.turns == 2


async def test_tokens_are_limited_inside_a_turn_too(setup_of, root):
    config = AgentConfig(baseline_tests=False, max_tokens=50)
    found, _ = await run(root, setup_of([says("word " * 40), LOOK], config=config))
    assert (found[-1].report.status, found[-1].report.generated_tokens) == (Status.LIMIT, 50)


@pytest.mark.parametrize(
    ("script", "engine"),
    [([says("", call("shell", command="sleep 60"))], {}), ([says("slow " * 200)], {"seconds_per_step": 0.05})],
    ids=["a command", "the model"],
)
async def test_time_is_limited_wherever_it_is_spent(setup_of, root, script, engine):
    config = AgentConfig(baseline_tests=False, timeout_s=1.5)
    async with await Session.create(root, setup_of(script, config=config, engine=engine)) as session:
        async with asyncio.timeout(60):
            found = await all_events(session, "go")
        assert found[-1].report.status is Status.LIMIT
        assert not session.ledger.turn_open
        assert not session.ledger.pending_calls


# Cancel, faults, resume


async def test_cancel_in_mid_stream_keeps_what_was_written(setup_of, project, root):
    script = [says("a long answer " * 50), says("", MEND), says("", FINISH)]
    setup = setup_of(script, engine={"seconds_per_step": 0.002})
    async with await Session.create(root, setup) as session:
        found = []
        async for event in session.send("go"):
            found.append(event)
            if isinstance(event, events.TextDelta) and len(of(found, events.TextDelta)) == 30:
                session.cancel()
        assert (found[-1].report.status, found[-1].report.exit_code) == (Status.INTERRUPTED, 130)
        written = [m for m in session.ledger.view() if isinstance(m, AssistantMessage)]
        assert written[0].text.startswith("a long answer a long answer")
        assert setup.engine.stats().running == 0
        again = await all_events(session, "do it")
    assert again[-1].report.status is Status.DONE


async def test_an_answer_that_was_cut_off_is_told_to_who_reads_along(setup_of, root):
    config = AgentConfig(baseline_tests=False, attended=True, max_turn_tokens=20)
    found, _ = await run(root, setup_of([says("a long answer " * 50)], config=config))
    assert [event.text for event in of(found, events.Notice)] == [
        "the answer was cut off after 20 tokens; ask for the rest"
    ]
    assert found[-1].report.status is Status.DONE


async def test_cancel_kills_the_command_and_answers_its_call(setup_of, root):
    async with await Session.create(
        root, setup_of([says("", call("shell", command="echo on; sleep 60"), MEND)])
    ) as session:
        async with asyncio.timeout(60):
            async for event in session.send("go"):
                if isinstance(event, events.CallOutput):
                    session.cancel()
        results = [m.text for m in session.ledger.view() if isinstance(m, ToolMessage)]
    assert isinstance(event, events.RunEnded)
    assert "interrupted while it ran" in results[0]
    assert "not run" in results[1]


async def test_cancel_is_heeded_where_a_node_is_deaf_to_it(setup_of, project, root, monkeypatch):
    """Cancelled in the moment a command ends, it may end as if nothing had been; the run went on, and asked."""

    async def deaf(state, res):
        session.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        return await nodes.tools(state, res)

    monkeypatch.setitem(graph.NODES, Node.TOOLS, deaf)
    async with await Session.create(root, setup_of([LOOK, says("", MEND), says("", FINISH)])) as session:
        found = await all_events(session, "go")
        assert found[-1].report.status is Status.INTERRUPTED
        assert not session.ledger.pending_calls
    assert len(of(found, events.TurnStarted)) == 1
    assert (project / "calc.py").read_text() == FAULTY


async def test_an_interrupt_is_told_before_it_is_known_what_changed(setup_of, project, root, tmp_path):
    """And a process killed between the two has lost nothing: the run goes on from there, or something else is said."""
    script = [says("", MEND), says("", call("shell", command="echo on; sleep 60"))]
    after = [says("", call("write", path="notes", content="x")), says("", FINISH)]
    kept = tmp_path / "kept"
    async with await Session.create(root, setup_of(script)) as session:
        found = []
        async for event in session.send("go"):
            found.append(event)
            if isinstance(event, events.CallOutput):
                session.cancel()
            if isinstance(event, events.RunInterrupted):
                shutil.copytree(root, kept)
    ends = [
        event for event in found if isinstance(event, events.RunInterrupted | events.SnapshotTaken | events.RunEnded)
    ]
    assert [type(event) for event in ends[-3:]] == [events.RunInterrupted, events.SnapshotTaken, events.RunEnded]
    assert of(found, events.RunInterrupted)[0].reason == found[-1].report.reason
    assert "+    return a + b" in found[-1].report.diff
    async with await Session.resume(kept, session.id, setup_of(after)) as again:
        assert await again.is_unfinished()
        later = await all_events(again, "do it")
        assert later[-1].report.status is Status.DONE
    assert (project / "calc.py").read_text() == MENDED


async def test_cancel_while_a_question_is_open(setup_of, project, root):
    async with await Session.create(
        root, setup_of([says("", MEND), says("", MEND), says("", FINISH)], **ASKING)
    ) as session:
        async for event in session.send("go"):
            if isinstance(event, events.ApprovalAsked):
                session.cancel()
        assert isinstance(event, events.RunEnded)
        assert event.report.status is Status.INTERRUPTED
        with pytest.raises(SessionBusy, match="no question"):
            session.answer()
        assert (project / "calc.py").read_text() == FAULTY
        found = await answering(session, "yes, do it", Approval(call_id="call_1", allowed=True))
    assert found[-1].report.status is Status.DONE


async def test_leaving_the_events_early_cancels_the_run(setup_of, root):
    async with await Session.create(
        root, setup_of([says("", call("shell", command="sleep 60")), says("", FINISH)])
    ) as session:
        async with asyncio.timeout(60):
            stream = session.send("go")
            async for event in stream:
                if isinstance(event, events.SnapshotTaken) and event.step == 1:
                    break
            await stream.aclose()
            assert not await session.is_unfinished()


async def test_a_session_that_is_closed_reports_its_run_first(setup_of, root):
    session = await Session.create(root, setup_of([says("", call("shell", command="sleep 60"))]))
    found = []
    begun = asyncio.Event()

    async def follow():
        async for event in session.send("go"):
            found.append(event)
            if isinstance(event, events.SnapshotTaken) and event.step == 1:
                begun.set()

    following = asyncio.create_task(follow())
    await begun.wait()
    await session.close()
    await following
    assert found[-1].report.status is Status.INTERRUPTED


async def test_one_run_at_a_time_and_one_process_at_a_time(setup_of, root):
    setup = setup_of([LOOK])
    async with await Session.create(root, setup) as session:
        stream = session.send("go")
        await anext(stream)
        with pytest.raises(SessionBusy):
            await all_events(session, "and this")
        with pytest.raises(SessionBusy):
            await Session.resume(root, session.id, setup)
        await stream.aclose()


async def test_a_fault_between_nodes_leaves_a_run_that_goes_on(setup_of, sandbox, project, root, monkeypatch):
    script = [says("", call("shell", command="echo hi >> notes; sleep 0.1")), says("", MEND), says("", FINISH)]
    async with await Session.create(root, setup_of(script)) as session:

        def lost(*_, **__):
            raise SandboxLost("the box is gone")

        with monkeypatch.context() as patch:
            patch.setattr(sandbox, "exec_stream", lost)
            found = []
            with pytest.raises(SandboxLost):
                await collect(session.send("go"), found)
        assert (found[-1].report.status, found[-1].report.reason) == (Status.FAULT, "the box is gone")
        assert await session.is_unfinished()
        again = [event async for event in session.proceed()]
        assert again[0] == events.RunStarted(session.id, resumed=True)
        assert again[-1].report.status is Status.DONE
        assert again[-1].report.turns == 3
    assert (project / "notes").read_text() == "hi\n"


async def test_a_gpu_lost_in_a_turn_leaves_a_session_that_another_process_goes_on_with(setup_of, project, root):
    lost = DeviceLost("the GPU is lost (CUDA error: unspecified launch failure); start again and resume the session")
    setup = setup_of([LOOK, says("", MEND), says("", FINISH)])
    run, found, chosen = setup.engine._runner.run, [], []

    def until_it_is_lost(copies, runs, num_steps=1):
        if of(found, events.CallFinished):
            chosen.extend(one for one in runs if one.choices)
            if len(chosen) > 5:
                raise lost
        return run(copies, runs, num_steps)

    setup.engine._runner.run = until_it_is_lost
    async with await Session.create(root, setup) as session:
        with pytest.raises(EngineError, match=r"^the GPU is lost"):
            await collect(session.send("go"), found)
        assert (found[-1].report.status, found[-1].report.reason) == (Status.FAULT, str(lost))
        assert [event.name for event in of(found, events.CallFinished)] == ["view"]
        session_id = session.id
    assert (project / "calc.py").read_text() == FAULTY
    async with await Session.resume(root, session_id, setup_of([says("", MEND), says("", FINISH)])) as again:
        assert await again.is_unfinished()
        found = [event async for event in again.proceed()]
    assert found[-1].report.status is Status.DONE
    assert (project / "calc.py").read_text() == MENDED


# Fork and rewind


async def test_rewind_takes_files_and_conversation_back(setup_of, project, root):
    other = call("edit", path="calc.py", old="return a - b", new="return b + a")
    script = [LOOK, says("", MEND), says("", FINISH), says("", other), says("", FINISH)]
    async with await Session.create(root, setup_of(script)) as session:
        await all_events(session, "go")
        whole = session.ledger.token_ids
        assert session.steps == [0, 1, 2, 3]
        await session.rewind(1)
        assert (project / "calc.py").read_text() == FAULTY
        assert session.ledger.token_ids == whole[: len(session.ledger)]
        assert len(session.ledger.view()) == 5  # system, facts of the moment, what was said, a turn, its result
        assert session.steps == [0, 1]
        found = await all_events(session, "another way")
        assert found[-1].report.status is Status.DONE
        assert "return b + a" in (project / "calc.py").read_text()
        await session.rewind(3)
        with pytest.raises(SessionNotFound, match="no step 9"):
            await session.rewind(9)


async def test_fork_at_every_step(setup_of, project, root):
    script = [LOOK, says("", MEND), says("", call("write", path="extra.txt", content="x")), says("", FINISH)]
    async with await Session.create(root, setup_of(script)) as session:
        await all_events(session, "go")
        parent, steps, whole = session.id, session.steps, session.ledger.token_ids
    for step in steps:
        async with await Session.fork(root, parent, step, setup_of([says("", FINISH)])) as branch:
            assert branch.ledger.token_ids == whole[: len(branch.ledger)]
            assert (project / "calc.py").read_text() == (MENDED if step >= 2 else FAULTY)
            assert (project / "extra.txt").exists() == (step >= 3)
            assert branch.info.forked_from.step == step
            found = await all_events(branch, "and now?")
            assert found[-1].report.status is Status.UNVERIFIED
    assert len(list_sessions(root)) == len(steps) + 1
    assert list_sessions(root, project / "elsewhere") == []


async def test_a_session_killed_while_it_was_first_opened_has_its_beginning(setup_of, root, monkeypatch):
    class Killed(BaseException):
        """As if the process had ended here."""

    def killed(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("kodkod_agent.session.resources", killed)
        with pytest.raises(Killed):
            await Session.create(root, setup_of([]))
    (info,) = list_sessions(root)
    async with await Session.resume(root, info.id, setup_of([LOOK, says("", FINISH)])) as session:
        await all_events(session, "look")
        first = read(session.folder.trajectory).entries[0].event
    assert isinstance(first, SessionStarted)
    assert not first.resumed


async def test_titles_and_missing_sessions(setup_of, project, root):
    async with await Session.create(root, setup_of([LOOK, says("", FINISH)])) as session:
        await all_events(session, "mend\n  the   fault")
    (info,) = list_sessions(root, project)
    assert info.title == "mend the fault"
    for bad in ("nothing", "../sessions", ""):
        with pytest.raises(SessionNotFound):
            await Session.resume(root, bad, setup_of([]))


# Context


async def test_a_full_context_is_shortened_and_the_work_goes_on(setup_of, project, root):
    (project / "long.txt").write_text("".join(f"line {n} of a long file\n" for n in range(60)))
    views = [says("", call("view", path="long.txt", start=n, end=n + 40)) for n in range(1, 6)]
    script = [*views, says("Found it: minus in calc.py."), says("", MEND), says("", FINISH)]
    config = AgentConfig(baseline_tests=False, max_turn_tokens=300, summary_tokens=200, rebuild_share=0.9)
    found, view = await run(root, setup_of(script, config=config, engine={"max_context_tokens": 16_000}))
    (rebuilt,) = of(found, events.ContextRebuilt)
    before = found[: found.index(rebuilt)]
    assert any("is being shortened" in note.text for note in of(before, events.Notice)), "it takes its time"
    assert rebuilt.tokens_after < rebuilt.tokens_before
    assert found[-1].report.status is Status.DONE
    texts = [message.text for message in view if isinstance(message, UserMessage)]
    assert texts[0] == "add subtracts"
    assert "Found it: minus in calc.py." in texts[1]
    assert any(text.startswith("long.txt as it is now:") for text in texts)


async def test_a_context_that_cannot_be_shortened_ends_the_run(setup_of, project, root):
    (project / "long.txt").write_text("".join(f"line {n} of a long file\n" for n in range(60)))
    script = [LOOK, says("A summary."), LOOK, says("A summary.")]
    config = AgentConfig(baseline_tests=False, max_turn_tokens=300, summary_tokens=200)
    found, _ = await run(root, setup_of(script, config=config, engine={"max_context_tokens": 8_500}), "long " * 100)
    assert found[-1].report.status is Status.LIMIT
    assert "context" in found[-1].report.reason


async def test_project_instructions_are_shown_root_first_and_once(setup_of, project, root):
    (project / "AGENTS.md").write_text("Use tabs. {braces}")
    (project / "pkg" / "deep").mkdir(parents=True)
    (project / "pkg" / "AGENTS.md").write_text("In pkg: spaces.")
    (project / "pkg" / "deep" / "mod.py").write_text("x = 1\n")
    look = says("", call("view", path="pkg/deep/mod.py"))
    async with await Session.create(root, setup_of([look, look, says("", FINISH)])) as session:
        await all_events(session, "go")
        ids = session.ledger.token_ids
        notices = [
            session._res.tokenizer.decode(ids[s.start + 1 : s.end])
            for s in session.ledger.spans
            if s.origin is Origin.NOTICE
        ]
    notices = [notice for notice in notices if not is_of_the_moment(notice)]
    assert [n.splitlines()[0].split()[3] for n in notices] == ["AGENTS.md", "pkg/AGENTS.md"]
    assert "Use tabs. {braces}" in notices[0]


async def test_a_run_whose_files_are_gone_ends_with_its_report_and_the_cause(setup_of, root, project):
    away = project.with_name("away")

    async def losing_files(stream, into):
        async for event in stream:
            into.append(event)
            if isinstance(event, events.CallWritten):
                project.rename(away)

    async with await Session.create(root, setup_of([says("", MEND), says("", FINISH), says("", FINISH)])) as session:
        found = []
        with pytest.raises(GitFault, match="is gone; put it back"):
            await losing_files(session.send("mend add"), found)
        assert isinstance(found[-1], events.RunEnded)
        assert found[-1].report.status is Status.FAULT
        assert "is gone" in found[-1].report.reason
        away.rename(project)
        found = [event async for event in session.proceed()]
        assert found[-1].report.status is Status.DONE
        assert (project / "calc.py").read_text() == MENDED


def heard(session):
    """What the person said, as the model knows it."""
    said = [message.text for message in session.ledger.view() if isinstance(message, UserMessage)]
    return [text for text in said if not is_of_the_moment(text)]


async def test_going_back_takes_out_what_was_said_after_that_step(setup_of, root):
    script = [LOOK, says("", FINISH), LOOK, says("", FINISH), says("", FINISH), says("", FINISH)]
    async with await Session.create(root, setup_of(script)) as session:
        await all_events(session, "first")
        await all_events(session, "second")
        assert (session.steps, heard(session)) == ([0, 1, 2, 3, 4], ["first", "second"])
        await session.rewind(2)
        assert heard(session) == ["first"]
        await all_events(session, "another")
        assert heard(session) == ["first", "another"]
        await session.rewind(2)
        assert heard(session) == ["first"]
        await session.rewind(0)
        assert heard(session) == []
        await all_events(session, "anew")
        assert heard(session) == ["anew"]
        await session.rewind(0)
        parent = session.id
    async with await Session.resume(root, parent, setup_of([])) as session:
        assert heard(session) == []


async def test_a_fork_begins_where_a_session_stands_or_before_what_was_said_after_a_step(setup_of, root):
    async with await Session.create(root, setup_of([LOOK, says("", FINISH)])) as session:
        await all_events(session, "first")
        with pytest.raises(EngineError):
            await all_events(session, "and never answered")
        parent = session.id
    for step, known in ((2, ["first"]), (None, ["first", "and never answered"])):
        async with await Session.fork(root, parent, step, setup_of([])) as fork:
            assert heard(fork) == known
            assert fork.info.forked_from.step == 2
