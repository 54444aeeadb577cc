"""The engine thread: schedule, run, hand out; again.

Callers talk to it through one queue of commands, it answers through streams. Nothing else crosses.
"""

from __future__ import annotations

import atexit
import logging
import queue
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import TypeAlias

from kodkod_engine.api import Constraint, EngineStats, FinishReason, GenerationRequest
from kodkod_engine.constraints.token_mask import TokenMask
from kodkod_engine.core.answer import Answer
from kodkod_engine.core.block_pool import BlockPool
from kodkod_engine.core.prefix_tree import PrefixTree
from kodkod_engine.core.scheduler import Scheduler, StepEntry
from kodkod_engine.core.sequence import Sequence
from kodkod_engine.core.step import Choice, ChosenToken, StepRunner, TokenRun
from kodkod_engine.errors import EngineClosed

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Submit:
    """A new request, with the place its answer goes to."""

    sequence: Sequence
    answer: Answer


@dataclass(frozen=True, slots=True)
class Cancel:
    """A stream whose reader wants no more."""

    request_id: str


@dataclass(frozen=True, slots=True)
class Stop:
    """The end."""


Command: TypeAlias = Submit | Cancel | Stop


class EngineLoop:
    """Owns the scheduler and the runner; both are touched by its thread alone."""

    def __init__(
        self, pool: BlockPool, runner: StepRunner, *, vocab_size: int, max_step_tokens: int, max_running: int
    ) -> None:
        self._pool = pool
        self._vocab_size = vocab_size
        self._tree = PrefixTree(pool)
        self._scheduler = Scheduler(pool, self._tree, max_step_tokens=max_step_tokens, max_running=max_running)
        self._runner = runner
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._answers: dict[str, Answer] = {}
        self._sequences: dict[str, Sequence] = {}
        self._stats = EngineStats(total_blocks=pool.num_blocks, free_blocks=pool.num_free)
        self._is_closed = False
        self._death: BaseException | None = None
        self._closing = threading.Lock()
        # A daemon, so that an interpreter that ends without close() does not wait for it before it runs exit handlers.
        # It must be gone when they are done: a thread that the interpreter stops inside a kernel aborts the process.
        self._thread = threading.Thread(target=self._work, name="kodkod-engine", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    @property
    def stats(self) -> EngineStats:
        """As of the end of the last step."""
        return self._stats

    def check_integrity(self) -> None:
        """Assert that no block is lost. To be called when nothing runs."""
        self._scheduler.check_integrity()

    def submit(self, sequence: Sequence, answer: Answer) -> None:
        """Queue a request. Raises EngineClosed after `close`, or when the thread died."""
        with self._closing:
            if self._death is not None:
                raise EngineClosed(f"the engine thread died ({_one_line(self._death)}); load it again") from self._death
            if self._is_closed:
                raise EngineClosed("the engine is closed; load it again")
            self._commands.put(Submit(sequence, answer))

    def cancel(self, request_id: str) -> None:
        """End a request before the next step; unknown or ended ones are left alone."""
        self._commands.put(Cancel(request_id))

    def close(self) -> None:
        """Cancel everything and wait for the thread to end."""
        with self._closing:
            self._is_closed = True
            self._commands.put(Stop())
        if self._thread is not threading.current_thread():
            self._thread.join()
        atexit.unregister(self.close)

    def _work(self) -> None:
        try:
            while self._take_commands():
                try:
                    self._step()
                except Exception as fault:
                    # The outermost edge of the engine: whatever broke, every reader is told and the engine goes on.
                    logger.exception("a step failed")
                    self._fail_step(f"the engine failed in a step ({_one_line(fault)}); it goes on, so ask again")
                self._publish_stats()
        except BaseException as fault:
            self._death = fault
            raise
        finally:
            self._leave()

    def _leave(self) -> None:
        """Tell every reader that the end has come: asked for, or by the death of the thread."""
        with self._closing:
            self._is_closed = True
        while not self._commands.empty():
            match self._commands.get():
                case Submit(sequence, answer):
                    self._admit(sequence, answer)
        reason, cause = FinishReason.CANCELLED, None
        if self._death is not None:
            reason, cause = FinishReason.ERROR, f"the engine thread died ({_one_line(self._death)}); load it again"
        for request_id in list(self._answers):
            self._end(request_id, reason, cause)
        self._publish_stats()
        del self._runner  # and with it the model and its cache, whoever still holds the loop

    def _take_commands(self) -> bool:
        """Do what has been asked since the last step; wait when there is nothing to compute. False means stop."""
        while True:
            try:
                command = self._commands.get(block=not self._scheduler.has_work)
            except queue.Empty:
                return True
            match command:
                case Submit(sequence, answer):
                    self._admit(sequence, answer)
                case Cancel(request_id):
                    self._end(request_id, FinishReason.CANCELLED)
                    self._publish_stats()
                case Stop():
                    return False

    def _admit(self, sequence: Sequence, answer: Answer) -> None:
        self._answers[sequence.id] = answer
        self._sequences[sequence.id] = sequence
        parent_id = answer.request.parent_id
        self._scheduler.add(sequence, parent=self._sequences.get(parent_id) if parent_id else None)

    def _step(self) -> None:
        plan = self._scheduler.schedule()
        for sequence, cause in plan.failed:
            self._end(sequence.id, FinishReason.ERROR, cause)
        runs, entries = self._runs(plan.entries)
        started = time.monotonic()
        for entry in entries:
            self._answers[entry.sequence.id].began(started)
        chosen = self._runner.run(plan.copies, runs)
        self._count(entries, chosen)
        for entry, token in zip(entries, chosen, strict=True):
            self._scheduler.commit(entry)
            if token is not None:
                self._take_token(entry.sequence, token)

    def _runs(self, entries: tuple[StepEntry, ...]) -> tuple[list[TokenRun], list[StepEntry]]:
        """What the runner is to do; a request whose constraint fails is ended and left out."""
        runs: list[TokenRun] = []
        kept: list[StepEntry] = []
        for entry in entries:
            answer = self._answers[entry.sequence.id]
            try:
                choice = self._choice(entry, answer.request)
            except Exception as fault:  # noqa: BLE001  # see below
                # A constraint is a caller's code: its fault ends its own request and no other.
                cause = f"the constraint failed ({_one_line(fault)}); correct it, or ask without it"
                self._end(entry.sequence.id, FinishReason.ERROR, cause)
                continue
            runs.append(self._run(entry, choice))
            kept.append(entry)
        return runs, kept

    def _choice(self, entry: StepEntry, request: GenerationRequest) -> Choice | None:
        if not entry.samples:
            return None
        allowed = None if request.constraint is None else self._allowed(entry.sequence, request.constraint)
        return Choice(request.sampling, entry.sequence.num_tokens, allowed)

    def _allowed(self, sequence: Sequence, constraint: Constraint) -> Collection[int] | None:
        allowed = constraint.allowed_ids(sequence.token_ids[sequence.num_prompt_tokens :])
        if allowed is None:
            return None
        if len(allowed) == 0:
            raise ValueError("it allows no token")
        lowest, highest = (0, allowed.max_id) if isinstance(allowed, TokenMask) else (min(allowed), max(allowed))
        if lowest < 0 or highest >= self._vocab_size:
            raise ValueError(f"it allows an id outside the vocabulary of {self._vocab_size}")
        return allowed

    def _run(self, entry: StepEntry, choice: Choice | None) -> TokenRun:
        ids, end = entry.sequence.token_ids, entry.start + entry.num_tokens
        return TokenRun(
            request_id=entry.sequence.id,
            token_ids=ids[entry.start : end],
            context_ids=ids[max(0, entry.start - self._runner.context_tokens) : entry.start],
            start=entry.start,
            block_ids=entry.sequence.block_ids,
            choice=choice,
        )

    def _take_token(self, sequence: Sequence, token: ChosenToken) -> None:
        self._scheduler.append_token(sequence, token.token_id)
        is_full = sequence.num_tokens >= sequence.max_total_tokens
        reason = self._answers[sequence.id].take(token, is_full=is_full)
        if reason is not None:
            self._end(sequence.id, reason)

    def _end(self, request_id: str, reason: FinishReason, error: str | None = None) -> None:
        answer = self._answers.pop(request_id, None)
        sequence = self._sequences.pop(request_id, None)
        if answer is None or sequence is None:
            return
        self._scheduler.finish(sequence)
        self._stats = replace(self._stats, preemptions=self._stats.preemptions + sequence.preemptions)
        answer.end(reason, sequence, error)

    def _fail_step(self, cause: str) -> None:
        """What a broken step left in the cache is not to be trusted, so no prefix is kept.

        Those who wait go on, unless nobody runs: then it was they who could not be planned, and never can be.
        """
        for sequence in self._scheduler.running or self._scheduler.waiting:
            self._end(sequence.id, FinishReason.ERROR, cause)
        self._tree.clear()

    def _count(self, entries: list[StepEntry], chosen: list[ChosenToken | None]) -> None:
        stats = self._stats
        first = [entry.sequence for entry in entries if self._answers[entry.sequence.id].is_first_step()]
        self._stats = replace(
            stats,
            steps=stats.steps + 1,
            prompt_tokens=stats.prompt_tokens + sum(sequence.num_prompt_tokens for sequence in first),
            reused_tokens=stats.reused_tokens + sum(sequence.reused_tokens for sequence in first),
            generated_tokens=stats.generated_tokens + sum(token is not None for token in chosen),
        )

    def _publish_stats(self) -> None:
        scheduler = self._scheduler
        self._stats = replace(
            self._stats,
            running=len(scheduler.running),
            waiting=len(scheduler.waiting),
            free_blocks=self._pool.num_free,
            cached_blocks=self._pool.num_evictable,
        )


def _one_line(fault: BaseException) -> str:
    return " ".join(f"{type(fault).__name__}: {fault}".split())
