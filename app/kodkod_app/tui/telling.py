"""Agent events into the store and the meter: the screen's memory of a session. Knows no widgets."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from difflib import unified_diff
from itertools import groupby, takewhile
from typing import Any

from kodkod_agent import events
from kodkod_agent.report import RunReport
from kodkod_agent.state import Status
from kodkod_app.render import counted
from kodkod_app.report_text import diff_stat, is_bad, told_shortening, told_tests
from kodkod_app.tui import store as s
from kodkod_app.tui.inert import inert, inert_line
from kodkod_app.tui.meter import Meter
from kodkod_app.tui.plan import read_plan
from kodkod_engine.api import EngineStats
from kodkod_engine.messages import ToolCall
from kodkod_tools.base import FileDiff

_MAX_OUTCOME_CHARS = 200


_Piece = events.TextDelta | events.ReasoningDelta | events.ArgumentDelta | events.CallOutput


def coalesced(items: Iterable[object]) -> list[object]:
    """The same, with neighbouring pieces of one text joined: a burst of tokens is one change of the screen."""
    return [whole for _, pieces in groupby(items, _text_of) for whole in _joined(list(pieces))]


def _joined(items: list[object]) -> list[object]:
    first = items[0]
    if len(items) == 1 or not isinstance(first, _Piece):
        return items
    # All at once: joined one by one, a command's output would be copied for each of its pieces.
    return [replace(first, text="".join(item.text for item in items if isinstance(item, _Piece)))]


def _text_of(item: object) -> tuple[object, ...]:
    """What tells the text that it is a piece of from others; of what is none, itself."""
    match item:
        case events.TextDelta() | events.ReasoningDelta():
            return (type(item),)
        case events.ArgumentDelta(call_id, key, _):
            return (type(item), call_id, key)
        case events.CallOutput(call_id, _, _):
            return (type(item), call_id)
        case _:
            return (id(item),)


class Teller:
    """Takes in a session's events, one after another."""

    def __init__(self, store: s.Store, meter: Meter) -> None:
        self._store = store
        self._meter = meter
        self._answer: s.Answer | None = None
        self._calls: dict[str, s.Call] = {}
        self._ending: s.Ending | None = None
        """Of a run that was interrupted and is not reported yet."""

    def tell(self, event: events.Event, counters: EngineStats) -> None:
        """One event; `counters` are the engine's of this moment."""
        match event:
            case events.TextDelta() | events.ReasoningDelta():
                self._prose(event)
            case events.CallStarted() | events.ArgumentDelta() | events.CallWritten():
                self._written(event)
            case events.CallOutput(call_id, text, _) if call := self._calls.get(call_id):
                call.state = s.CallState.RUNNING
                call.say(text)
                self._store.touch(call)
            case events.CallFinished():
                self._finished(event)
            case events.TurnStarted() | events.UsageReported():
                self._counted(event, counters)
            case events.RunInterrupted(reason):
                self._interrupted(reason)
            case events.RunEnded(report):
                self._ended(report)
            case events.TurnEnded():
                self._close_answer()
            case _:
                self._noted(event)

    def adopt(self, entries: Iterable[s.Entry]) -> None:
        """Know the calls of a turn that was cut short, should the run go on."""
        for entry in entries:
            if isinstance(entry, s.Call) and entry.state is s.CallState.CUT:
                self._calls[entry.call_id] = entry

    def asked(self, call_ids: Iterable[str]) -> None:
        """These calls wait for the person."""
        self._state(call_ids, s.CallState.ASKED)

    def answered(self, call_ids: Iterable[str]) -> None:
        """They no longer do."""
        self._state(call_ids, s.CallState.RUNNING)

    def _state(self, call_ids: Iterable[str], state: s.CallState) -> None:
        for call_id in call_ids:
            if call := self._calls.get(call_id):
                call.state = state
                self._store.touch(call)

    def _prose(self, event: events.TextDelta | events.ReasoningDelta) -> None:
        text = inert(event.text)
        if self._answer is None:
            if not text.strip():
                return
            self._answer = s.Answer(is_open=True)
            self._store.add(self._answer)
            text = text.lstrip("\n")
        if isinstance(event, events.TextDelta):
            self._answer.text += text
        else:
            self._answer.reasoning += text
        self._store.touch(self._answer)

    def _close_answer(self) -> None:
        if self._answer is None:
            return
        self._answer.is_open = False
        self._store.plan = read_plan(self._answer.text) or self._store.plan
        self._store.touch(self._answer)
        self._answer = None

    def _written(self, event: events.CallStarted | events.ArgumentDelta | events.CallWritten) -> None:
        self._close_answer()
        match event:
            case events.CallStarted(call_id, name):
                self._call(call_id, name)
            case events.ArgumentDelta(call_id, key, text) if call := self._calls.get(call_id):
                call.arguments[key] = call.arguments.get(key, "") + inert(text)
                self._store.touch(call)
            case events.CallWritten(written):
                call = self._calls.get(written.id) or self._call(written.id, written.name)
                call.arguments = told_arguments(written)
                call.state = s.CallState.RUNNING
                self._store.touch(call)
            case _:
                pass

    def _call(self, call_id: str, name: str) -> s.Call:
        call = s.Call(call_id, inert_line(name, 80))
        self._calls[call_id] = call
        self._store.add(call)
        return call

    def _finished(self, event: events.CallFinished) -> None:
        call = self._calls.get(event.call_id) or self._call(event.call_id, event.name)
        call.state = _state_of(event)
        call.duration_s = event.duration_s
        finish(call, event.for_model, event.facts)
        if isinstance(event.for_person, FileDiff):
            call.diff = told_diff(event.for_person)
            call.outcome = f"+{call.diff.added} -{call.diff.removed}"
        elif event.for_person and call.state is s.CallState.DONE:
            # What it is about is told already: a summary is both, and what is looked at is named first.
            told = inert(event.for_person)
            rest = "" if told == call.subject else told.removeprefix(f"{call.subject}, ")
            call.outcome = inert_line(rest, _MAX_OUTCOME_CHARS)
        self._store.touch(call)

    def _counted(self, event: events.TurnStarted | events.UsageReported, counters: EngineStats) -> None:
        now_s = time.monotonic()
        if isinstance(event, events.TurnStarted):
            self._meter.max_context_tokens = event.max_context_tokens
            self._meter.begin_turn(event.context_tokens, now_s, counters)
            return
        self._meter.end_turn(event.usage)

    def _noted(self, event: events.Event) -> None:
        match event:
            case events.Notice(text):
                self._store.add(s.Note(inert(text)))
            case events.ContextRebuilt(before, after, summary):
                for entry in shortened_entries(before, after, summary):
                    self._store.add(entry)
                self._meter.shorten(after)
            case events.TestsRan(before, facts, text):
                self._close_answer()
                self._store.add(s.Checks(before, told_tests(facts), not is_bad(facts), inert(text)))
            case events.CandidateEnded(report):
                told = f"candidate {report.number}: {report.change}  {report.status}"
                self._store.add(s.Note(inert_line(told)))
            case events.RunStarted(_, True):
                self._state(self._calls, s.CallState.RUNNING)
                self._store.add(s.Note("it goes on where it was cut short"))
            case _:
                pass

    def _interrupted(self, reason: str) -> None:
        self._stop()
        self._ending = s.Ending(status=str(Status.INTERRUPTED), reason=inert_line(reason))
        self._store.add(self._ending)

    def _ended(self, report: RunReport) -> None:
        self._stop()
        told, self._ending = self._ending, None
        if (ending := told_ending(report)) is None:
            return
        if told is None:
            self._store.add(ending)
        else:
            told.take(ending)
            self._store.touch(told)

    def _stop(self) -> None:
        """Nothing is written any more, and nothing done."""
        self._close_answer()
        for call in self._calls.values():
            if not call.state.is_over:
                call.state = s.CallState.CUT
                self._store.touch(call)
        self._calls.clear()
        self._meter.stop()


def _state_of(event: events.CallFinished) -> s.CallState:
    if event.refused:
        return s.CallState.REFUSED
    return s.CallState.DONE if event.error is None and not event.facts.get("exit_code") else s.CallState.FAILED


def shortened_entries(tokens_before: int, tokens_after: int, summary: str) -> list[s.Entry]:
    """That a conversation was shortened, and the summary it goes on from."""
    told = f"{told_shortening(tokens_before, tokens_after)}; it goes on from this summary:"
    return [s.Note(told), s.Answer(inert(summary))]


def told_arguments(call: ToolCall) -> dict[str, str]:
    """A call's arguments as text that can be shown; those of one that cannot be read, as it was written."""
    if call.fault is not None:
        return {"call": inert(call.raw), "fault": inert(call.fault)}
    return {inert_line(key, 80): _as_text(value) for key, value in call.arguments.items()}


def _as_text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return inert(" ".join(map(str, value)))
    return inert(value if isinstance(value, str) else str(value))


def finish(call: s.Call, for_model: str, facts: Mapping[str, Any]) -> None:
    """What came of a call, where no diff and no word for the person says more."""
    if not call.output:
        call.say(_printed(for_model) if call.name == "shell" else for_model)
    elif call.state is s.CallState.FAILED and (why := _why(for_model, call.output)):
        call.say(f"\n{why}")
    if "passed" in facts or facts.get("not_run") or facts.get("timed_out"):
        call.outcome = told_tests(facts)
    elif call.state is s.CallState.DONE or "exit_code" in facts:
        call.outcome = f"exit {facts['exit_code']}" if facts.get("exit_code") else _size(call)
    else:
        call.outcome = inert_line(for_model.partition("\n")[0].removeprefix("error: "), _MAX_OUTCOME_CHARS)


def _printed(for_model: str) -> str:
    """What a command printed, without the line behind it that tells the model how it ended."""
    return for_model.rpartition("\n[exit code ")[0] or for_model


def _why(for_model: str, printed: str) -> str:
    """What a tool says in brackets behind what was printed: why it failed, and the way out; empty where it does not."""
    last = takewhile(lambda line: line.startswith("["), reversed(for_model.rstrip().split("\n")))
    return "\n".join(reversed([one for one in last if not one.startswith("[exit code ") and one not in printed]))


def _size(call: s.Call) -> str:
    if call.dropped_chars:
        return f"{call.dropped_chars + len(call.output):,} characters"
    lines = call.output.count("\n") + (not call.output.endswith("\n"))
    return f"{lines} lines" if lines > 1 and not call.diff else ""


def told_diff(diff: FileDiff) -> s.Diff:
    """A change, made safe to show."""
    return s.Diff(inert_line(diff.path), inert(diff.unified), diff.added, diff.removed, diff.created)


def quoted_diff(call: ToolCall) -> s.Diff | None:
    """What an edit asked for, from its own words: where the change itself was not kept."""
    path, old, new = (call.arguments.get(name) for name in ("path", "old", "new"))
    if call.name != "edit" or not isinstance(path, str) or not isinstance(old, str) or not isinstance(new, str):
        return None
    lines = list(unified_diff(old.splitlines(), new.splitlines(), lineterm=""))[2:]
    added, removed = (sum(line.startswith(sign) for line in lines) for sign in "+-")
    return s.Diff(inert_line(path), inert("\n".join(lines)), added, removed)


def told_ending(report: RunReport) -> s.Ending | None:
    """The end of a run; None for a plain answer that changed nothing, which speaks for itself."""
    files = tuple((inert_line(stat.path), stat.added, stat.removed) for stat in diff_stat(report.diff))
    if not files and report.status == "done":
        return None
    return s.Ending(
        status=str(report.status),
        reason=inert_line(report.reason),
        summary=inert(report.summary) if report.tests_after else "",
        files=files,
        tests=told_tests(report.tests_after) if report.tests_after else "",
        cost=f"{counted(report.turns, 'turn')} · {report.generated_tokens:,} written · "
        f"{report.reused_tokens:,} reused · "
        f"{report.new_tokens - report.generated_tokens:,} new · {report.seconds:.1f} s",
    )
