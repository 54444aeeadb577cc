"""What a project brings, in the terminal app: named and not used at first; asked about when it is."""

import json
import sys
from pathlib import Path

from kodkod_agent.rules import Rule
from kodkod_app import paths
from kodkod_app.tui import store as s

from ..conftest import turn

EVIL = Path(__file__).parents[2] / "tools" / "mcp" / "programs" / "evil_server.py"
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
