"""Real servers, made with the SDK, over pipes and over loopback: started, called, changed, ended."""

import asyncio
import os
import socket
import sys
import threading
from pathlib import Path

import pytest
import uvicorn

from kodkod_engine.messages import ToolCall
from kodkod_tools.base import ErrorCode, ToolContext, ToolResult
from kodkod_tools.config import ToolsConfig
from kodkod_tools.mcp.config import McpServer
from kodkod_tools.mcp.servers import McpServers
from kodkod_tools.registry import run_call

from ..conftest import LocalDouble

PROGRAMS = Path(__file__).parent / "programs"


def program(name, *arguments, **options):
    return McpServer(command=sys.executable, args=(str(PROGRAMS / f"{name}.py"), *arguments), **options)


@pytest.fixture
def context_of(tmp_path):
    def make(servers):
        return ToolContext(LocalDouble(None), tmp_path, ToolsConfig(), tmp_path / "logs", more=servers)

    return make


def serving(tmp_path, **servers):
    return McpServers(servers, tmp_path, tmp_path / "logs", os.environ)


async def called(context, name, **arguments):
    call = ToolCall(id="c", name=name, arguments=arguments)
    [result] = [item async for item in run_call(call, context) if isinstance(item, ToolResult)]
    return result


async def until(condition, servers):
    async with asyncio.timeout(60):
        while not condition(servers):
            await asyncio.sleep(0.02)


async def test_a_server_over_pipes_from_its_start_to_its_end(tmp_path, context_of):
    server = program("notes_server", env={"NOTES_FOR": "${WHO:-me}"})
    async with serving(tmp_path, notes=server) as servers:
        await servers.settled()
        assert servers.notes() == []
        assert set(servers) == {f"mcp__notes__{name}" for name in ("add", "note", "learn", "refuse", "leave")}
        tool = servers["mcp__notes__add"]
        assert (tool.spec.description, tool.server) == ("Add two numbers.", "notes")
        context = context_of(servers)
        result = await called(context, "mcp__notes__add", a=2, b=3)
        assert (result.for_model, result.for_person, result.error) == ("5", "5", None)
        kept = await called(context, "mcp__notes__note", text="hm", kind="task", tags=["x"])
        assert kept.for_model == "kept task: hm ['x'] for me"
        wrong = await called(context, "mcp__notes__note", text="hm", kind="dream")
        assert wrong.error is ErrorCode.BAD_ARGUMENTS
        assert "kind: 'dream' is not one of ['idea', 'task']" in wrong.for_model
        failed = await called(context, "mcp__notes__refuse")
        assert failed.error is ErrorCode.FAILED
        assert failed.facts["is_error"]
        unknown = await called(context, "mcp__notes__ad", a=1, b=2)
        assert unknown.error is ErrorCode.UNKNOWN_TOOL
        assert "mcp__notes__add" in unknown.for_model

        before = servers["mcp__notes__add"].fingerprint
        await called(context, "mcp__notes__learn")
        await until(lambda found: "mcp__notes__forget" in found, servers)
        assert servers["mcp__notes__add"].fingerprint == before
        assert (await called(context, "mcp__notes__forget")).for_model == "forgotten"

        gone = await called(context, "mcp__notes__leave")
        assert gone.error is ErrorCode.UNAVAILABLE
        assert "whether it did the call is not known" in gone.for_model
        again = await called(context, "mcp__notes__add", a=1, b=2)
        assert again.error is ErrorCode.UNAVAILABLE
        assert again.for_model == "error: the MCP server notes has ended (out of paper)"
        assert servers.notes() == ["MCP server notes has ended (out of paper)"]
        assert "mcp__notes__add" in servers


async def test_a_call_that_is_not_answered_ends_and_the_server_stays(tmp_path, context_of):
    async with serving(tmp_path, deaf=program("evil_server", "deaf", call_timeout_s=0.3)) as servers:
        await servers.settled()
        for _ in range(2):
            late = await called(context_of(servers), "mcp__deaf__say")
            assert late.error is ErrorCode.TIMEOUT
            assert "did not answer within 0.3 s; it may still do it" in late.for_model
        assert servers.notes() == []


async def test_a_call_can_be_cancelled_and_so_can_a_start(tmp_path, context_of):
    servers = serving(
        tmp_path, deaf=program("evil_server", "deaf"), silent=program("evil_server", "silent", start_timeout_s=600)
    )
    async with servers:
        await servers.connections["deaf"].settled()
        calling = asyncio.create_task(called(context_of(servers), "mcp__deaf__say"))
        await asyncio.sleep(0.05)
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        assert servers.connections["deaf"].is_ready
        assert servers.notes() == []
    assert not servers.connections["silent"].is_ready


@pytest.fixture
def over_http(monkeypatch):
    """The same server on a port of the loopback; its URL."""
    sys.path.insert(0, str(PROGRAMS))
    try:
        from notes_server import server
    finally:
        sys.path.remove(str(PROGRAMS))
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        server.streamable_http_app(), log_level="critical", ws="none", timeout_graceful_shutdown=1, lifespan="on"
    )
    running = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: running.run(sockets=[listening]))
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/mcp"
    running.should_exit = True
    thread.join(30)
    assert not thread.is_alive()


async def test_a_server_over_http(tmp_path, context_of, over_http):
    async with serving(tmp_path, web=McpServer(url=over_http)) as servers:
        await servers.settled()
        assert servers.notes() == []
        context = context_of(servers)
        assert (await called(context, "mcp__web__add", a=2, b=3)).for_model == "5"
        await called(context, "mcp__web__learn")
        await until(lambda found: "mcp__web__forget" in found, servers)


async def test_those_that_do_not_stand_are_named_and_the_others_serve(tmp_path, context_of):
    servers = serving(
        tmp_path,
        missing=McpServer(command=str(tmp_path / "nowhere")),
        unset=McpServer(command="${KODKOD_NOT_SET}"),
        silent=program("evil_server", "silent", start_timeout_s=1),
        ended=McpServer(command=sys.executable, args=("-c", "import sys; sys.exit('no licence')")),
        nobody=McpServer(url="http://127.0.0.1:9/mcp", start_timeout_s=5),
        say=program("evil_server", "change"),
    )
    async with servers:
        await servers.settled()
        notes = "\n".join(servers.notes())
        assert notes.count("\n") == 4
        assert "MCP server missing has failed" in notes
        assert "MCP server unset is not started: ${KODKOD_NOT_SET} is not set" in notes
        assert "MCP server silent was not ready within 1 s" in notes
        assert "MCP server ended has ended (no licence)" in notes
        assert "MCP server nobody has failed" in notes
        assert list(servers) == ["mcp__say__say"]


async def test_of_what_one_wrote_the_end_is_read_however_much_it_is(tmp_path):
    code = "import os, sys; os.ftruncate(2, 1 << 40); os.lseek(2, 0, os.SEEK_END); sys.exit('no licence')"
    async with serving(tmp_path, wordy=McpServer(command=sys.executable, args=("-c", code))) as servers:
        await servers.settled()
        (note,) = servers.notes()
        assert note.endswith("no licence)")
        assert len(note) < 1_000


async def test_one_that_is_killed_is_named_at_once(tmp_path):
    code = f"import os,sys; print(os.getpid(), file=open('{tmp_path}/pid', 'w')); sys.argv[1:] = ['change']; "
    code += f"exec(open('{PROGRAMS}/evil_server.py').read())"
    async with serving(tmp_path, say=McpServer(command=sys.executable, args=("-c", code))) as servers:
        await servers.settled()
        assert servers.notes() == []
        os.kill(int((tmp_path / "pid").read_text()), 9)
        await until(lambda found: found.connections["say"].fault, servers)
        assert servers.notes() == ["MCP server say has ended"]


async def test_one_that_has_ended_is_started_again_when_asked_to_and_forgets_what_it_held(tmp_path, context_of):
    servers = McpServers(
        {"notes": program("notes_server")}, tmp_path, tmp_path / "logs", os.environ, "try {name} again"
    )
    async with servers:
        await servers.settled()
        context = context_of(servers)
        await called(context, "mcp__notes__learn")
        await until(lambda found: "mcp__notes__forget" in found, servers)
        for _ in range(2):
            await called(context, "mcp__notes__leave")
            assert servers.notes() == ["MCP server notes has ended (out of paper); try notes again"]
            assert (await called(context, "mcp__notes__add", a=1, b=2)).error is ErrorCode.UNAVAILABLE
            await servers.restart("notes")
            assert servers.connections["notes"].is_ready
            assert "mcp__notes__forget" not in servers
            assert (await called(context, "mcp__notes__add", a=1, b=2)).for_model == "3"
        assert servers.notes() == []
        with pytest.raises(LookupError, match="no MCP server 'other'"):
            await servers.restart("other")


async def test_one_that_cannot_be_started_again_says_why_and_one_that_runs_begins_anew(tmp_path, context_of):
    pids = tmp_path / "pids"
    script = tmp_path / "server.py"
    program = (PROGRAMS / "notes_server.py").read_text()
    script.write_text(f"import os\nprint(os.getpid(), file=open({str(pids)!r}, 'a'))\n{program}")
    async with serving(tmp_path, notes=McpServer(command=sys.executable, args=(str(script),))) as servers:
        await servers.settled()
        await servers.restart("notes")
        assert (await called(context_of(servers), "mcp__notes__add", a=1, b=2)).for_model == "3"
        first, second = map(int, pids.read_text().split())
        assert first != second
        os.kill(second, 9)
        await until(lambda found: found.connections["notes"].fault, servers)
        script.write_text("import sys; sys.exit('no licence')")
        await servers.restart("notes")
        assert servers.connections["notes"].fault == "has ended (no licence)"
        assert servers.notes() == ["MCP server notes has ended", "MCP server notes has ended (no licence)"]


async def test_a_call_that_is_under_way_does_not_end_what_is_started_again(tmp_path, context_of):
    async with serving(tmp_path, deaf=program("evil_server", "deaf")) as servers:
        await servers.settled()
        calling = asyncio.create_task(called(context_of(servers), "mcp__deaf__say"))
        await asyncio.sleep(0.05)
        await servers.restart("deaf")
        assert (await calling).error is ErrorCode.UNAVAILABLE
        assert servers.connections["deaf"].is_ready
        assert servers.notes() == []


# A malicious one


@pytest.fixture
async def evil(tmp_path):
    """Opens a malicious server that does one kind of thing."""
    opened = []

    async def make(kind):
        servers = serving(tmp_path, evil=program("evil_server", kind))
        opened.append(servers)
        await servers.__aenter__()
        await servers.settled()
        return servers

    yield make
    for servers in opened:
        await servers.close()


async def test_its_costly_schemas_are_refused_or_end_soon(evil, context_of):
    servers = await evil("schemas")
    assert set(servers) == {f"mcp__evil__{name}" for name in ("doubling", "round", "regex", "fetch")}
    notes = servers.notes()
    assert all(note.startswith("MCP server evil: its tool ") and note.isprintable() for note in notes)
    assert len(notes) == 4
    context = context_of(servers)
    for name in ("doubling", "round", "fetch"):
        result = await called(context, f"mcp__evil__{name}", x="a")
        assert "it cannot be called" in result.for_model, name
    assert (await called(context, "mcp__evil__regex", x="a" * 60 + "!")).error is None


async def test_a_list_that_is_none_ends_it(evil):
    servers = await evil("wrong")
    assert not servers
    [note] = servers.notes()
    assert note.startswith("MCP server evil has failed: ")
    assert note.isprintable()


@pytest.mark.parametrize("kind", ["deep", "deeper"])
async def test_its_depths_are_not_gone_down(evil, kind):
    servers = await evil(kind)
    assert not servers
    assert "MCP server evil" in servers.notes()[0]


async def test_its_names_shadow_nothing_and_write_on_no_screen(evil):
    servers = await evil("names")
    assert set(servers) == {"mcp__evil__shell", "mcp__evil__a-b"}
    notes = servers.notes()
    assert len(notes) == 5
    assert all(note.isprintable() for note in notes)


async def test_its_words_are_cleaned_and_bounded(evil, context_of):
    servers = await evil("words")
    told = servers["mcp__evil__look"].spec.description
    assert len(told) <= 2_000
    assert "\x1b" not in told + servers["mcp__evil__say"].spec.description
    assert "\u202e" not in told
    result = await called(context_of(servers), "mcp__evil__look")
    assert "\x1b" not in result.for_model + result.for_person
    assert "[image, image/png, about 30 bytes: not shown]" in result.for_model
    assert "[a link: file:///etc/shadow]" in result.for_model


async def test_its_tools_are_counted(evil):
    servers = await evil("many")
    assert len(servers) == 64
    assert servers.notes() == ["MCP server evil offers more than 64 tools; the rest are left out"]


async def test_a_flood_is_cut_for_the_model_and_whole_on_disk(evil, context_of, tmp_path):
    servers = await evil("flood")
    result = await called(context_of(servers), "mcp__evil__flood")
    assert len(result.for_model) <= ToolsConfig().max_result_chars
    assert result.for_model.endswith("the end")
    assert len(result.for_person) <= 200
    assert result.for_log.stat().st_size == 10_000_007
    assert (await called(context_of(servers), "mcp__evil__say")).error is None


async def test_a_definition_that_changes_has_another_fingerprint(evil, context_of):
    servers = await evil("change")
    before = servers["mcp__evil__say"]
    await called(context_of(servers), "mcp__evil__say")
    await until(lambda found: found["mcp__evil__say"].spec != before.spec, servers)
    assert servers["mcp__evil__say"].fingerprint != before.fingerprint
