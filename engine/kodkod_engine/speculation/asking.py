"""Asking a drafter, which may fail: what it says is made fit to be verified; a fault costs its stream that drafter."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from kodkod_engine.speculation.drafter import NO_DRAFT, Draft, Drafter, DraftTask
from kodkod_engine.speculation.stream import Stream

logger = logging.getLogger(__name__)


def ask(drafter: Drafter, tasks: Sequence[DraftTask], streams: Mapping[str, Stream], vocab_size: int) -> list[Draft]:
    """One draft per task. A drafter that fails says nothing more to the stream it failed on."""
    if not tasks:
        return []
    try:
        drafts = drafter.draft(tasks)
        return [
            _checked(draft, task, streams[task.sequence.id].stop_ids, vocab_size)
            for draft, task in zip(drafts, tasks, strict=True)
        ]
    except Exception as fault:  # noqa: BLE001  # a guess may fail, an answer must not
        if len(tasks) > 1:
            return [draft for task in tasks for draft in ask(drafter, [task], streams, vocab_size)]
        request_id = tasks[0].sequence.id
        _switch_off(drafter.name, request_id, streams[request_id], fault)
        return [NO_DRAFT]


def _checked(draft: Draft, task: DraftTask, stop_ids: frozenset[int], vocab_size: int) -> Draft:
    draft = draft.cut(task.max_tokens)
    if not draft.token_ids:
        return NO_DRAFT
    if min(draft.token_ids) < 0 or max(draft.token_ids) >= vocab_size:
        raise ValueError(f"it drafted an id outside the vocabulary of {vocab_size}")
    ends = [place for place, token_id in enumerate(draft.token_ids) if token_id in stop_ids]
    return draft.cut(ends[0] + 1) if ends else draft


def _switch_off(name: str, request_id: str, stream: Stream, fault: Exception) -> None:
    stream.drafters.pop(name, None)
    cause = " ".join(f"{type(fault).__name__}: {fault}".split())
    stream.faults[name] = f"the drafter {name} failed ({cause}); it is off for this answer, which goes on without"
    logger.warning("%s: %s", request_id, stream.faults[name], exc_info=fault)
