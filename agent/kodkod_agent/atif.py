"""Trajectories in the Agent Trajectory Interchange Format, version 1.8 (ATIF; Harbor's trajectory format).

The models here are the part of the format that kodkod writes: text messages, no sub-agents. They refuse what a reader
of the format would refuse, so a document that can be built is one that can be read. A session whose conversation was
compacted becomes several documents, each but the last naming the next.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    NonNegativeInt,
    PositiveInt,
    model_validator,
)

from kodkod_agent import trajectory as t
from kodkod_engine.api import Usage
from kodkod_engine.messages import ToolCall

SCHEMA_VERSION = "ATIF-v1.8"


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Agent(_Strict):
    """Who acted."""

    name: str
    version: str
    model_name: str | None = None
    tool_definitions: tuple[dict[str, JsonValue], ...] | None = None
    extra: dict[str, JsonValue] | None = None


class AtifCall(_Strict):
    """A tool call."""

    tool_call_id: str
    function_name: str
    arguments: dict[str, JsonValue]


class ObservationResult(_Strict):
    """What came of a call, or of something that was no call."""

    source_call_id: str | None = None
    content: str | None = None


class Observation(_Strict):
    """All that came of a step."""

    results: tuple[ObservationResult, ...]


class Metrics(_Strict):
    """What the model's turn cost. Tokens; prompt tokens include the cached ones."""

    prompt_tokens: NonNegativeInt | None = None
    completion_tokens: NonNegativeInt | None = None
    cached_tokens: NonNegativeInt | None = None
    completion_token_ids: tuple[NonNegativeInt, ...] | None = None
    extra: dict[str, JsonValue] | None = None


_AGENT_ONLY = ("model_name", "reasoning_content", "tool_calls", "metrics", "llm_call_count")


class Step(_Strict):
    """One message, with what it led to."""

    step_id: PositiveInt
    timestamp: AwareDatetime | None = None
    source: Literal["system", "user", "agent"]
    message: str
    model_name: str | None = None
    reasoning_content: str | None = None
    tool_calls: tuple[AtifCall, ...] | None = None
    observation: Observation | None = None
    metrics: Metrics | None = None
    is_copied_context: bool | None = None
    llm_call_count: NonNegativeInt | None = None
    extra: dict[str, JsonValue] | None = None

    @model_validator(mode="after")
    def _agent_fields_are_an_agents(self) -> Self:
        given = [name for name in _AGENT_ONLY if getattr(self, name) is not None]
        if self.source != "agent" and given:
            raise ValueError(f"step {self.step_id}: {given[0]} is for agent steps alone, not for {self.source}")
        if self.llm_call_count == 0 and (self.metrics is not None or self.reasoning_content is not None):
            raise ValueError(f"step {self.step_id}: without a call of the model there are no metrics and no reasoning")
        return self

    @model_validator(mode="after")
    def _results_are_of_this_step(self) -> Self:
        ids = [call.tool_call_id for call in self.tool_calls or ()]
        if len(set(ids)) < len(ids):
            raise ValueError(f"step {self.step_id}: two calls have the same tool_call_id")
        results = self.observation.results if self.observation else ()
        for result in results:
            if result.source_call_id is not None and result.source_call_id not in ids:
                raise ValueError(
                    f"step {self.step_id}: the result of {result.source_call_id} is of no call of this step"
                )
        return self


class FinalMetrics(_Strict):
    """Sums over the steps that are not copies."""

    total_prompt_tokens: NonNegativeInt
    total_completion_tokens: NonNegativeInt
    total_cached_tokens: NonNegativeInt
    total_steps: NonNegativeInt


class AtifDocument(_Strict):
    """One document."""

    schema_version: Literal["ATIF-v1.8"] = "ATIF-v1.8"
    session_id: str
    trajectory_id: str
    agent: Agent
    steps: tuple[Step, ...] = Field(min_length=1)
    notes: str | None = None
    final_metrics: FinalMetrics | None = None
    continued_trajectory_ref: str | None = None
    extra: dict[str, JsonValue] | None = None

    @model_validator(mode="after")
    def _steps_have_no_gaps(self) -> Self:
        for number, step in enumerate(self.steps, 1):
            if step.step_id != number:
                raise ValueError(f"step {number} has the step_id {step.step_id}; they count from 1 without gaps")
        return self

    def to_json(self) -> str:
        """The document as ASCII text, fields that say nothing left away."""
        # Not pydantic's own writer, which refuses the lone surrogates that outputs and file names may hold.
        return json.dumps(self.model_dump(mode="json", exclude_none=True), indent=2) + "\n"


def export(trajectory: t.Trajectory, *, name: str = "trajectory") -> tuple[AtifDocument, ...]:
    """The documents of a session, one per branch of the conversation, in order.

    Args:
        trajectory: as read from its file.
        name: of the documents: the first is `<name>.json`, the next `<name>.cont-1.json`, ...

    Raises:
        ValueError: it does not begin with `session_started`, or nobody ever spoke.
    """
    started = next((entry.event for entry in trajectory if isinstance(entry.event, t.SessionStarted)), None)
    if started is None:
        raise ValueError("the trajectory does not say how the session started; it cannot be exported")
    branches = [_Branch(started)]
    for entry in trajectory:
        if isinstance(entry.event, t.Rebuilt):
            branches.append(branches[-1].rebuilt(entry))
        else:
            branches[-1].add(entry)
    if not branches[0].steps:
        raise ValueError("nothing was said in this session; there is nothing to export")
    names = file_names(name, len(branches))
    return tuple(
        branch.document(at, names[at + 1] if at + 1 < len(names) else None) for at, branch in enumerate(branches)
    )


def write(trajectory: t.Trajectory, path: Path) -> tuple[Path, ...]:
    """Export to `path` and, where the conversation was compacted, files beside it; returns all of them.

    Raises:
        ValueError: as `export`.
        OSError: a file cannot be written.
    """
    documents = export(trajectory, name=path.stem)
    paths = tuple(path.with_name(name) for name in file_names(path.stem, len(documents)))
    for place, document in zip(paths, documents, strict=True):
        place.write_text(document.to_json(), encoding="ascii")
    return paths


def file_names(name: str, count: int) -> tuple[str, ...]:
    """Names of a session's documents."""
    return (f"{name}.json", *(f"{name}.cont-{number}.json" for number in range(1, count)))


@dataclass
class _Branch:
    """A document as it grows."""

    started: t.SessionStarted
    steps: list[dict[str, Any]] = field(default_factory=list)
    ended: dict[str, JsonValue] = field(default_factory=dict)
    last_turn: dict[str, Any] | None = None
    """The agent step that what happens now belongs to."""

    def add(self, entry: t.Entry) -> None:
        """Take up an entry."""
        match entry.event:
            case t.SessionStarted(system=system, resumed=resumed):
                if system and not resumed:
                    self._step(entry, "system", system)
            case t.UserMessage(text=text):
                self._step(entry, "user", text)
            case t.Notice(text=text):
                self._step(entry, "system", text)
            case t.AssistantTurn() as turn:
                self._turn(entry, turn)
            case t.CallFinished() as finished:
                self._result(finished)
            case t.Decided() | t.SnapshotTaken() as detail:
                self._detail(detail.kind, detail.model_dump(mode="json", exclude={"kind"}))
            case t.LimitReached() | t.Failed() | t.Finished() | t.Forked() as end:
                self.ended[end.kind] = end.model_dump(mode="json", exclude={"kind"})
            case _:
                return

    def rebuilt(self, entry: t.Entry) -> _Branch:
        """The document that goes on after the conversation was compacted: the task again, then the summary."""
        branch = _Branch(self.started)
        first = {step["source"]: step for step in reversed(self.steps) if step["source"] != "agent"}
        kept = [first[source] for source in ("system", "user") if source in first]
        branch.steps = [{**step, "is_copied_context": True, "step_id": n} for n, step in enumerate(kept, 1)]
        assert isinstance(entry.event, t.Rebuilt)
        branch._step(entry, "system", entry.event.summary)
        return branch

    def document(self, number: int, following: str | None) -> AtifDocument:
        """The finished document."""
        steps = tuple(Step.model_validate(step) for step in self.steps)
        session = self.started
        suffix = f"-cont-{number}" if number else ""
        tools = tuple(tool.model_dump(mode="json") for tool in session.tools)
        return AtifDocument(
            session_id=session.session_id,
            trajectory_id=f"{session.session_id}{suffix}",
            agent=Agent(
                name="kodkod",
                version=session.version,
                model_name=session.model,
                tool_definitions=tools or None,
                extra={"seed": session.seed, "engine": session.engine},
            ),
            steps=steps,
            final_metrics=_totals(steps),
            continued_trajectory_ref=following,
            extra=self.ended or None,
        )

    def _step(self, entry: t.Entry, source: str, message: str) -> dict[str, Any]:
        step = {"step_id": len(self.steps) + 1, "timestamp": entry.time, "source": source, "message": message}
        self.steps.append(step)
        return step

    def _turn(self, entry: t.Entry, turn: t.AssistantTurn) -> None:
        step = self._step(entry, "agent", turn.text)
        step |= {"model_name": self.started.model, "llm_call_count": 1}
        step |= {"reasoning_content": turn.reasoning or None, "metrics": _metrics(turn)}
        step["tool_calls"] = [_call(call) for call in turn.calls] or None
        step["extra"] = {"turn": entry.step, "finish_reason": turn.finish_reason.value}
        if turn.context_tokens is not None:
            step["extra"] |= {"context_tokens": turn.context_tokens, "max_context_tokens": turn.max_context_tokens}
        self.last_turn = step

    def _result(self, finished: t.CallFinished) -> None:
        if self.last_turn is None:
            return
        known = [call["tool_call_id"] for call in self.last_turn["tool_calls"] or ()]
        source = finished.call_id if finished.call_id in known else None
        observation = self.last_turn.setdefault("observation", {"results": []})
        observation["results"].append({"source_call_id": source, "content": finished.for_model})
        kept = {"call_id", "error", "refused", "facts", "duration_s", "log_path"}
        self._detail("call_finished", finished.model_dump(mode="json", include=kept))

    def _detail(self, kind: str, detail: dict[str, JsonValue]) -> None:
        """What the format has no field for goes to the step's extra pocket."""
        if self.last_turn is not None:
            self.last_turn["extra"].setdefault(kind, []).append(detail)


def _call(call: ToolCall) -> dict[str, Any]:
    arguments = dict(call.arguments) if call.fault is None else {"raw": call.raw, "fault": call.fault}
    return {"tool_call_id": call.id, "function_name": call.name, "arguments": arguments}


def _metrics(turn: t.AssistantTurn) -> dict[str, Any] | None:
    if turn.usage is None and turn.token_ids is None:
        return None
    usage = turn.usage or Usage()
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.generated_tokens,
        "cached_tokens": usage.reused_tokens,
        "completion_token_ids": turn.token_ids,
        "extra": {
            "drafted_tokens": usage.drafted_tokens,
            "accepted_tokens": usage.accepted_tokens,
            "queue_s": usage.queue_s,
            "prefill_s": usage.prefill_s,
            "decode_s": usage.decode_s,
        },
    }


def _totals(steps: Sequence[Step]) -> FinalMetrics:
    own = [step for step in steps if not step.is_copied_context]
    metrics = [step.metrics for step in own if step.metrics is not None]
    return FinalMetrics(
        total_prompt_tokens=sum(each.prompt_tokens or 0 for each in metrics),
        total_completion_tokens=sum(each.completion_tokens or 0 for each in metrics),
        total_cached_tokens=sum(each.cached_tokens or 0 for each in metrics),
        total_steps=len(own),
    )
