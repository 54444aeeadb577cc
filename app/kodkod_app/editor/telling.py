"""What happens in a session, as updates for an editor."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import acp
from acp.schema import PlanEntryStatus, ToolCallLocation, ToolCallStatus

from kodkod_agent import events
from kodkod_agent.report import RunReport
from kodkod_app.editor.call_content import (
    MAX_SHOWN_CHARS,
    Content,
    arguments_of,
    diff_content,
    kind_of,
    places_of,
    quoted_change,
    sides_of,
    text_content,
    title_of,
)
from kodkod_app.render import for_terminal
from kodkod_app.report_text import is_bad, told_shortening, told_tests
from kodkod_app.session_story import StoryStep
from kodkod_app.tui.plan import read_plan
from kodkod_engine.messages import ToolCall
from kodkod_tools.base import FileDiff

Update = Any
"""One of the protocol's session updates."""
_OUTPUT_S = 0.25
"""Between two looks at a call's output while it grows: each shows all of it again."""


@dataclass(slots=True)
class _Running:
    call: ToolCall
    output: str = ""
    """Its end, as much as is shown."""
    chars_before: int = 0
    shown_s: float = 0.0

    def say(self, text: str) -> None:
        whole = self.output + text
        self.output = whole[-MAX_SHOWN_CHARS:]
        self.chars_before += len(whole) - len(self.output)


@dataclass(slots=True)
class Telling:
    """Of one session; remembers the calls that are under way."""

    work_tree: Path
    _calls: dict[str, _Running] = field(default_factory=dict)
    _prose: list[str] = field(default_factory=list)
    _tests: int = 0

    def tell(self, event: events.Event) -> Iterator[Update]:
        """The updates an event makes."""
        match event:
            case events.TextDelta(text):
                self._prose.append(text)
                yield acp.update_agent_message_text(for_terminal(text))
            case events.ReasoningDelta(text):
                yield acp.update_agent_thought_text(for_terminal(text))
            case events.CallStarted(call_id, name):
                yield acp.start_tool_call(call_id, name, kind=kind_of(name), status="pending")
            case events.CallWritten(call):
                self._calls[call.id] = _Running(call)
                yield acp.update_tool_call(call.id, **self.described(call))
            case events.CallOutput(call_id, text, _):
                yield from self._output(call_id, text)
            case events.CallFinished():
                yield self._finished(event)
            case events.TurnStarted():
                self._prose.clear()
            case events.TurnEnded():
                yield from self._plan("".join(self._prose))
            case events.TestsRan():
                yield self._tested(event)
            case events.RunEnded(report):
                yield from self._ended(report)
            case _:
                yield from _noted(event)

    def described(self, call: ToolCall) -> dict[str, Any]:
        """What is known of a call before it is done."""
        return {
            "title": title_of(call),
            "kind": kind_of(call.name),
            "raw_input": arguments_of(call),
            "locations": places_of(call, self.work_tree),
        }

    def _output(self, call_id: str, text: str) -> Iterator[Update]:
        running = self._calls.get(call_id)
        if running is None:
            return
        running.say(text)
        now_s = time.monotonic()
        if now_s - running.shown_s >= _OUTPUT_S:
            running.shown_s = now_s
            shown = text_content(running.output, running.chars_before)
            yield acp.update_tool_call(call_id, status="in_progress", content=[shown])

    def _finished(self, event: events.CallFinished) -> Update:
        self._calls.pop(event.call_id, None)
        failed = event.refused or event.error is not None or bool(event.facts.get("exit_code"))
        content, places = self._result(event.for_person, event.for_model)
        return acp.update_tool_call(
            event.call_id,
            status="failed" if failed else "completed",
            content=content,
            locations=places,
            raw_output=dict(event.facts) or None,
        )

    def _result(
        self, for_person: str | FileDiff, for_model: str
    ) -> tuple[list[Content], list[ToolCallLocation] | None]:
        if not isinstance(for_person, FileDiff):
            return [text_content(for_model)], None
        shown = diff_content(for_person, self.work_tree)
        return [shown], [ToolCallLocation(path=shown.path, line=sides_of(for_person).line)]

    def _plan(self, prose: str) -> Iterator[Update]:
        steps = read_plan(prose)
        if steps:
            entries = [acp.plan_entry(for_terminal(step.text), status=_PLAN[step.state.value]) for step in steps]
            yield acp.update_plan(entries)

    def _tested(self, event: events.TestsRan) -> Update:
        self._tests += 1
        when = "before" if event.before else "after"
        return acp.start_tool_call(
            f"tests_{self._tests}_{when}",
            f"tests {when}: {told_tests(event.facts)}",
            kind="execute",
            status="failed" if is_bad(event.facts) else "completed",
            content=[text_content(event.text)],
        )

    def _ended(self, report: RunReport) -> Iterator[Update]:
        for call_id in self._calls:
            yield acp.update_tool_call(call_id, status="failed")
        self._calls.clear()
        told = _told_end(report, "".join(self._prose))
        self._prose.clear()
        if told:
            yield acp.update_agent_message_text(for_terminal(f"\n\n{told}"))

    def past(self, steps: Sequence[StoryStep], unanswered: Sequence[str] = ()) -> Iterator[Update]:
        """What was said and done before, and what was said last if no turn followed."""
        for step in steps:
            for said in step.said:
                yield acp.update_user_message_text(for_terminal(said))
            if step.turn.reasoning:
                yield acp.update_agent_thought_text(for_terminal(step.turn.reasoning))
            if step.turn.text.strip():
                yield acp.update_agent_message_text(for_terminal(step.turn.text))
            yield from self._plan(step.turn.text)
            for call in step.turn.calls:
                yield self._past_call(step, call)
            for rebuilt in step.shortened:
                yield _shortened(rebuilt.tokens_before, rebuilt.tokens_after, rebuilt.summary)
        for said in unanswered:
            yield acp.update_user_message_text(for_terminal(said))

    def _past_call(self, step: StoryStep, call: ToolCall) -> Update:
        finished = step.outcomes.get(call.id)
        status: ToolCallStatus = "completed" if step.outcome(call) == "ok" else "failed"
        change = quoted_change(call, self.work_tree) if status == "completed" else None
        content: list[Content] = [change] if change is not None else []
        if finished is not None and change is None:
            content.append(text_content(finished.for_model))
        call_id = f"{step.number}_{call.id}"
        return acp.start_tool_call(call_id, **self.described(call), status=status, content=content)


_PLAN: dict[str, PlanEntryStatus] = {
    "pending": "pending",
    "in_progress": "in_progress",
    "completed": "completed",
}


def _told_end(report: RunReport, prose: str) -> str:
    """What the person would not know from all that came before: a last word, and why the run did not end well."""
    parts = [report.summary] if report.summary.strip() and report.summary.strip() not in prose else []
    if report.status != "done":
        parts.append(f"[{report.status}] {report.reason}")
    return "\n\n".join(parts)


def _noted(event: events.Event) -> Iterator[Update]:
    match event:
        case events.Notice(text):
            yield acp.update_agent_thought_text(for_terminal(f"note: {text}\n"))
        case events.ContextRebuilt(before, after, summary):
            yield _shortened(before, after, summary)
        case events.CandidateEnded(report):
            told = f"candidate {report.number}: {report.change}  {report.status}\n"
            yield acp.update_agent_thought_text(for_terminal(told))
        case _:
            pass


def _shortened(tokens_before: int, tokens_after: int, summary: str) -> Update:
    told = f"note: {told_shortening(tokens_before, tokens_after)}; it goes on from this summary:"
    return acp.update_agent_thought_text(for_terminal(f"{told}\n{summary}\n"))
