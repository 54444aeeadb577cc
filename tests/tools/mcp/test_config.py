"""What a `.mcp.json` may say, and what becomes of one that says something else."""

import json

import pytest

from kodkod_tools.mcp.config import (
    MAX_FILE_BYTES,
    MAX_SERVERS,
    McpServer,
    read_project_file,
    read_servers,
    require_name,
)


def write(folder, servers, **more):
    (folder / ".mcp.json").write_text(json.dumps({"mcpServers": servers, **more}))


def test_servers_of_both_kinds_are_read_and_keys_of_other_programs_passed_over(tmp_path):
    write(
        tmp_path,
        {
            "notes": {"command": "notes", "args": ["--root", "x"], "env": {"A": "1"}, "disabled": False},
            "tickets": {"type": "streamable-http", "url": "https://localhost/mcp", "headers": {"X": "y"}},
        },
        inputs=[],
    )
    named = read_project_file(tmp_path)
    assert named.faults == ()
    assert named.servers["notes"] == McpServer(command="notes", args=("--root", "x"), env={"A": "1"})
    assert named.servers["tickets"].type == "http"
    assert named.servers["tickets"].shown() == "https://localhost/mcp"


def test_a_mark_of_utf_8_before_the_text_is_no_part_of_it(tmp_path):
    (tmp_path / ".mcp.json").write_text('{"mcpServers": {"a": {"command": "x"}}}', encoding="utf-8-sig")
    assert list(read_project_file(tmp_path).servers) == ["a"]


def test_no_file_is_no_server_and_no_fault(tmp_path):
    assert read_project_file(tmp_path) == read_servers({}, "")


@pytest.mark.parametrize(
    ("entry", "cause"),
    [
        ({}, "name either a command or a url"),
        ({"command": "a", "url": "http://b"}, "name either a command or a url"),
        ({"type": "http", "command": "a"}, "does not go with a command"),
        ({"type": "sse", "url": "http://b"}, "the transport sse is not spoken; use http"),
        ({"url": "ftp://b"}, "url:"),
        ({"command": "a", "args": "x"}, "args: Input should be a valid list"),
        ({"command": "a", "call_timeout_s": 0}, "call_timeout_s:"),
        ("a", "Input should be"),
    ],
)
def test_one_that_cannot_be_is_named_and_the_others_stay(tmp_path, entry, cause):
    write(tmp_path, {"bad": entry, "good": {"command": "x"}})
    named = read_project_file(tmp_path)
    assert list(named.servers) == ["good"]
    [fault] = named.faults
    assert "MCP server 'bad': " in fault
    assert cause in fault
    assert "\n" not in fault


@pytest.mark.parametrize("name", ["", "a__b", "_a", "a_", "a b", "ä", "\x1b[31m", "x" * 33, "a.b"])
def test_a_name_that_could_be_taken_for_another_is_none(name):
    with pytest.raises(ValueError, match="a name has up to 32"):
        require_name(name)


@pytest.mark.parametrize("text", ["", "[]", '{"mcpServers": 3}', "{", "[" * 100_000, "\xff"])
def test_a_file_that_says_something_else_is_a_fault_in_one_line(tmp_path, text):
    (tmp_path / ".mcp.json").write_bytes(text.encode("latin-1"))
    named = read_project_file(tmp_path)
    assert named.servers == {}
    [fault] = named.faults
    assert "mend or remove it" in fault


def test_a_file_or_a_list_without_end_is_bounded(tmp_path):
    (tmp_path / ".mcp.json").write_bytes(b" " * (MAX_FILE_BYTES + 1))
    assert "more than" in read_project_file(tmp_path).faults[0]
    named = read_servers({f"s{n}": {"command": "x"} for n in range(MAX_SERVERS + 5)}, "here")
    assert len(named.servers) == MAX_SERVERS
    assert named.faults == (f"here: there are more than {MAX_SERVERS} MCP servers; the rest are left out",)


def test_variables_are_filled_in_where_they_are_set():
    server = McpServer(
        command="${BIN}/notes", args=("${A:-b c}", "$A", "${A"), env={"TOKEN": "x${TOKEN}y"}, cwd="${BIN}"
    )
    filled = server.expanded({"BIN": "/opt", "TOKEN": "${BIN}"})
    assert (filled.command, filled.args, filled.cwd) == ("/opt/notes", ("b c", "$A", "${A"), "/opt")
    assert filled.env == {"TOKEN": "x${BIN}y"}  # what is filled in is not looked at again
    assert McpServer(url="${URL}", headers={"A": "Bearer ${T}"}).expanded(
        {"URL": "http://localhost", "T": "s"}
    ).headers == {"A": "Bearer s"}


def test_a_variable_that_is_not_set_is_named():
    with pytest.raises(ValueError, match=r"\$\{BIN\} is not set; set it, or write \$\{BIN:-otherwise\}"):
        McpServer(command="${BIN}/x").expanded({})
    with pytest.raises(ValueError, match="url"):
        McpServer(url="${URL}").expanded({"URL": "file:///etc/passwd"})
