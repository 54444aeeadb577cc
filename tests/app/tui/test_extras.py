"""What a project brings, in the terminal app: named and not used at first; asked about when it is."""

import json
import sys
from pathlib import Path

from kodkod_agent.rules import Rule
from kodkod_app import paths
from kodkod_app.tui import store as s

from ..conftest import turn

PROGRAMS = Path(__file__).parents[2] / "tools" / "mcp" / "programs"
EVIL, NOTES = PROGRAMS / "evil_server.py", PROGRAMS / "notes_server.py"
LOOK = turn("", ("mcp__evil__look", {"text": "[bold]hm[/]"}))


def name_server(project):
    """One whose words are escape sequences, markup and orders."""
    entry = {"command": sys.executable, "args": [str(EVIL), "words"]}
    (project / ".mcp.json").write_text(json.dumps({"mcpServers": {"evil": entry}}))


def num_done(driver):
    """Calls that came to their end."""
    return sum(call.state is s.CallState.DONE for call in driver.entries(s.Call))


async def test_a_project_that_is_not_trusted_is_named(open_app, record, project):
    name_server(project)
    async with open_app(record(LOOK, turn("No."))) as driver:
        await driver.opened()
        [note] = [note.text for note in driver.entries(s.Note) if "is not trusted" in note.text]
        assert "its MCP servers (evil) are not used" in note
        await driver.say("look")
        await driver.idle()
        [call] = driver.entries(s.Call)
        assert "unknown tool" in call.output


async def test_a_servers_tool_is_asked_about_and_its_words_are_no_commands(open_app, record, project):
    name_server(project)
    async with open_app(record(LOOK, LOOK, turn("Seen.")), wish={"trusts": True}) as driver:
        await driver.opened()
        await driver.say("look")
        for number in (1, 2):
            await driver.until(lambda: "is done by the MCP server evil" in driver.screen_text(), "the question")
            assert "[bold]hm[/]" in driver.screen_text()
            assert "in the MCP server evil, outside the box" in driver.screen_text()
            await driver.pilot.press("y")
            await driver.until(lambda wanted=number: num_done(driver) == wanted, "the answer")
        await driver.idle()
        calls = driver.entries(s.Call)
        assert [call.state for call in calls] == [s.CallState.DONE] * 2
        assert "rm -rf" in calls[0].output
        assert not [
            char
            for entry in (calls[0].output, calls[0].outcome, driver.screen_text())
            for char in "\x1b\u202e"
            if char in entry
        ]
        assert driver.app.workbench.session.permissions.mode == "default"


async def listed(driver, command, *told):
    """What a command's list shows, once it shows this; the list is closed again."""
    await driver.say(command)
    await driver.until(lambda: all(text in driver.screen_text() for text in ("search", *told)), command)
    shown = driver.screen_text()
    await driver.pilot.press("escape")
    await driver.until(lambda: len(driver.app.screen_stack) == 1, "the chat")
    return shown


async def test_servers_are_listed_and_one_that_ended_is_started_again(open_app, record, project):
    entry = {"command": sys.executable, "args": [str(NOTES)]}
    broken = {"command": "${KODKOD_NOT_SET}"}
    (project / ".mcp.json").write_text(json.dumps({"mcpServers": {"notes": entry, "broken": broken}}))
    leave, add = turn("", ("mcp__notes__leave", {})), turn("", ("mcp__notes__add", {"a": 2, "b": 3}))
    model = record(leave, turn("Gone."), turn("Hm."), add, turn("Added."))
    async with open_app(model, wish={"trusts": True}, permission_mode="bypassPermissions") as driver:
        await driver.opened()
        shown = await listed(driver, "/mcp", "MCP servers", "The project's, in .mcp.json", "ready, 5 tools")
        assert "mcp__notes__add" in shown
        assert "not started: ${KODKOD_NOT_SET} is not set" in shown
        await driver.say("leave")
        await driver.idle()
        await driver.say("hm")  # what became of it is told with the next turn
        await driver.idle()
        [note] = [note.text for note in driver.entries(s.Note) if "has ended" in note.text]
        assert note == "MCP server notes has ended (out of paper); /mcp restart notes starts it again"
        await listed(driver, "/mcp", "has ended (out of paper); /mcp restart notes starts it again")
        await driver.say("/mcp restart notes")
        await driver.idle()
        assert driver.entries(s.Note)[-1].text == "MCP server notes was started again; what it held is gone"
        await driver.say("add")
        await driver.idle()
        assert driver.entries(s.Call)[-1].output == "5"
        await driver.say("/mcp restart other")
        await driver.idle()
        assert driver.entries(s.Note)[-1].text == "no MCP server other was started; /mcp lists them"


async def test_skills_are_listed_with_whose_they_are(open_app, record, project):
    for folder, name, about in (
        (paths.user_skills(), "mine", "How I [bold]write[/]."),
        (paths.project_skills(project), "theirs", "How they write."),
    ):
        (folder / name).mkdir(parents=True)
        (folder / name / "SKILL.md").write_text(f'---\nname: {name}\ndescription: "{about}"\n---\nSo.\n')
    for trusts in (False, True):
        async with open_app(record(turn("Yes.")), wish={"trusts": trusts}) as driver:
            await driver.opened()
            shown = await listed(driver, "/skills", "How I [bold]write[/].", "mine/SKILL.md")
            assert ("How they write." in shown) is trusts
            assert ("its skills (theirs) are not used" in shown) is not trusts
            await driver.say("/skills")
            await driver.until(lambda: "mine/SKILL.md" in driver.screen_text(), "the list")
            await driver.pilot.press(*"mine")
            await driver.until(lambda: "theirs" not in driver.screen_text(), "what was searched")
            await driver.pilot.press("escape")


async def test_where_nothing_is_added_the_lists_say_how_to(open_app, record, project):
    async with open_app(record(turn("Yes."))) as driver:
        await driver.opened()
        for command, told in (("/skills", "/NAME/SKILL.md"), ("/mcp", "[mcp_servers.NAME]")):
            await listed(driver, command, told)
        await driver.say("/mcp again notes")
        assert len(driver.app.screen_stack) == 1
        assert not driver.app.is_busy


async def test_always_saves_the_fingerprint_of_the_definition(open_app, record, project):
    name_server(project)
    async with open_app(record(LOOK, turn("Seen.")), wish={"trusts": True}) as driver:
        await driver.opened()
        session = driver.app.workbench.session
        tool = session.tools.more["mcp__evil__look"]
        driver.app._save_rules((Rule(tool=tool.spec.name, pattern=tool.fingerprint),))
    assert f'"mcp__evil__look({tool.fingerprint})"' in paths.user_settings().read_text()
    async with open_app(record(LOOK, turn("Seen.")), wish={"trusts": True}) as driver:
        await driver.opened()
        await driver.say("look")
        await driver.idle()
        assert [call.state for call in driver.entries(s.Call)] == [s.CallState.DONE]
