"""`Spans` as OpenTelemetry has them, with the names of its conventions for generative AI."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, set_span_in_context

from kodkod_agent import state
from kodkod_agent.model_turn import Turn
from kodkod_agent.report import RunReport
from kodkod_agent.spans import CallSpan, RunSpan, TurnSpan
from kodkod_engine.api import SamplingParams
from kodkod_engine.messages import AssistantMessage, Message, ToolCall, ToolMessage
from kodkod_tools.base import ToolResult

PROVIDER = "kodkod"
_FINE = (state.Status.DONE, state.Status.UNVERIFIED)


class OtelSpans:
    """See `Spans`. One session at a time: turns and calls belong to the run that was begun last."""

    def __init__(self, tracer: Tracer, model: str, *, content: bool) -> None:
        self._tracer = tracer
        self._model = model
        self._content = content
        self._run: Context | None = None

    @contextmanager
    def run(self, session_id: str) -> Iterator[RunSpan]:
        """See `Spans`."""
        attributes = {"gen_ai.agent.name": "kodkod", "gen_ai.conversation.id": session_id}
        with self._span("invoke_agent", "kodkod", attributes) as span:
            before, self._run = self._run, set_span_in_context(span)
            try:
                yield _Run(span)
            finally:
                self._run = before

    @contextmanager
    def turn(self, sampling: SamplingParams, messages: Sequence[Message]) -> Iterator[TurnSpan]:
        """See `Spans`."""
        attributes: dict[str, Any] = {
            "gen_ai.request.temperature": sampling.temperature,
            "gen_ai.request.top_p": sampling.top_p,
            "gen_ai.request.max_tokens": sampling.max_tokens,
            "gen_ai.request.seed": sampling.seed,
        }
        if self._content:
            attributes["gen_ai.input.messages"] = json.dumps([_told(message) for message in messages])
        with self._span("chat", self._model, attributes) as span:
            yield _Turn(span, content=self._content)

    @contextmanager
    def call(self, call: ToolCall) -> Iterator[CallSpan]:
        """See `Spans`."""
        attributes: dict[str, Any] = {
            "gen_ai.tool.name": call.name,
            "gen_ai.tool.call.id": call.id,
            "gen_ai.tool.type": "function",
        }
        if self._content:
            attributes["gen_ai.tool.call.arguments"] = json.dumps(dict(call.arguments))
        with self._span("execute_tool", call.name, attributes) as span:
            yield _Call(span, content=self._content)

    @contextmanager
    def _span(self, operation: str, subject: str, attributes: Mapping[str, Any]) -> Iterator[Span]:
        shared = {"gen_ai.operation.name": operation, "gen_ai.provider.name": PROVIDER}
        if operation != "execute_tool":
            shared["gen_ai.request.model"] = self._model
        span = self._tracer.start_span(
            f"{operation} {subject}".strip(), self._run, SpanKind.INTERNAL, {**shared, **attributes}
        )
        try:
            yield span
        except BaseException as fault:
            # Its kind alone: what it says may hold what was said.
            _failed(span, type(fault).__qualname__)
            raise
        finally:
            span.end()


class _Run:
    """See `RunSpan`."""

    def __init__(self, span: Span) -> None:
        self._span = span

    def ended(self, report: RunReport) -> None:
        _count(self._span, report.prompt_tokens, report.reused_tokens, report.generated_tokens)
        self._span.set_attributes({"kodkod.run.status": str(report.status), "kodkod.run.turns": report.turns})
        if report.status not in _FINE:
            _failed(self._span, str(report.status))


class _Turn:
    """See `TurnSpan`."""

    def __init__(self, span: Span, *, content: bool) -> None:
        self._span = span
        self._content = content

    def written(self, turn: Turn) -> None:
        usage = turn.usage
        _count(self._span, usage.prompt_tokens, usage.reused_tokens, usage.generated_tokens)
        reason = "tool_call" if turn.message.calls else str(turn.finish_reason)
        self._span.set_attribute("gen_ai.response.finish_reasons", [reason])
        if self._content:
            self._span.set_attribute("gen_ai.output.messages", json.dumps([_told(turn.message)]))


class _Call:
    """See `CallSpan`."""

    def __init__(self, span: Span, *, content: bool) -> None:
        self._span = span
        self._content = content

    def done(self, result: ToolResult) -> None:
        if result.error is not None:
            _failed(self._span, str(result.error))
        if self._content:
            self._span.set_attribute("gen_ai.tool.call.result", json.dumps(result.for_model))


def _count(span: Span, prompt_tokens: int, reused_tokens: int, generated_tokens: int) -> None:
    span.set_attributes(
        {
            "gen_ai.usage.input_tokens": prompt_tokens,
            "gen_ai.usage.cache_read.input_tokens": reused_tokens,
            "gen_ai.usage.output_tokens": generated_tokens,
        }
    )


def _failed(span: Span, kind: str) -> None:
    span.set_attribute("error.type", kind)
    span.set_status(Status(StatusCode.ERROR))


def _told(message: Message) -> dict[str, Any]:
    """A message with its parts, as the conventions have them."""
    if isinstance(message, ToolMessage):
        return {
            "role": "tool",
            "parts": [{"type": "tool_call_response", "id": message.call_id, "response": message.text}],
        }
    parts = [{"type": "text", "content": message.text}] if message.text else []
    if isinstance(message, AssistantMessage):
        if message.reasoning:
            parts.insert(0, {"type": "reasoning", "content": message.reasoning})
        calls = [
            {"type": "tool_call", "id": c.id, "name": c.name, "arguments": dict(c.arguments)} for c in message.calls
        ]
        return {"role": "assistant", "parts": [*parts, *calls]}
    return {"role": message.role, "parts": parts}
