"""A run as JSON on standard output: one object at its end, or one a line as it goes.

The objects have the types and keys that programs of this kind share: `system` (subtype `init` first), `assistant` with
content blocks of text, thinking and tool use, `user` with tool results, and one `result` last. What only kodkod has
(tests, patch, status, exit code) is further keys of the result.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import click

from kodkod_agent import events
from kodkod_agent.report import CandidateReport, RunReport
from kodkod_agent.state import Status
from kodkod_app.headless import Scene
from kodkod_app.report_text import TextProgress
from kodkod_engine.messages import ToolCall
from kodkod_tools import registry

Entry = dict[str, Any]
_SUBTYPES = {Status.DONE: "success", Status.UNVERIFIED: "success", Status.LIMIT: "error_limit"}


def result_entry(report: RunReport, exit_code: int) -> Entry:
    """The last object of a run."""
    return {
        "type": "result",
        "subtype": _SUBTYPES.get(report.status, "error_during_execution"),
        "is_error": report.status not in (Status.DONE, Status.UNVERIFIED),
        "session_id": report.session_id,
        "result": report.summary,
        "status": str(report.status),
        "reason": report.reason,
        "exit_code": exit_code,
        "num_turns": report.turns,
        "duration_ms": round(report.seconds * 1000),
        "usage": {
            "input_tokens": report.prompt_tokens - report.reused_tokens,
            "cache_read_input_tokens": report.reused_tokens,
            "output_tokens": report.generated_tokens,
        },
        "tests_before": dict(report.tests_before),
        "tests_after": dict(report.tests_after),
        "diff": report.diff,
        "test_runs": report.test_runs,
        "winner": report.winner,
        "candidates": [candidate_entry(candidate) for candidate in report.candidates],
    }


def candidate_entry(candidate: CandidateReport) -> Entry:
    """One candidate, as plain values."""
    return {**asdict(candidate), "status": str(candidate.status)}


class JsonRenderer(TextProgress):
    """Progress as text on standard error, then one object."""

    def end(self, report: RunReport, exit_code: int) -> None:
        """The object."""
        self._end_line()
        _print(result_entry(report, exit_code))


class StreamJsonRenderer:
    """One object a line as the run goes. A turn of the model is one object, when it is complete."""

    def __init__(self) -> None:
        self._session_id = ""
        self._text: list[str] = []
        self._thinking: list[str] = []
        self._calls: list[ToolCall] = []

    def begin(self, scene: Scene) -> None:
        """The `init` object."""
        self._session_id = scene.session_id
        self._system(
            "init",
            cwd=str(scene.work_tree),
            model=scene.model,
            tools=[spec.name for spec in registry.specs()],
            permissionMode=str(scene.mode),
            sandbox=scene.box,
            python=scene.python,
        )

    def show(self, event: events.Event) -> None:
        """One event."""
        match event:
            case events.TextDelta(text):
                self._text.append(text)
            case events.ReasoningDelta(text):
                self._thinking.append(text)
            case events.CallWritten(call):
                self._calls.append(call)
            case events.UsageReported() | events.RunEnded():
                self._end_turn()
            case events.CallFinished():
                self._tool_result(event)
            case events.TestsRan(before, facts, _):
                self._system("tests", when="before" if before else "after", facts=dict(facts))
            case events.CandidateEnded(report):
                self._system("candidate", candidate=candidate_entry(report))
            case events.Notice(text):
                self._system("notice", text=text)
            case events.ContextRebuilt(tokens_before, tokens_after, _):
                self._system("compact_boundary", pre_tokens=tokens_before, post_tokens=tokens_after)
            case _:
                pass

    def end(self, report: RunReport, exit_code: int) -> None:
        """The `result` object."""
        _print(result_entry(report, exit_code))

    def _end_turn(self) -> None:
        thinking, text = "".join(self._thinking), "".join(self._text)
        content: list[Entry] = [{"type": "thinking", "thinking": thinking}] if thinking else []
        content += [{"type": "text", "text": text}] if text else []
        content += [
            {"type": "tool_use", "id": call.id, "name": call.name, "input": dict(call.arguments)}
            for call in self._calls
        ]
        if content:
            self._message("assistant", content)
        self._text, self._thinking, self._calls = [], [], []

    def _tool_result(self, event: events.CallFinished) -> None:
        is_error = event.refused or event.error is not None
        block = {"type": "tool_result", "tool_use_id": event.call_id, "content": event.for_model, "is_error": is_error}
        self._message("user", [block])

    def _message(self, role: str, content: list[Entry]) -> None:
        _print({"type": role, "message": {"role": role, "content": content}, "session_id": self._session_id})

    def _system(self, subtype: str, **facts: Any) -> None:
        _print({"type": "system", "subtype": subtype, "session_id": self._session_id, **facts})


def _print(entry: Entry) -> None:
    # ASCII alone: what a model wrote cannot steer a terminal, and lone surrogates do no harm.
    click.echo(json.dumps(entry))
