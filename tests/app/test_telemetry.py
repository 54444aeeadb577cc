"""Spans of a session, as OpenTelemetry's own exporters get them."""

import contextlib
import importlib.util
import json

import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from kodkod_agent.config import AgentConfig
from kodkod_agent.spans import NoSpans
from kodkod_app import paths
from kodkod_app.telemetry import Exporter, TelemetryConfig, TelemetryMissing, open_spans, spans_to
from kodkod_engine.errors import EngineError

from .conftest import FINISH, LOOK, MEND, turn
from .session_helpers import call as make_call
from .session_helpers import make_project, record, says

FREE = AgentConfig(baseline_tests=False, verify=False, constraints=False)
PLAIN = ("--sandbox", "none", "--permission-mode", "bypassPermissions")


def recorded(tmp_path, script, **options):
    """The spans of a session with one run, the parents last."""
    exporter = InMemorySpanExporter()
    with spans_to(SimpleSpanProcessor(exporter), "toy", **options) as spans, contextlib.suppress(EngineError):
        project = make_project(tmp_path / "tree")
        record(tmp_path / "sessions", project, [("mend add", script)], spans=spans, config=FREE)
    return exporter.get_finished_spans()


SCRIPT = [
    says("I look.", make_call("view", path="calc.py")).model_copy(update={"reasoning": "a secret thought"}),
    says("", make_call("view", path="nowhere.py")),
    says("", make_call("finish", summary="nothing")),
]


def test_a_run_its_turns_and_its_calls(tmp_path):
    spans = recorded(tmp_path, SCRIPT)
    assert [span.name for span in spans] == [
        "chat toy", "execute_tool view", "chat toy", "execute_tool view", "chat toy", "execute_tool finish",
        "invoke_agent kodkod",
    ]  # fmt: skip
    *inner, run = spans
    assert run.parent is None
    assert {span.parent.span_id for span in inner} == {run.context.span_id}
    assert {span.context.trace_id for span in spans} == {run.context.trace_id}
    assert all(run.start_time <= span.start_time <= span.end_time <= run.end_time for span in inner)
    assert run.resource.attributes["service.name"] == "kodkod"

    chats = [span.attributes for span in spans if span.attributes["gen_ai.operation.name"] == "chat"]
    assert [chat["gen_ai.response.finish_reasons"] for chat in chats] == [("tool_call",)] * 3
    assert all(chat["gen_ai.request.model"] == "toy" for chat in chats)
    assert all(chat["gen_ai.request.temperature"] == 0 for chat in chats)
    for name in ("input_tokens", "output_tokens", "cache_read.input_tokens"):
        total = sum(chat[f"gen_ai.usage.{name}"] for chat in chats)
        assert run.attributes[f"gen_ai.usage.{name}"] == total > 0
    assert chats[1]["gen_ai.usage.cache_read.input_tokens"] > chats[0]["gen_ai.usage.input_tokens"] / 2

    view, missing = (span for span in spans if span.name == "execute_tool view")
    assert view.status.is_unset
    assert view.attributes["gen_ai.tool.name"] == "view"
    assert view.attributes["gen_ai.tool.call.id"] == "call_0"
    assert (missing.attributes["error.type"], missing.status.is_ok) == ("not_found", False)
    assert run.attributes["gen_ai.conversation.id"]
    assert run.attributes["kodkod.run.turns"] == 3


def test_content_is_told_when_it_is_asked_for_and_not_before(tmp_path):
    words = ("mend add", "I look.", "a secret thought", "calc.py", "return a - b")
    silent = "".join(span.to_json() for span in recorded(tmp_path / "a", SCRIPT))
    assert not [word for word in words if word in silent]
    spans = recorded(tmp_path / "b", SCRIPT, content=True)
    told = "".join(span.to_json() for span in spans)
    assert all(word in told for word in words)
    said = json.loads(spans[0].attributes["gen_ai.output.messages"])
    assert said == [
        {
            "role": "assistant",
            "parts": [
                {"type": "reasoning", "content": "a secret thought"},
                {"type": "text", "content": "I look."},
                {"type": "tool_call", "id": "call_0", "name": "view", "arguments": {"path": "calc.py"}},
            ],
        }
    ]


def test_a_fault_is_told_by_its_kind(tmp_path):
    *_, chat, run = recorded(tmp_path, SCRIPT[:1])
    assert chat.name == "chat toy"
    assert chat.attributes["error.type"].endswith("Error")
    assert run.attributes["error.type"] == chat.attributes["error.type"]
    assert run.attributes["kodkod.run.status"] == "fault"
    assert not chat.status.is_ok
    assert not chat.events


def test_calls_that_are_refused_are_not_done(kodkod, project, record, settings_file):
    settings_file.write_text('[telemetry]\nexporter = "file"\n[permissions]\ndeny = ["edit"]\n')
    assert kodkod("fix", "-C", project, "--issue", "x", "-m", record(MEND, LOOK, FINISH), *PLAIN).code == 3
    written = paths.sessions_folder().parent / "spans.jsonl"
    assert written.stat().st_mode & 0o077 == 0
    lines = written.read_text().splitlines()
    names = [json.loads(line)["name"] for line in lines]
    assert [name for name in names if name.startswith("execute_tool")] == ["execute_tool view", "execute_tool finish"]
    assert names[-1] == "invoke_agent kodkod"


def test_it_is_off_unless_asked_for(kodkod, project, record):
    with open_spans(TelemetryConfig(), "toy") as spans:
        assert isinstance(spans, NoSpans)
    assert kodkod("-p", "hi", "-C", project, "-m", record(turn("Hello.")), *PLAIN).code == 0
    assert not list(paths.sessions_folder().parent.glob("*.jsonl"))


@pytest.mark.parametrize(
    ("exporter", "missing", "told"),
    [
        (Exporter.FILE, "opentelemetry.sdk", "pip install 'kodkod[telemetry]'"),
        (Exporter.OTLP, "opentelemetry.exporter", "pip install opentelemetry-exporter-otlp-proto-http"),
    ],
)
def test_a_missing_package_is_named_in_one_line(monkeypatch, exporter, missing, told):
    find = importlib.util.find_spec

    def without(name, *rest):
        return None if name.startswith(missing) else find(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    with pytest.raises(TelemetryMissing) as fault, open_spans(TelemetryConfig(exporter=exporter), "toy"):
        pass
    assert told in str(fault.value)
    assert "\n" not in str(fault.value)
    assert fault.value.exit_code == 2


def test_a_file_that_cannot_be_written_is_named_before_the_model_is_loaded(
    kodkod, project, settings_file, monkeypatch, tmp_path
):
    settings_file.write_text(f'[telemetry]\nexporter = "file"\nfile = "{tmp_path}/none/spans.jsonl"\n')
    monkeypatch.setattr("kodkod_app.bootstrap.open_model", lambda *_: pytest.fail("the model was loaded"))
    found = kodkod("-p", "hi", "-C", project)
    assert found.code == 2
    assert found.err.splitlines()[-1].endswith("(No such file or directory); name another telemetry.file")


def test_the_file_may_be_named_from_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    with open_spans(TelemetryConfig(exporter=Exporter.FILE, file="~/spans.jsonl"), "toy"):
        assert (tmp_path / "spans.jsonl").exists()


def test_a_project_does_not_say_where_spans_go(kodkod, project):
    (project / ".kodkod" / "config.toml").write_text('[telemetry]\nexporter = "file"\nfile = "/tmp/x"\n')
    found = kodkod("-p", "hi", "-C", project)
    assert found.code == 2
    assert "telemetry: a project may not set it" in found.err


def test_a_missing_package_is_named_before_the_model_is_loaded(kodkod, project, settings_file, monkeypatch):
    settings_file.write_text('[telemetry]\nexporter = "otlp"\n')
    monkeypatch.setattr("kodkod_app.bootstrap.open_model", lambda *_: pytest.fail("the model was loaded"))
    found = kodkod("-p", "hi", "-C", project, *PLAIN)
    assert found.code == 2
    assert found.err.count("\n") == 1
    assert "pip install opentelemetry-exporter-otlp-proto-http" in found.err
