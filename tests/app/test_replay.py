"""`kodkod replay`, on real sessions: what is the same again, and what is not."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kodkod_agent.approval import Approval
from kodkod_agent.config import AgentConfig
from kodkod_agent.context import prompt
from kodkod_agent.events import ApprovalAsked, CallOutput
from kodkod_agent.hooks import CommandHooks, Hook
from kodkod_agent.policy import PermissionMode
from kodkod_agent.profile import Profile
from kodkod_agent.session import Session, SessionSetup
from kodkod_agent.session_folder import SessionFolder
from kodkod_agent.skills import read_skills
from kodkod_agent.trajectory import read
from kodkod_app import paths
from kodkod_app.cli import _run
from kodkod_app.commands.replay import PARTED
from kodkod_app.offline import open_scripted
from kodkod_app.replay_places import Replacement
from kodkod_engine.backends.scripted import replay
from kodkod_engine.chat.byte_tokenizer import write_byte_tokenizer
from kodkod_engine.chat.tokenizer import Tokenizer
from kodkod_sandbox import landlock
from kodkod_sandbox.base import BoxOptions
from kodkod_sandbox.none import NoSandbox
from kodkod_tools.base import ToolResult

from .session_helpers import (
    FAULTY,
    FINISH,
    LOOK,
    MEND,
    PYTEST,
    TOKENIZER,
    add_tests,
    call,
    git,
    make_project,
    record,
    says,
    turn_ids,
)  # fmt: skip

TEMPLATE = """\
<longcat_tool_declare>
# Tools
Others.

## Tool namespace: function

{% for tool in tools %}
### Tool name: {{ tool.function.name }}
Description: {{ tool.function.description }}

InputSchema: {{ tool.function.parameters | tojson }}

{% endfor %}
Call them.</longcat_tool_declare>
"""

BOXES = ["none", *([] if landlock.missing() else ["landlock"])]


def shell(command: str):
    return says("", call("shell", command=command))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(paths.HOME_VARIABLE, str(tmp_path / "home"))
    return paths.sessions_folder()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return make_project(tmp_path / "project")


@pytest.fixture
def replayed(capsys) -> Callable[..., tuple[int, dict[str, Any]]]:
    """Runs the command: exit code and what it reports."""

    def run(session_id: str, *arguments: object, sandbox: str = "none") -> tuple[int, dict[str, Any]]:
        capsys.readouterr()
        code = _run(["replay", session_id, "--sandbox", sandbox, "--output-format", "json", *map(str, arguments)])
        out = capsys.readouterr().out
        return code, json.loads(out) if out else {}

    return run


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("sandbox", BOXES)
@pytest.mark.parametrize("with_git", [True, False])
def test_the_same_again_and_nothing_of_the_persons_is_touched(root, tmp_path, replayed, sandbox, with_git):
    project = make_project(tmp_path / "tree", with_git=with_git)
    told = shell(f"cat {project}/calc.py; pwd; echo x >> {project}/new.txt; sleep 0.1")
    session_id = record(root, project, [("mend add", [LOOK, MEND, told, FINISH])])
    (project / "calc.py").write_text("the person went on\n")
    before = contents(project), contents(root)
    code, report = replayed(session_id, sandbox=sandbox)
    assert (code, report["identical"], report["difference"]) == (0, True, None)
    assert (report["num_turns"], report["recorded_turns"]) == (4, 4)
    assert (contents(project), contents(root)) == before


def test_a_recording_whose_checkpoint_has_got_words_of_its_own_is_the_same_again(root, project, replayed, tmp_path):
    session_id = record(root, project, [("mend add", [LOOK, MEND, FINISH])])
    write_byte_tokenizer(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(TEMPLATE)
    assert Tokenizer.from_folder(tmp_path).words.introduction == "Others."
    code, report = replayed(session_id, "-m", tmp_path)
    assert (code, report["identical"], report["num_turns"]) == (0, True, 3)


def test_a_tool_result_that_is_another_is_shown_from_both_sides(root, project, replayed, tmp_path, capsys):
    outside = tmp_path / "outside.txt"
    outside.write_text("then \x1b[31m[bold]")
    session_id = record(root, project, [("look", [LOOK, shell(f"cat {outside}"), MEND, FINISH])])
    outside.write_text("now \x1b[32m[bold]")
    code, report = replayed(session_id)
    difference = report["difference"]
    assert (code, report["identical"], report["num_turns"]) == (PARTED, False, 2)
    assert (difference["turn"], difference["what"]) == (3, "tool_result")
    assert "then" in difference["recorded"]
    assert "now" in difference["replayed"]
    assert _run(["replay", session_id, "--sandbox", "none"]) == PARTED
    out = capsys.readouterr().out
    assert "parted before turn 3" in out
    assert "[bold]" in out
    assert "\x1b" not in out


def test_the_last_result_counts_too(root, project, replayed, tmp_path):
    outside = tmp_path / "outside.txt"
    outside.write_text("then")
    session_id = record(root, project, [("look", [says("", call("shell", command=f"cat {outside}"), FINISH.calls[0])])])
    outside.write_text("now")
    code, report = replayed(session_id)
    assert (code, report["num_turns"], report["difference"]["turn"]) == (PARTED, 1, 2)


def test_a_prompt_that_is_another_parts_at_the_first_turn(root, project, replayed, monkeypatch):
    session_id = record(root, project, [("look", [LOOK, FINISH])])
    monkeypatch.setattr("kodkod_agent.session_setup.prompt", lambda *_, **__: "You are another.")
    code, report = replayed(session_id)
    difference = report["difference"]
    assert (code, difference["turn"], difference["what"]) == (PARTED, 1, "system")
    assert difference["replayed"].endswith("You are another.")


def test_tests_differ_only_in_the_seconds_they_took(root, project, replayed, monkeypatch):
    add_tests(project)
    turns = [MEND, says("", call("test")), FINISH]
    session_id = record(root, project, [("mend add", turns)], config=AgentConfig(baseline_tests=False), tools=PYTEST)
    monkeypatch.setenv("KODKOD_TOOLS__TEST_COMMAND", json.dumps(PYTEST.test_command))
    assert replayed(session_id)[0] == 0


def test_several_runs_with_the_persons_own_edits_between(root, project, replayed):
    session_id = record(root, project, [("look", [LOOK, FINISH])])
    asyncio.run(
        go_on(
            root,
            session_id,
            project,
            "again",
            [LOOK, MEND, FINISH],
            lambda: (project / "calc.py").write_text(FAULTY + "# mine\n"),
        )
    )
    code, report = replayed(session_id)
    assert (code, report["num_turns"]) == (0, 5)


async def go_on(root, session_id, project, text, turns, first=lambda: None):
    first()
    engine = open_scripted(replay(map(turn_ids, turns)), TOKENIZER)
    box = NoSandbox(BoxOptions(work_tree=project))
    await box.start()
    setup = SessionSetup(
        engine, TOKENIZER, box, project, mode=PermissionMode.BYPASS_PERMISSIONS, trusted=True,
        config=AgentConfig(baseline_tests=False, verify=False),
    )  # fmt: skip
    async with await Session.resume(root, session_id, setup) as session:
        async for _event in session.send(text):
            pass
    await box.close()
    engine.close()


def test_after_a_rewind_the_conversation_that_counts_is_replayed(root, project, replayed):
    runs = [("mend add", [LOOK, MEND, FINISH]), (1, ()), ("no, only look", [LOOK, FINISH])]
    session_id = record(root, project, runs)
    code, report = replayed(session_id)
    assert (code, report["num_turns"], report["note"]) == (0, 3, "")


def test_a_fork_is_replayed_from_where_it_left(root, project, replayed):
    parent = record(root, project, [("mend add", [LOOK, MEND, FINISH])])
    forked = record(root, project, [("go on", [LOOK, MEND, FINISH])], fork=(parent, 1))
    code, report = replayed(forked)
    assert (code, report["num_turns"]) == (0, 3)
    shutil.rmtree(root / parent)
    assert replayed(forked)[0] == 2


def test_refused_calls_stay_refused(root, project, replayed):
    marker = project.parent / "marker"
    turns = [shell(f"touch {marker}"), LOOK, FINISH]
    session_id = asyncio.run(refusing(root, project, turns))
    code, report = replayed(session_id)
    assert (code, report["num_turns"]) == (0, 3)
    assert not marker.exists()


async def refusing(root, project, turns):
    engine = open_scripted(replay(map(turn_ids, turns)), TOKENIZER)
    box = NoSandbox(BoxOptions(work_tree=project))
    config = AgentConfig(baseline_tests=False, verify=False)
    async with await Session.create(root, SessionSetup(engine, TOKENIZER, box, project, config=config)) as session:
        async for event in session.send("go"):
            if isinstance(event, ApprovalAsked):
                session.answer(*(Approval(call_id=one.call.id, allowed=False) for one in event.requests))
        session_id = session.id
    engine.close()
    return session_id


def test_an_interrupted_run_is_followed_as_far_as_it_went(root, project, replayed):
    session_id = asyncio.run(interrupted(root, project))
    code, report = replayed(session_id)
    assert (code, report["recorded_turns"], report["num_turns"]) == (0, 3, 1)
    assert "was ended" in report["note"]


async def interrupted(root, project):
    engine = open_scripted(replay(map(turn_ids, [LOOK, LOOK, FINISH])), TOKENIZER)
    box = NoSandbox(BoxOptions(work_tree=project))
    config = AgentConfig(baseline_tests=False, verify=False, max_turns=1)
    setup = SessionSetup(engine, TOKENIZER, box, project, config=config, mode=PermissionMode.BYPASS_PERMISSIONS)
    async with await Session.create(root, setup) as session:
        for text in ("one", "two", "three"):
            async for event in session.send(text):
                assert event is not None
    engine.close()
    return session.id


@pytest.mark.parametrize("goes_on", [False, True])
def test_a_run_that_was_interrupted_in_a_call_is_followed_to_there(root, project, replayed, goes_on):
    session_id = asyncio.run(stopped_in_a_call(root, project, goes_on=goes_on))
    code, report = replayed(session_id)
    assert (code, report["difference"], report["num_turns"]) == (0, None, 2)
    assert report["note"].startswith("the run was ended after step 2" if goes_on else "")


async def stopped_in_a_call(root, project, *, goes_on: bool) -> str:
    engine = open_scripted(replay(map(turn_ids, [LOOK, shell("echo on; sleep 60"), says("Well."), FINISH])), TOKENIZER)
    box = NoSandbox(BoxOptions(work_tree=project))
    config = AgentConfig(attended=True, baseline_tests=False, verify=False)
    setup = SessionSetup(engine, TOKENIZER, box, project, config=config, mode=PermissionMode.BYPASS_PERMISSIONS)
    await box.start()
    async with await Session.create(root, setup) as session:
        async for event in session.send("one"):
            if isinstance(event, CallOutput) and "on" in event.text:
                session.cancel()
        if goes_on:
            await drained(session.send("two"))
    await box.close()
    engine.close()
    return session.id


@pytest.mark.parametrize("goes_on", [False, True])
def test_a_run_that_took_another_attempts_changes_is_followed_to_there(root, project, replayed, goes_on):
    session_id = asyncio.run(adopting(root, project, goes_on=goes_on))
    code, report = replayed(session_id)
    assert (code, report["difference"], report["num_turns"]) == (0, None, 3)
    assert report["recorded_turns"] == (4 if goes_on else 3)
    assert report["note"].startswith("another attempt's changes were taken after step 3")


def test_a_run_that_took_other_changes_still_parts_where_it_differs(root, project, replayed, monkeypatch):
    session_id = asyncio.run(adopting(root, project, goes_on=False))
    monkeypatch.setattr("kodkod_tools.finish.Finish.run", answering("done otherwise"))
    code, report = replayed(session_id)
    assert (code, report["difference"]["what"], report["note"]) == (PARTED, "tool_result", "")


def answering(text: str):
    async def run(_self, _arguments, _context):
        yield ToolResult(text, facts={"finishes": True, "summary": text})

    return run


async def adopting(root, project, *, goes_on: bool) -> str:
    wrong = says("", call("edit", path="calc.py", old="return a - b", new="return a * b"))
    script = [LOOK, wrong, FINISH, *([FINISH] if goes_on else [])]
    engine = open_scripted(replay(map(turn_ids, script)), TOKENIZER)
    box = NoSandbox(BoxOptions(work_tree=project))
    config = AgentConfig(baseline_tests=False, verify=False)
    setup = SessionSetup(engine, TOKENIZER, box, project, config=config, mode=PermissionMode.BYPASS_PERMISSIONS)
    async with await Session.create(root, setup) as session:
        await drained(session.send("mend add"))
        right = (await session.last_report()).diff.replace("a * b", "a + b")
        await drained(session.adopt(right, prompt("adopted", diff=right), "add adds"))
        if goes_on:
            await drained(session.send("go on"))
    engine.close()
    return session.id


async def drained(events) -> None:
    async for event in events:
        assert event is not None


def test_the_copy_stays_where_it_was_wanted_and_is_cut_off(root, project, replayed, tmp_path):
    session_id = record(root, project, [("mend add", [LOOK, MEND, FINISH])])
    target = tmp_path / "copy"
    assert replayed(session_id, "--work-tree", target)[0] == 0
    assert "return a + b" in (target / "calc.py").read_text()
    assert git(target, "remote") == ""
    assert not (target / ".git/objects/info/alternates").exists()
    inodes = {path.stat().st_ino for path in (project / ".git/objects").rglob("*") if path.is_file()}
    assert inodes.isdisjoint(path.stat().st_ino for path in (target / ".git/objects").rglob("*"))
    assert replayed(session_id, "--work-tree", target)[0] == 2


def test_what_cannot_be_replayed(root, project, replayed, capsys):
    session_id = record(root, project, [("mend add", [LOOK, MEND, FINISH])])
    SessionFolder.find(root, session_id).ledger.write_text("nonsense\n")
    assert _run(["replay", session_id, "--sandbox", "none"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    empty = record(root, project, [])
    assert _run(["replay", empty, "--sandbox", "none"]) == 1
    assert _run(["replay", "nobody", "--sandbox", "none"]) == 2


def long_text(project: Path) -> None:
    (project / "long.txt").write_text("all work and no play\n" * 270)


READ = says("", call("view", path="long.txt"))


def test_a_conversation_is_followed_through_its_compactions(root, project, replayed):
    long_text(project)
    turns = [LOOK, READ, says("I looked."), MEND, READ, says("I mended it."), LOOK, FINISH]
    session_id = record(root, project, [("read it", turns)], context_tokens=24_000)
    kinds = [entry.event.kind for entry in read(SessionFolder.find(root, session_id).trajectory)]
    assert kinds.count("rebuilt") == 2
    code, report = replayed(session_id)
    assert not report["difference"], json.dumps(report["difference"], indent=1)
    assert (code, report["note"]) == (0, "")
    assert (report["num_turns"], report["recorded_turns"]) == (6, 6)


@pytest.mark.parametrize("goes_on", [False, True])
def test_a_conversation_that_the_person_had_shortened_is_followed(root, project, replayed, goes_on):
    session_id = asyncio.run(shortened(root, project, goes_on=goes_on))
    code, report = replayed(session_id)
    assert not report["difference"], json.dumps(report["difference"], indent=1)
    assert (code, report["note"], report["num_turns"]) == (0, "", 5 if goes_on else 2)


def test_where_it_parts_before_the_person_had_it_shortened_is_told(root, project, replayed, monkeypatch):
    async def otherwise(_self, _arguments, _context):
        yield ToolResult("other words")

    session_id = asyncio.run(shortened(root, project, goes_on=True))
    monkeypatch.setattr("kodkod_tools.view.View.run", otherwise)
    code, report = replayed(session_id)
    assert (code, report["difference"]["what"]) == (PARTED, "tool_result")


async def shortened(root, project, *, goes_on: bool) -> str:
    long_text(project)
    script = [READ, says("It is long. " * 100), says("I read it."), LOOK, MEND, says("Mended.")]
    engine = open_scripted(replay(map(turn_ids, script)), TOKENIZER)
    box = NoSandbox(BoxOptions(work_tree=project))
    config = AgentConfig(attended=True, verify=False)
    setup = SessionSetup(engine, TOKENIZER, box, project, config=config, mode=PermissionMode.BYPASS_PERMISSIONS)
    async with await Session.create(root, setup) as session:
        await drained(session.send("read it"))
        await drained(session.compact("what it says"))
        if goes_on:
            await drained(session.send("mend add"))
    engine.close()
    return session.id


def test_what_comes_after_a_compaction_is_compared_too(root, project, replayed, tmp_path):
    long_text(project)
    outside = tmp_path / "outside.txt"
    outside.write_text("then")
    turns = [LOOK, READ, says("I looked."), shell(f"cat {outside}"), FINISH]
    session_id = record(root, project, [("read it", turns)], context_tokens=24_000)
    outside.write_text("now")
    code, report = replayed(session_id)
    assert (code, report["difference"]["turn"], report["difference"]["what"]) == (PARTED, 4, "tool_result")


def test_facts_of_the_moment_are_told_as_they_were(root, project, replayed, monkeypatch):
    session_id = record(root, project, [("look", [LOOK] * 9 + [FINISH])], config=LOW)
    (project / "new.txt").write_text("git would tell of it")
    told = [entry.event.text for entry in read(SessionFolder.find(root, session_id).trajectory) if notice(entry)]
    assert [text.split(":")[0] for text in told] == ["Facts of the moment", "Left of this run", "Left of this run"]
    monkeypatch.setattr("kodkod_agent.moment.date", type("Doomsday", (), {"today": lambda: date(2999, 1, 1)}))
    code, report = replayed(session_id)
    assert (code, report["num_turns"], report["difference"]) == (0, 10, None)


LOW = AgentConfig(baseline_tests=False, verify=False, max_turns=10, max_loop_warnings=100)


def notice(entry) -> bool:
    return entry.event.kind == "notice" and not entry.event.text.startswith("You")


def test_a_call_that_the_person_changed_is_changed_again(root, project, replayed):
    session_id = asyncio.run(changing(root, project, [LOOK, MEND, FINISH]))
    assert "return b + a" in (project / "calc.py").read_text()
    code, report = replayed(session_id)
    assert (code, report["num_turns"], report["difference"]) == (0, 3, None)


async def changing(root, project, turns):
    changed = {"path": "calc.py", "old": "return a - b", "new": "return b + a"}
    engine = open_scripted(replay(map(turn_ids, turns)), TOKENIZER)
    box = NoSandbox(BoxOptions(work_tree=project))
    config = AgentConfig(baseline_tests=False, verify=False)
    async with await Session.create(root, SessionSetup(engine, TOKENIZER, box, project, config=config)) as session:
        async for event in session.send("go"):
            if isinstance(event, ApprovalAsked):
                (one,) = event.requests
                session.answer(Approval(call_id=one.call.id, allowed=True, arguments=changed))
    engine.close()
    return session.id


def test_a_session_is_replayed_with_the_profile_it_had(root, project, replayed):
    plain = Profile(tools=("view", "edit", "finish"), declare_tools=False, system=False)
    session_id = record(root, project, [("mend add", [LOOK, MEND, FINISH])], profile=plain)
    code, report = replayed(session_id)
    assert (code, report["num_turns"], report["difference"]) == (0, 3, None)


def test_a_fork_that_went_on_with_the_run_is_replayed(root, project, replayed):
    parent = record(root, project, [("mend add", [LOOK, MEND, FINISH])])
    forked = asyncio.run(going_on(root, parent, project, [MEND, FINISH]))
    code, report = replayed(forked)
    assert (code, report["num_turns"], report["difference"]) == (0, 2, None)


async def going_on(root, parent, project, turns):
    engine = open_scripted(replay(map(turn_ids, turns)), TOKENIZER)
    box = NoSandbox(BoxOptions(work_tree=project))
    setup = SessionSetup(
        engine, TOKENIZER, box, project, mode=PermissionMode.BYPASS_PERMISSIONS,
        config=AgentConfig(baseline_tests=False, verify=False),
    )  # fmt: skip
    async with await Session.fork(root, parent, 1, setup) as session:
        async for _event in session.go_on():
            pass
    engine.close()
    return session.id


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(["/old/place", "/other", "é", "<longcat_s>", "\n"]) | st.integers(0, 10), max_size=12))
def test_places_are_replaced_and_every_other_token_stays(parts):
    controls = sorted(TOKENIZER.control_ids)

    def ids_of(place: str) -> list[int]:
        ids: list[int] = []
        for part in parts:
            text = part.replace("/old/place", place) if isinstance(part, str) else ""
            ids += TOKENIZER.encode_text(text) if isinstance(part, str) else [controls[part % len(controls)]]
        return ids

    assert Replacement({"/old/place": "/new"}, TOKENIZER).in_ids(ids_of("/old/place")) == ids_of("/new")


# Tools of other programs


def test_tools_of_other_programs_answer_what_was_recorded(root, project, replayed):
    from ..agent.foreign import FakeForeign, offering

    tool, more = FakeForeign(), {}
    more.update(offering(tool))
    name = "mcp__far__echo"

    def change(given):
        tool.description = "Says it to everybody."
        more["mcp__far__other"] = FakeForeign(name="other")
        return f"heard {given['text']}"

    tool.answer = change
    script = [
        says("", call(name, text="a"), call(name, text=3)),
        says("", call("mcp__far__other", text="b"), call(name, text="c")),
        LOOK,
        FINISH,
    ]
    session_id = record(root, project, [("go", script)], more=more)
    heard = len(tool.calls)
    code, report = replayed(session_id)
    assert (code, report["difference"], report["num_turns"]) == (0, None, 4)
    assert len(tool.calls) == heard


def test_skills_are_told_and_read_as_they_were(root, project, replayed, tmp_path):
    file = tmp_path / "mine" / "tidy" / "SKILL.md"
    file.parent.mkdir(parents=True)
    file.write_text("---\nname: tidy\ndescription: How it is tidied here.\n---\nSweep.\n")
    session_id = asyncio.run(reading(root, project, read_skills(tmp_path / "mine", tmp_path).found))
    finished = [e.event for e in read(root / session_id / "trajectory.jsonl") if e.event.kind == "call_finished"]
    assert "Sweep." in finished[0].for_model
    code, report = replayed(session_id)
    assert (code, report["difference"], report["num_turns"]) == (0, None, 2)


async def reading(root, project, skills):
    """A session whose model views the one page it is told of, wherever it lies."""
    turns = iter([lambda page: says("", call("view", path=str(page))), lambda _: FINISH])

    def say(_):
        [page] = root.glob("*/logs/skill-tidy.md")
        return turn_ids(next(turns)(page))

    engine = open_scripted(say, TOKENIZER)
    box = NoSandbox(BoxOptions(work_tree=project))
    config = AgentConfig(baseline_tests=False, verify=False)
    setup = SessionSetup(engine, TOKENIZER, box, project, config=config, skills=skills)
    async with await Session.create(root, setup) as session:
        async for event in session.send("go"):
            assert event is not None
    engine.close()
    return session.id


def test_no_hook_is_run_again(root, project, replayed, tmp_path):
    hooks = CommandHooks(
        (
            Hook(event="before_tool", tools=("shell",), command="exit 2"),
            Hook(event="after_tool", command=f"""echo x >> {tmp_path}/ran; echo '{{"message": "mind\\\\nit"}}'"""),
            Hook(event="stop", command=f"test -e {tmp_path}/again || {{ touch {tmp_path}/again; exit 2; }}"),
        )
    )
    config = AgentConfig(attended=True, baseline_tests=False, verify=False)
    script = [LOOK, MEND, shell("echo never"), says("Done."), says("Really.")]
    session_id = record(root, project, [("go", script)], hooks=hooks, config=config)
    assert (tmp_path / "ran").read_text() == "x\nx\n"
    finished = [e.event for e in read(root / session_id / "trajectory.jsonl") if e.event.kind == "call_finished"]
    assert finished[0].for_model.endswith("\n[a hook says: mind\nit]")
    assert finished[2].refused
    code, report = replayed(session_id)
    assert (code, report["difference"], report["num_turns"]) == (0, None, 5)
    assert (tmp_path / "ran").read_text() == "x\nx\n"
