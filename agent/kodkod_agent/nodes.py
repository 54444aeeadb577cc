"""The nodes of the graph: plain async functions from state to update.

LangGraph runs an interrupted node again from its first line, and a killed one as well. So `gate`, which asks, does
nothing else; and each of the others can be run again from the same state: the ledger is cut back to the state's mark
before (`graph.py`), and the journal knows which calls were done (`calls.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kodkod_agent import events, trajectory
from kodkod_agent import verify as checks
from kodkod_agent.approval import Approval, rule_on
from kodkod_agent.calls import answer_pending, perform
from kodkod_agent.compaction import rebuild
from kodkod_agent.context import prompt
from kodkod_agent.errors import NoProgress
from kodkod_agent.hearing import hear_at_end
from kodkod_agent.journal import Outcome, SnapshotRecord, StepRecord
from kodkod_agent.limits import require_more
from kodkod_agent.next_turn import next_turn
from kodkod_agent.policy import Verdict
from kodkod_agent.resources import Resources
from kodkod_agent.state import AgentState, Node, Ruling, Status, origin_of
from kodkod_agent.telling import (
    show_instructions,
    tell_budgets,
    tell_facts,
    tell_mode,
    tell_standing,
    tell_tools,
)
from kodkod_engine.api import Usage
from kodkod_engine.chat.ledger import TokenLedger
from kodkod_engine.messages import AssistantMessage, ToolCall

Ask = Callable[[list[dict[str, str]]], Sequence[Mapping[str, Any]]]
"""Asks a person about calls (their ids and why); the answers are `Approval`s as plain values."""


async def prepare(state: AgentState, res: Resources) -> AgentState:
    """Make the conversation ready for a turn: what the person said, limits, room in the context."""
    if state["inbox"]:
        return await _begin(state, res)
    left = require_more(res.config, state, res.stopwatch.seconds)
    update = AgentState(next=Node.MODEL)
    if res.moment.is_full(res.budget, res.ledger):
        update |= await rebuild(state, res)
    tell_tools(state["step"], res)
    update |= tell_mode(state, res) | tell_budgets(left, state, res)
    update["ledger_mark"] = res.log.sync(res.ledger)
    _record_step({**state, **update}, res)
    return update


async def _begin(state: AgentState, res: Resources) -> AgentState:
    """Take in what the person said, and remember the world as it is before the first turn."""
    if not res.journal.steps:
        _record_step({**state, "inbox": []}, res)  # the beginning, before anything was said
    answer_pending("the run was cut short before it", res)
    standing = tell_standing(state, res)
    await tell_facts(state["step"], res)
    mode = tell_mode(state, res)
    for text in state["inbox"]:
        res.ledger.append_user(text)
        res.record(trajectory.UserMessage(text=text), state["step"])
    snapshot = await res.take_snapshot(state["step"])
    res.journal.add(SnapshotRecord(step=state["step"], snapshot=snapshot))
    origin, tests = state.get("origin_snapshot", ""), state["tests_before"]
    if not origin and res.config.baseline_tests and not res.config.attended and _can_test(res):
        tests = await _run_tests(res, before=True)
        for name in checks.not_failing(tests, res.config.test_targets):
            res.emit(events.Notice(f"{name} does not fail, or there is no such test"))
    mark = res.log.sync(res.ledger)
    begun = AgentState(next=Node.PREPARE, inbox=[], base_snapshot=snapshot, tests_before=tests, ledger_mark=mark)
    return standing | mode | begun | AgentState(origin_snapshot=origin or snapshot)


async def model(state: AgentState, res: Resources) -> AgentState:
    """Let the model write one turn; a turn that an earlier process completed is taken as it is."""
    step = state["step"] + 1
    update = AgentState(step=step, rulings={})
    res.asked.clear()
    kept = res.log.turn_behind(res.tokenizer, state["ledger_mark"])
    if kept is not None:
        update["generated_tokens"] = state["generated_tokens"] + _num_generated(kept, len(res.ledger))
        res.ledger = kept
        message = kept.end_turn()
    else:
        turn = await next_turn(state, res)
        message, update = turn.message, update | _counted(state, turn.usage)
    return update | await hear_at_end(_after_turn(message, state, res), state, res)


def _counted(state: AgentState, usage: Usage) -> AgentState:
    return AgentState(
        generated_tokens=state["generated_tokens"] + usage.generated_tokens,
        prompt_tokens=state["prompt_tokens"] + usage.prompt_tokens,
        reused_tokens=state["reused_tokens"] + usage.reused_tokens,
    )


def _num_generated(ledger: TokenLedger, start: int) -> int:
    spans = (span for span in ledger.spans if span.start >= start and span.origin.is_generated)
    return sum(span.end - span.start for span in spans)


def _after_turn(message: AssistantMessage, state: AgentState, res: Resources) -> AgentState:
    update = AgentState(nudges=0, next=Node.GATE)
    if not message.calls:
        update = _without_call(message.text.strip(), state, res)
        res.emit(events.TurnEnded(state["step"] + 1))
    update["ledger_mark"] = res.log.sync(res.ledger)
    return update


def _without_call(text: str, state: AgentState, res: Resources) -> AgentState:
    """An answer for the person who reads along; else a reminder, a few times."""
    if res.config.attended:
        return _ended(Status.DONE, "answered", summary=text)
    if state["nudges"] < res.config.max_nudges:
        res.tell_model(prompt("nudge"), state["step"] + 1)
        return AgentState(next=Node.PREPARE, nudges=state["nudges"] + 1)
    return _ended(Status.UNVERIFIED, "the model stopped calling tools without finishing", summary=text)


async def gate(state: AgentState, res: Resources, ask: Ask) -> AgentState:
    """Decide about every call of the turn, and ask the person where that is needed. Nothing else is done here."""
    del state
    calls = {call.id: call for call in res.ledger.pending_calls}
    rulings: dict[str, Ruling] = {}
    asked: list[dict[str, str]] = []
    for call in calls.values():
        decision = res.permissions.judge(call)
        if decision.verdict is Verdict.ASK:
            res.asked.setdefault(call.id, decision.asked)
            asked.append({"call_id": call.id, "reason": decision.reason})
        rulings[call.id] = Ruling(allowed=decision.verdict is Verdict.ALLOW, reason=decision.reason)
    for answer in map(Approval.model_validate, ask(asked) if asked else ()):
        res.permissions.allow(answer.always if answer.allowed else ())
        shown = res.asked.get(answer.call_id, frozenset())
        rulings[answer.call_id] = rule_on(calls[answer.call_id], answer, shown, res.permissions.judge)
    res.asked.clear()
    return AgentState(rulings=rulings, next=Node.TOOLS)


async def tools(state: AgentState, res: Resources) -> AgentState:
    """Do the calls of the turn in order, as ruled. Never asks."""
    calls = res.ledger.pending_calls
    outcomes: list[Outcome] = []
    for call in calls:
        outcomes.append(await perform(call, _ruling(call, state, outcomes), state["step"], res))
    res.emit(events.TurnEnded(state["step"]))
    shown = show_instructions(_touched(calls, outcomes), state["instructions"], state["step"], res)
    update = AgentState(next=Node.PREPARE, rulings={}, instructions=shown, malformed=_malformed(outcomes, state, res))
    finished = next((outcome for outcome in outcomes if outcome.facts.get("finishes")), None)
    if finished is not None:
        update |= AgentState(next=Node.VERIFY, summary=str(finished.facts["summary"]))
    else:
        update["loop_warnings"] = _watch_for_loops(calls, state, res)
    update["ledger_mark"] = res.log.sync(res.ledger)
    return update


def _ruling(call: ToolCall, state: AgentState, outcomes: Sequence[Outcome]) -> Ruling:
    if any(outcome.facts.get("finishes") for outcome in outcomes):
        return Ruling(allowed=False, reason="finish was called before it")
    return state["rulings"][call.id]


def _touched(calls: Sequence[ToolCall], outcomes: Sequence[Outcome]) -> list[str]:
    named = [call.arguments.get("path") for call in calls]
    return [path for path in named if isinstance(path, str)] + [path for o in outcomes for path in o.changed_paths]


def _malformed(outcomes: Sequence[Outcome], state: AgentState, res: Resources) -> int:
    """Malformed calls in a row by now."""
    in_a_row = state["malformed"]
    for outcome in outcomes:
        in_a_row = in_a_row + 1 if outcome.is_malformed else 0
    if in_a_row >= res.config.max_malformed_calls:
        raise NoProgress(f"{in_a_row} calls in a row could not be read or name no tool; try another model")
    return in_a_row


def _watch_for_loops(calls: Sequence[ToolCall], state: AgentState, res: Resources) -> int:
    """Tell a model that goes in circles so; returns how often it was told by now."""
    warnings = state["loop_warnings"]
    seen = [res.loops.observe(call, res.world) for call in calls]
    finding = next((found for found in reversed(seen) if found is not None), None)
    if finding is None:
        return warnings
    if warnings >= res.config.max_loop_warnings:
        raise NoProgress(f"the model goes in circles: {', '.join(finding.tools)}, {finding.rounds} times over")
    res.tell_model(finding.notice, state["step"])
    res.emit(events.Notice(finding.notice))
    return warnings + 1


async def verify(state: AgentState, res: Resources) -> AgentState:
    """Read what changed and run the tests: the result, not the model, says whether the work is verified."""
    return await hear_at_end(await _verified(state, res), state, res)


async def _verified(state: AgentState, res: Resources) -> AgentState:
    tries = state["verifications"] + 1
    snapshot = await res.take_snapshot(state["step"])
    if not await asyncio.to_thread(res.snapshots.diff, origin_of(state), snapshot):
        return _ended(Status.DONE if res.config.attended else Status.UNVERIFIED, "nothing was changed")
    if not _can_test(res):
        return _ended(Status.UNVERIFIED, "there are no tests to show that it works")
    result = await checks.run_tests(res.config, res.tools)
    res.emit(events.TestsRan(False, result.facts, result.for_model))
    found = checks.check(state["tests_before"], result.facts, res.config.test_targets)
    update = AgentState(tests_after=dict(result.facts), verifications=tries)
    if found.holds or tries >= res.config.max_verifications:
        return update | _ended(Status.DONE if found.holds else Status.UNVERIFIED, found.reason)
    res.tell_model(prompt("failed", reason=found.reason, text=result.for_model), state["step"])
    return update | AgentState(next=Node.PREPARE, ledger_mark=res.log.sync(res.ledger))


async def finish(state: AgentState, res: Resources) -> AgentState:
    """Record the end: the files, and where the conversation stands."""
    snapshot = await res.take_snapshot(state["step"])
    res.journal.add(SnapshotRecord(step=state["step"], snapshot=snapshot))
    update = AgentState(end_snapshot=snapshot, next="")
    _record_step({**state, **update}, res)
    return update


def _ended(status: Status, reason: str, summary: str | None = None) -> AgentState:
    update = AgentState(next=Node.FINISH, status=status, reason=reason)
    return update if summary is None else update | AgentState(summary=summary)


def _can_test(res: Resources) -> bool:
    return res.config.verify and checks.has_tests(res.tools.work_tree, res.config, res.tools.config)


async def _run_tests(res: Resources, *, before: bool) -> dict[str, Any]:
    result = await checks.run_tests(res.config, res.tools)
    res.emit(events.TestsRan(before, result.facts, result.for_model))
    return dict(result.facts)


def _record_step(state: Mapping[str, Any], res: Resources) -> None:
    res.journal.add(StepRecord(step=state["step"], ledger_mark=state["ledger_mark"], state=dict(state)))
