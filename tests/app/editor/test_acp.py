"""A real client of the protocol drives `kodkod acp`: a repair with an approval, cancel, load, modes, faults."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from types import SimpleNamespace

import acp
import pytest

from kodkod_agent.session_folder import list_sessions
from kodkod_app import paths
from kodkod_app.bootstrap import SMALL_MODEL_NOTE
from kodkod_app.editor.agent import KodkodAgent

from ..conftest import FAULTY, FINISH, LOOK, MEND, MENDED, shell, turn
from .conftest import LIMIT_S, beside, spawned

PLAN = turn("My plan:\n- [x] look\n- [ ] mend", ("view", {"path": "calc.py"}))
SLOW = shell("echo begun; sleep 600")


async def begin(agent, project):
    return (await agent.new_session(cwd=str(project), mcp_servers=[])).session_id


async def say(agent, session_id, *blocks):
    return await agent.prompt(session_id=session_id, prompt=[acp.text_block(one) for one in blocks])


async def test_a_repair_with_an_approval(editor, project, record, home):
    async with spawned(editor, "-m", record(PLAN, MEND, FINISH), "--sandbox", "none", home=home) as agent:
        session_id = await begin(agent, project)
        ended = await say(agent, session_id, "mend add")
    assert ended.stop_reason == "end_turn"
    assert (project / "calc.py").read_text() == MENDED

    ((question, options),) = editor.questions
    assert [option.kind for option in options] == ["allow_once", "allow_always", "reject_once"]
    assert options[1].name == "Always allow edit(/calc.py)"
    assert (question.title, question.kind) == ("edit calc.py", "edit")
    (change,) = [part for part in question.content if part.type == "diff"]
    assert (change.path, change.old_text, change.new_text) == (str(project / "calc.py"), FAULTY, MENDED)

    assert "My plan:" in editor.said()
    assert "add adds" in editor.said()
    (plan,) = editor.of("plan")
    assert [(entry.content, entry.status) for entry in plan.entries] == [("look", "completed"), ("mend", "pending")]
    starts = {call.tool_call_id: call.kind for call in editor.of("tool_call")}
    assert list(starts.values()) == ["read", "edit", "think", "execute"]
    last = {update.tool_call_id: update for update in editor.of("tool_call_update") if update.status}
    assert {last[call_id].status for call_id in starts if call_id in last} == {"completed"}
    (edited,) = [update for update in last.values() if update.content and update.content[0].type == "diff"]
    assert edited.locations[0].path == str(project / "calc.py")
    assert editor.of("tool_call")[-1].title == "tests after: the command ended with exit code 0"


async def test_a_session_that_cannot_be_closed_leaves_no_other_open():
    closed = []

    class Desk:
        async def close(self):
            closed.append(self)
            raise OSError("the disk is full")

    agent = KodkodAgent({})
    agent._desks = {"a": Desk(), "b": Desk()}
    agent._models = SimpleNamespace(close=lambda: closed.append("models"))
    with pytest.raises(OSError, match="full"):
        await agent.close()
    assert len(closed) == 3
    assert closed[-1] == "models"


async def test_a_refusal_reaches_the_model_and_always_is_kept(editor, project, record):
    editor.answer = lambda *_: "refuse" if len(editor.questions) == 1 else "always"
    again = turn("Again.", ("edit", {"path": "calc.py", "old": "def add", "new": "def  add"}))
    async with beside(editor, model=record(MEND, MEND, again, turn("Done.")), sandbox="none") as agent:
        session_id = await begin(agent, project)
        await say(agent, session_id, "mend add")
    assert len(editor.questions) == 2, "the third edit was allowed by the answer to the second"
    failed = [update for update in editor.of("tool_call_update") if update.status == "failed"]
    assert "the user refused" in failed[0].content[0].content.text
    assert (project / "calc.py").read_text() == MENDED.replace("def add", "def  add")


async def test_cancel_stops_a_command(editor, project, record):
    options = {"sandbox": "none", "permission_mode": "bypassPermissions"}
    async with beside(editor, model=record(SLOW, turn("Back.")), **options) as agent:
        session_id = await begin(agent, project)
        prompt = asyncio.create_task(say(agent, session_id, "wait"))
        await editor.until(lambda: any(update.status == "in_progress" for update in editor.of("tool_call_update")))
        await agent.cancel(session_id=session_id)
        assert (await prompt).stop_reason == "cancelled"
        assert editor.of("tool_call_update")[-1].status == "failed"
        again = await say(agent, session_id, "go on")
    assert again.stop_reason == "end_turn"
    assert editor.said().endswith("Back.")


async def test_cancel_takes_a_question_back(editor, project, record):
    asked = asyncio.Event()

    async def wait_for_ever():
        asked.set()
        await asyncio.Event().wait()

    editor.answer = lambda *_: wait_for_ever()
    async with beside(editor, model=record(MEND, turn("Done.")), sandbox="none") as agent:
        session_id = await begin(agent, project)
        prompt = asyncio.create_task(say(agent, session_id, "mend add"))
        await asyncio.wait_for(asked.wait(), 120)
        with pytest.raises(acp.RequestError, match="a prompt is being worked on"):
            await say(agent, session_id, "and this")
        await agent.cancel(session_id=session_id)
        assert (await prompt).stop_reason == "cancelled"
    assert (project / "calc.py").read_text() == FAULTY


@pytest.mark.parametrize(("work", "mode"), [(SLOW, "bypassPermissions"), (MEND, "default")])
async def test_a_session_that_is_loaded_while_it_works_ends_its_prompt_first(editor, project, record, work, mode):
    editor.answer = lambda *_: asyncio.Event().wait()

    def is_busy():
        return editor.questions or any(update.status == "in_progress" for update in editor.of("tool_call_update"))

    async with beside(editor, model=record(work, turn("Back.")), sandbox="none", permission_mode=mode) as agent:
        session_id = await begin(agent, project)
        prompt = asyncio.create_task(say(agent, session_id, "begin"))
        await editor.until(is_busy)
        await agent.load_session(cwd=str(project), session_id=session_id, mcp_servers=[])
        assert (await asyncio.wait_for(prompt, LIMIT_S)).stop_reason == "cancelled"
        assert (await say(agent, session_id, "go on")).stop_reason == "end_turn"
    assert editor.said().endswith("Back.")


async def test_an_earlier_session_is_loaded_and_gone_on_with(editor, project, record, home):
    model = record(LOOK, MEND, FINISH, SLOW, turn("It was the sign."))
    async with beside(editor, model=model, sandbox="none") as agent:
        session_id = await begin(agent, project)
        await say(agent, session_id, "mend add")
    editor.updates.clear()
    async with spawned(editor, "-m", model, "--sandbox", "none", home=home) as agent:
        (listed,) = (await agent.list_sessions(cwd=str(project))).sessions
        assert (listed.session_id, listed.title) == (session_id, "mend add")
        loaded = await agent.load_session(cwd=str(project), session_id=session_id, mcp_servers=[])
        assert loaded.modes.current_mode_id == "default"
        assert editor.said("user_message_chunk") == "mend add"
        assert editor.said() == "I look.Mend it."
        assert [(call.title, call.status) for call in editor.of("tool_call")] == [
            ("view calc.py", "completed"),
            ("edit calc.py", "completed"),
            ("finish add adds", "completed"),
        ]
        (change,) = editor.of("tool_call")[1].content
        assert (change.old_text, change.new_text) == ("return a - b", "return a + b")
        prompt = asyncio.create_task(say(agent, session_id, "wait"))
        await editor.until(lambda: any(update.status == "in_progress" for update in editor.of("tool_call_update")))
        await agent.cancel(session_id=session_id)
        assert (await prompt).stop_reason == "cancelled"
        await say(agent, session_id, "what was it?")
    assert editor.said().endswith("It was the sign.")
    assert [info.id for info in list_sessions(paths.sessions_folder())] == [session_id]


async def test_words_whose_run_ended_before_the_model_answered_are_told_as_well(editor, project, record):
    model = record(turn("One."))
    async with beside(editor, model=model, sandbox="none") as agent:
        session_id = await begin(agent, project)
        await say(agent, session_id, "first.")
        with pytest.raises(acp.RequestError, match="no answer to this request"):
            await say(agent, session_id, "second.")
    editor.updates.clear()
    async with beside(editor, model=model, sandbox="none") as agent:
        await agent.load_session(cwd=str(project), session_id=session_id, mcp_servers=[])
    assert editor.said("user_message_chunk") == "first.second."


async def test_modes_and_files_that_come_along(editor, project, record):
    async with beside(editor, model=record(MEND, turn("Done.")), sandbox="none") as agent:
        opened = await agent.new_session(cwd=str(project), mcp_servers=[])
        assert [mode.id for mode in opened.modes.available_modes] == ["default", "acceptEdits", "plan", "auto"]
        await agent.set_session_mode(session_id=opened.session_id, mode_id="acceptEdits")
        link = acp.resource_link_block("calc.py", (project / "calc.py").as_uri())
        await agent.prompt(session_id=opened.session_id, prompt=[acp.text_block("mend "), link])
        with pytest.raises(acp.RequestError):
            await agent.set_session_mode(session_id=opened.session_id, mode_id="bypassPermissions")
    assert editor.questions == []
    assert (project / "calc.py").read_text() == MENDED
    assert list_sessions(paths.sessions_folder())[0].title == "mend `calc.py`"


async def test_a_conversation_is_shortened_when_the_editor_asks_for_it(editor, project, record):
    model = record(turn("It is long. " * 40), turn("The person asked how long it is."))
    async with beside(editor, model=model, sandbox="none") as agent:
        session_id = await begin(agent, project)
        await editor.until(lambda: editor.of("available_commands_update"))
        (offered,) = editor.of("available_commands_update")
        assert [command.name for command in offered.available_commands] == ["compact"]
        await say(agent, session_id, "how long is it?")
        assert (await say(agent, session_id, "/compact its length")).stop_reason == "end_turn"
        assert "The person asked how long it is." in editor.said("agent_thought_chunk")
        assert "it is long" not in editor.said("agent_thought_chunk").lower()
        await say(agent, session_id, "/compacting is a word")
        assert editor.said().count("It is long.") == 80, "which the model answers"


async def test_faults_are_errors_of_the_protocol(editor, project, record, tmp_path):
    async with beside(editor, model=record(turn("Hi.")), sandbox="none") as agent:
        for cwd in ("relative", str(tmp_path / "nothing")):
            with pytest.raises(acp.RequestError) as fault:
                await begin(agent, cwd)
            assert "is not a folder" in fault.value.data["details"]
        with pytest.raises(acp.RequestError, match="no session"):
            await agent.load_session(cwd=str(project), session_id="nothing", mcp_servers=[])
        session_id = await begin(agent, project)
        for blocks in ([], [acp.image_block("AAAA", "image/png")]):
            with pytest.raises(acp.RequestError):
                await agent.prompt(session_id=session_id, prompt=blocks)
        assert (await say(agent, session_id, "Hi")).stop_reason == "end_turn"
    async with beside(editor, model=str(tmp_path)) as agent:
        with pytest.raises(acp.RequestError, match=r"config\.json"):
            await begin(agent, project)


async def test_the_editors_servers_give_tools_that_are_asked_about(editor, project, record):
    program = Path(__file__).parents[2] / "tools" / "mcp" / "programs" / "notes_server.py"
    named = acp.schema.McpServerStdio(name="notes", command=sys.executable, args=[str(program)], env=[])
    unnamed = acp.schema.SseMcpServer(name="old", url="http://localhost:1/", headers=[], type="sse")
    add = turn("", ("mcp__notes__add", {"a": 2, "b": 3}))
    async with beside(editor, model=record(add, turn("Five.")), sandbox="none") as agent:
        session_id = (await agent.new_session(cwd=str(project), mcp_servers=[named, unnamed])).session_id
        await say(agent, session_id, "add")
    ((question, _),) = editor.questions
    assert question.raw_input == {"a": 2, "b": 3}
    (done,) = [update for update in editor.of("tool_call_update") if update.status == "completed"]
    assert "5" in done.content[0].content.text
    assert editor.said() == "Five."


@pytest.mark.slow
async def test_a_session_whose_agent_was_killed_is_loaded_and_gone_on_with(editor, project, record, home):
    model = record(MEND, SLOW, turn("Back again."))
    options = ("-m", model, "--sandbox", "none", "--permission-mode", "bypassPermissions")
    command = [sys.executable, "-m", "kodkod_app", "acp", *options]
    environment = {**acp.default_environment(), "KODKOD_HOME": str(home)}
    async with acp.spawn_agent_process(editor, *command, env=environment) as (agent, process):
        await agent.initialize(protocol_version=1)
        session_id = await begin(agent, project)
        prompt = asyncio.create_task(say(agent, session_id, "mend add"))
        await editor.until(lambda: any(update.status == "in_progress" for update in editor.of("tool_call_update")))
        process.kill()
        with pytest.raises(ConnectionError):
            await prompt
    assert (project / "calc.py").read_text() == MENDED
    async with spawned(editor, *options, home=home) as agent:
        editor.updates.clear()
        await agent.load_session(cwd=str(project), session_id=session_id, mcp_servers=[])
        assert editor.said() == "Mend it."
        assert (await say(agent, session_id, "go on")).stop_reason == "end_turn"
    assert editor.said().endswith("Back again.")


async def test_without_a_model_it_is_said_once_what_the_small_one_does(editor, project):
    async with beside(editor, sandbox="none", permission_mode="plan") as agent:
        session_id = await begin(agent, project)
        for _ in range(2):
            await say(agent, session_id, "what is here?")
    thoughts = [update.content.text for update in editor.of("agent_thought_chunk")]
    assert thoughts.count(f"note: {SMALL_MODEL_NOTE}\n") == 1
