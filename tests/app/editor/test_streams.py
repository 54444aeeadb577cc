"""Nothing but the protocol on standard output, whatever else prints; and an end when the editor leaves."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys

from kodkod_app.editor.lines import MessageLines

from ..conftest import shell, turn

STRAY = """
import os, sys
from kodkod_app.cli import main
from kodkod_app.editor.agent import KodkodAgent

greet = KodkodAgent.initialize

async def noisy(self, **fields):
    print("a stray line of a library")
    sys.stdout.flush()
    os.system("echo a stray line of a command; cat")
    return await greet(self, **fields)

KodkodAgent.initialize = noisy
main(sys.argv[1:])
"""


def asked(number, method, **params):
    return json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params}) + "\n"


def test_only_the_protocol_is_on_standard_output(project, record):
    model = record(shell("echo to standard output"), turn("Done."))
    arguments = ["acp", "-m", model, "--sandbox", "none", "--permission-mode", "bypassPermissions"]
    with subprocess.Popen(
        [sys.executable, "-c", STRAY, *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        lines = []

        def ask(number, method, **params):
            process.stdin.write(asked(number, method, **params))
            process.stdin.flush()
            for line in process.stdout:
                lines.append(json.loads(line))
                if lines[-1].get("id") == number and "method" not in lines[-1]:
                    return lines[-1]["result"]
            raise AssertionError("it left without an answer")

        assert ask(0, "initialize", protocolVersion=1)["protocolVersion"] == 1
        session_id = ask(1, "session/new", cwd=str(project), mcpServers=[])["sessionId"]
        prompt = [{"type": "text", "text": "say something"}]
        assert ask(2, "session/prompt", sessionId=session_id, prompt=prompt)["stopReason"] == "end_turn"
        process.stdin.close()
        assert process.stdout.read() == ""
        assert process.wait(timeout=120) == 0
        said = process.stderr.read()
    assert all(line["jsonrpc"] == "2.0" for line in lines)
    assert "a stray line of a library" in said
    assert "a stray line of a command" in said
    assert "Traceback" not in said


NO_MESSAGES = (
    "[]",
    "5",
    "null",
    '"hello"',
    "true",
    '{"id": {}, "result": 1}',
    '{"id": 1, "method": 5}',
    "{",
    "[" * 9_000,
)


def test_what_is_no_message_is_answered_and_the_next_one_is_read():
    lines = [*NO_MESSAGES, "", asked(7, "initialize", protocolVersion=1).strip()]
    arguments = [sys.executable, "-m", "kodkod_app", "acp"]
    done = subprocess.run(
        arguments, input="\n".join(lines) + "\n", capture_output=True, text=True, timeout=120, check=False
    )
    *refusals, answer = map(json.loads, done.stdout.splitlines())
    assert [refusal["error"]["code"] for refusal in refusals] == [-32600] * 7 + [-32700] * 2
    assert {refusal["id"] for refusal in refusals} == {None}
    assert answer["result"]["protocolVersion"] == 1
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)


def test_a_message_longer_than_any_may_be_is_refused_and_the_next_one_is_read():
    async def read():
        reader, writer = asyncio.StreamReader(limit=100), Said()
        reader.feed_data(b'{"method": "' + b"x" * 300 + b'"}\n{"method": "short"}\n')
        reader.feed_eof()
        lines = MessageLines(reader, writer)
        return await lines.receive(), await lines.receive(), writer.said

    found, end, said = asyncio.run(read())
    assert (found, end) == ({"method": "short"}, None)
    assert [json.loads(line)["error"]["code"] for line in said] == [-32600]


class Said:
    """A writer that keeps what is written."""

    def __init__(self):
        self.said = []

    def write(self, data):
        self.said.append(data)

    async def drain(self):
        pass
