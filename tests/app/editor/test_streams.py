"""Nothing but the protocol on standard output, whatever else prints; and an end when the editor leaves."""

from __future__ import annotations

import json
import subprocess
import sys

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
