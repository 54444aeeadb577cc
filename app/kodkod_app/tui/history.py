"""What was said in a session before, as entries of the transcript."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from kodkod_agent.session_folder import SessionFolder
from kodkod_agent.trajectory import AssistantTurn, CallFinished
from kodkod_app.session_story import StoryStep, said_before_last_turn, unanswered, whole_steps
from kodkod_app.tui import store as s
from kodkod_app.tui.inert import inert, inert_line
from kodkod_app.tui.telling import finish, quoted_diff, shortened_entries, told_arguments
from kodkod_engine.messages import AssistantMessage, Message, ToolCall


def past_entries(folder: SessionFolder) -> list[s.Entry]:
    """The steps of a session that count: those of the sessions it was forked from, and its own that no rewind dropped.

    Raises:
        SessionDamaged: one of its files cannot be read.
    """
    return [entry for step in whole_steps(folder) for entry in _told(step)]


def unanswered_entries(folder: SessionFolder, conversation: Callable[[], Sequence[Message]]) -> list[s.Entry]:
    """What was said last, where the run ended before the model had answered: see `unanswered`."""
    return [s.Said(inert(text)) for text in unanswered(folder, conversation)]


def pending_entries(folder: SessionFolder, messages: Sequence[Message], pending: Sequence[ToolCall]) -> list[s.Entry]:
    """The turn a run was cut short in, and what it answers: it counts as a step only when its calls are done.

    Args:
        folder: the session's.
        messages: the conversation.
        pending: calls of its last turn that have no result.
    """
    if not pending:
        return []
    asked: list[s.Entry] = [s.Said(inert(words)) for words in said_before_last_turn(folder)]
    turn = next((message for message in reversed(messages) if isinstance(message, AssistantMessage)), None)
    text = inert(turn.text).strip("\n") if turn is not None else ""
    said: list[s.Entry] = [s.Answer(text)] if text else []
    return asked + said + [_call(call, None) for call in pending]


def _told(step: StoryStep) -> Iterator[s.Entry]:
    for text in step.said:
        yield s.Said(inert(text))
    yield from _prose(step.turn)
    for call in step.turn.calls:
        yield _call(call, step.outcomes.get(call.id))
    for rebuilt in step.shortened:
        yield from shortened_entries(rebuilt.tokens_before, rebuilt.tokens_after, rebuilt.summary)


def _prose(turn: AssistantTurn) -> Iterator[s.Entry]:
    if turn.text.strip() or turn.reasoning.strip():
        yield s.Answer(inert(turn.text).strip("\n"), inert(turn.reasoning))


def _call(call: ToolCall, finished: CallFinished | None) -> s.Call:
    entry = s.Call(call.id, inert_line(call.name, 80), told_arguments(call), s.CallState.CUT)
    if finished is None:
        return entry
    entry.state = _state(finished)
    entry.duration_s = finished.duration_s
    finish(entry, finished.for_model, finished.facts)
    if entry.state is s.CallState.DONE and (diff := quoted_diff(call)) is not None:
        entry.diff, entry.outcome = diff, f"+{diff.added} -{diff.removed}"
    return entry


def _state(finished: CallFinished) -> s.CallState:
    if finished.refused:
        return s.CallState.REFUSED
    return s.CallState.FAILED if finished.error or finished.facts.get("exit_code") else s.CallState.DONE
