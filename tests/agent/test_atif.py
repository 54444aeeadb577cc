from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from kodkod_agent import atif
from kodkod_agent import trajectory as t
from kodkod_agent.policy import Verdict
from kodkod_engine.api import DraftUsage, FinishReason, Usage
from kodkod_engine.messages import ToolCall, ToolSpec

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
TOOL = ToolSpec(name="shell", description="runs", parameters={"type": "object", "properties": {}})
START = t.SessionStarted(
    session_id="s", version="0.1.0", model="nano", seed=7, work_tree="/w", system="be good", tools=(TOOL,)
)
TASK = t.UserMessage(text="fix it")


def call(name: str) -> ToolCall:
    return ToolCall(id=name, name="shell", arguments={"command": name})


def turn(*names: str, text: str = "", **more: Any) -> t.AssistantTurn:
    return t.AssistantTurn(text=text, calls=tuple(call(name) for name in names), **more)


def result(name: str, text: str = "done") -> t.CallFinished:
    return t.CallFinished(call_id=name, name="shell", for_model=text, duration_s=0.5)


def recorded(*events: t.Event) -> t.Trajectory:
    step, entries = 0, []
    for number, event in enumerate(events):
        step += isinstance(event, t.AssistantTurn)
        entries.append(t.Entry(number=number, step=step, time=NOON, event=event))
    return t.Trajectory(tuple(entries))


def as_json(document: atif.AtifDocument) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(document.to_json())
    return found


def test_a_session_becomes_a_document() -> None:
    usage = Usage(prompt_tokens=100, reused_tokens=80, generated_tokens=5, drafts=(DraftUsage("suffix", 4, 3),))
    (document,) = atif.export(
        recorded(
            START,
            TASK,
            turn(
                "a",
                "b",
                text="looking",
                reasoning="hm",
                usage=usage,
                token_ids=(1, 2),
                context_tokens=100,
                max_context_tokens=4096,
            ),
            t.Decided(call_id="a", verdict=Verdict.ALLOW, reason="reads", by_person=True, arguments={"command": "ls"}),
            t.CallStarted(call_id="a", name="shell"),
            result("a", "out a"),
            result("b", "out b"),
            t.SnapshotTaken(snapshot="f00"),
            t.Notice(text="3 turns left"),
            turn(text="done", usage=usage),
            t.Finished(status="done", verified=True),
        )
    )
    found = as_json(document)
    assert found["schema_version"] == "ATIF-v1.8"
    assert found["agent"]["model_name"] == "nano"
    assert found["agent"]["tool_definitions"][0]["name"] == "shell"
    assert [(step["step_id"], step["source"], step["message"]) for step in found["steps"]] == [
        (1, "system", "be good"),
        (2, "user", "fix it"),
        (3, "agent", "looking"),
        (4, "system", "3 turns left"),
        (5, "agent", "done"),
    ]
    step = found["steps"][2]
    assert [each["tool_call_id"] for each in step["tool_calls"]] == ["a", "b"]
    assert step["observation"]["results"] == [
        {"source_call_id": "a", "content": "out a"},
        {"source_call_id": "b", "content": "out b"},
    ]
    assert step["metrics"]["cached_tokens"] == 80
    assert step["metrics"]["completion_token_ids"] == [1, 2]
    assert step["reasoning_content"] == "hm"
    assert step["timestamp"] == "2026-01-01T12:00:00Z"
    assert step["extra"]["decided"][0]["verdict"] == "allow"
    assert step["extra"]["decided"][0]["arguments"] == {"command": "ls"}
    assert (step["extra"]["context_tokens"], step["extra"]["max_context_tokens"]) == (100, 4096)
    assert step["extra"]["snapshot_taken"] == [{"snapshot": "f00"}]
    assert found["final_metrics"] == {
        "total_prompt_tokens": 200,
        "total_completion_tokens": 10,
        "total_cached_tokens": 160,
        "total_steps": 5,
    }
    assert found["extra"]["finished"]["verified"] is True
    assert "continued_trajectory_ref" not in found


def test_a_compacted_session_becomes_several_documents(tmp_path: Path) -> None:
    rebuilt = t.Rebuilt(tokens_before=100, tokens_after=10, summary="so far")
    trajectory = recorded(
        START, t.Notice(text="it is Monday"), TASK, turn("a"), result("a"),
        rebuilt, turn("b"), result("b"), rebuilt, turn(text="end"),
    )  # fmt: skip
    paths = atif.write(trajectory, tmp_path / "run.json")
    assert [path.name for path in paths] == ["run.json", "run.cont-1.json", "run.cont-2.json"]
    first, second, third = (json.loads(path.read_text()) for path in paths)
    assert first["continued_trajectory_ref"] == "run.cont-1.json"
    assert second["continued_trajectory_ref"] == "run.cont-2.json"
    assert "continued_trajectory_ref" not in third
    assert [(step["message"], step.get("is_copied_context")) for step in second["steps"]] == [
        ("be good", True),
        ("fix it", True),
        ("so far", None),
        ("", None),
    ]
    assert second["final_metrics"]["total_steps"] == 2
    assert len({document["trajectory_id"] for document in (first, second, third)}) == 3


def test_a_killed_session_is_exported_as_far_as_it_came() -> None:
    (document,) = atif.export(recorded(START, TASK, turn("a", "b"), result("a")))
    observation = document.steps[-1].observation
    assert observation is not None
    assert [each.source_call_id for each in observation.results] == ["a"]


def test_malformed_calls_are_kept_as_written() -> None:
    broken = ToolCall(id="1", name="shell", raw="<x", fault="never closed")
    (document,) = atif.export(recorded(START, t.AssistantTurn(calls=(broken,), finish_reason=FinishReason.LENGTH)))
    calls = document.steps[-1].tool_calls
    assert calls is not None
    assert calls[0].arguments == {"raw": "<x", "fault": "never closed"}


def test_a_resumed_session_has_one_system_step() -> None:
    resumed = START.model_copy(update={"resumed": True})
    (document,) = atif.export(recorded(START, TASK, turn(), resumed, TASK, turn()))
    assert [step.source for step in document.steps] == ["system", "user", "agent", "user", "agent"]


@pytest.mark.parametrize("events", [(), (TASK,), (START.model_copy(update={"system": ""}),)])
def test_what_cannot_be_exported_is_told(events: tuple[t.Event, ...]) -> None:
    with pytest.raises(ValueError, match=r"cannot be exported|nothing to export"):
        atif.export(recorded(*events))


EVENTS: st.SearchStrategy[t.Event] = st.one_of(
    st.builds(t.UserMessage, text=st.text(st.characters(codec=None), max_size=5)),
    st.builds(t.Notice, text=st.text(max_size=5)),
    st.lists(st.sampled_from("abc"), unique=True, max_size=3).map(lambda names: turn(*names)),
    st.sampled_from("abcd").map(result),
    st.just(t.Rebuilt(tokens_before=9, tokens_after=1, summary="so far")),
    st.just(t.SnapshotTaken(snapshot="f")),
    st.just(t.LimitReached(reason="turns")),
)


@given(st.lists(EVENTS, max_size=15))
@settings(max_examples=150, deadline=None)
def test_any_session_is_exported_and_read_back(events: Iterable[t.Event]) -> None:
    documents = atif.export(recorded(START, *events))
    for document in documents:
        assert atif.AtifDocument.model_validate(as_json(document)) == document


AGENT = {"name": "kodkod", "version": "1"}
USER = {"step_id": 1, "source": "user", "message": "x"}
CALL = {"tool_call_id": "a", "function_name": "f", "arguments": {}}


def agent_step(**fields: Any) -> dict[str, Any]:
    return {"step_id": 1, "source": "agent", "message": "x", **fields}


def observed(source: str | None) -> dict[str, Any]:
    return {"results": [{"source_call_id": source, "content": "x"}]}


@pytest.mark.parametrize(
    ("steps", "fault"),
    [
        ([], "at least 1"),
        ([{**USER, "step_id": 2}], "step 1 has the step_id 2"),
        ([USER, {**USER, "step_id": 3}], "step 2 has the step_id 3"),
        ([USER, USER], "step 2 has the step_id 1"),
        ([{**USER, "step_id": 0}], "greater than 0"),
        ([{**USER, "tool_calls": [CALL]}], "tool_calls is for agent steps alone"),
        ([{**USER, "metrics": {}}], "metrics is for agent steps alone"),
        ([{**USER, "reasoning_content": "x"}], "reasoning_content is for agent steps alone"),
        ([{**USER, "unheard": 1}], "Extra inputs"),
        ([{**USER, "source": "tool"}], "Input should be"),
        ([{**USER, "timestamp": "yesterday"}], "valid datetime"),
        ([agent_step(observation=observed("a"))], "is of no call of this step"),
        ([agent_step(tool_calls=[CALL], observation=observed("b"))], "is of no call of this step"),
        ([agent_step(tool_calls=[CALL, CALL])], "same tool_call_id"),
        ([agent_step(llm_call_count=0, metrics={})], "no metrics and no reasoning"),
        ([agent_step(llm_call_count=0, reasoning_content="x")], "no metrics and no reasoning"),
        ([agent_step(metrics={"prompt_tokens": -1})], "greater than or equal to 0"),
        ([agent_step(tool_calls=[{**CALL, "arguments": "x"}])], "valid dictionary"),
    ],
)
def test_documents_that_break_the_format_are_refused(steps: list[dict[str, Any]], fault: str) -> None:
    with pytest.raises(ValidationError, match=fault):
        atif.AtifDocument.model_validate({"session_id": "s", "trajectory_id": "s", "agent": AGENT, "steps": steps})


@pytest.mark.parametrize(
    "step",
    [
        USER,
        agent_step(tool_calls=[CALL], observation=observed("a")),
        agent_step(observation=observed(None)),
        agent_step(llm_call_count=0),
        agent_step(llm_call_count=1, metrics={"prompt_tokens": 1}),
    ],
)
def test_documents_that_keep_to_it_are_taken(step: dict[str, Any]) -> None:
    atif.AtifDocument.model_validate({"session_id": "s", "trajectory_id": "s", "agent": AGENT, "steps": [step]})
