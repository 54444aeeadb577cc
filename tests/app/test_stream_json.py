"""The shapes of the JSON formats."""

from __future__ import annotations

import json

import pytest

from kodkod_agent import events
from kodkod_agent.report import RunReport
from kodkod_agent.state import Status
from kodkod_app.stream_json import StreamJsonRenderer, result_entry

from .conftest import FINISH, LOOK, MEND

PLAIN = ("--sandbox", "none", "--issue", "add subtracts")
RESULT_KEYS = {
    "type", "subtype", "is_error", "session_id", "result", "status", "reason", "exit_code", "num_turns", "duration_ms",
    "usage", "tests_before", "tests_after", "diff", "test_runs", "winner", "candidates",
}  # fmt: skip


def test_a_run_as_lines(kodkod, project, record):
    found = kodkod("fix", "-C", project, "-m", record(LOOK, MEND, FINISH), *PLAIN, "--output-format", "stream-json")
    assert found.code == 0
    assert found.err == ""
    first, *middle, last = [json.loads(line) for line in found.out.splitlines()]
    assert (first["type"], first["subtype"], first["cwd"]) == ("system", "init", str(project))
    assert (first["sandbox"], first["permissionMode"]) == ("none", "acceptEdits")
    assert "edit" in first["tools"]
    assert {entry["session_id"] for entry in (first, *middle, last)} == {first["session_id"]}
    talk = [entry for entry in middle if entry["type"] != "system"]
    assert [entry["type"] for entry in talk] == ["assistant", "user"] * 3
    said, answered = (entry["message"]["content"] for entry in talk[:2])
    assert said[0] == {"type": "text", "text": "I look."}
    assert (said[1]["type"], said[1]["name"], said[1]["input"]) == ("tool_use", "view", {"path": "calc.py"})
    assert answered[0]["tool_use_id"] == said[1]["id"]
    assert (answered[0]["type"], answered[0]["is_error"]) == ("tool_result", False)
    assert [entry["when"] for entry in middle if entry.get("subtype") == "tests"] == ["before", "after"]
    assert set(last) == RESULT_KEYS
    assert (last["subtype"], last["is_error"], last["exit_code"], last["result"]) == ("success", False, 0, "add adds")
    assert "+    return a + b" in last["diff"]


def test_json_is_one_object_with_progress_beside_it(kodkod, project, record):
    found = kodkod("fix", "-C", project, "-m", record(MEND, FINISH), *PLAIN, "--output-format", "json")
    assert set(json.loads(found.out)) == RESULT_KEYS
    assert "edit calc.py" in found.err


@pytest.mark.parametrize(
    ("status", "subtype", "is_error"),
    [
        (Status.DONE, "success", False),
        (Status.UNVERIFIED, "success", False),
        (Status.LIMIT, "error_limit", True),
        (Status.INTERRUPTED, "error_during_execution", True),
        (Status.FAULT, "error_during_execution", True),
    ],
)
def test_how_an_end_is_called(status, subtype, is_error):
    report = RunReport("s", status, "why", "", "", prompt_tokens=10, reused_tokens=7, generated_tokens=2, seconds=1.5)
    entry = result_entry(report, 5)
    assert (entry["subtype"], entry["is_error"], entry["exit_code"]) == (subtype, is_error, 5)
    assert entry["usage"] == {"input_tokens": 3, "cache_read_input_tokens": 7, "output_tokens": 2}
    assert entry["duration_ms"] == 1500


def test_a_turn_that_was_broken_off_is_shown_and_only_ascii_leaves(capsys):
    renderer = StreamJsonRenderer()
    report = RunReport("s", Status.INTERRUPTED, "", "", "")
    for event in (events.ReasoningDelta("hm"), events.TextDelta("half \x1b[2J \ud800 é"), events.RunEnded(report)):
        renderer.show(event)
    out = capsys.readouterr().out
    assert out.isascii()
    assert "\x1b" not in out
    (entry,) = map(json.loads, out.splitlines())
    assert [block["type"] for block in entry["message"]["content"]] == ["thinking", "text"]
    assert entry["message"]["content"][1]["text"] == "half \x1b[2J \ud800 é"
