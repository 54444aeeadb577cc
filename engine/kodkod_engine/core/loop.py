"""The engine thread: schedule, run, hand out; again.

Callers talk to it through one queue of commands, it answers through streams. Nothing else crosses.
"""

from __future__ import annotations

import atexit
import logging
import queue
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from kodkod_engine.api import Constraint, EngineStats, FinishReason, GenerationRequest, SamplingParams, Speculation
from kodkod_engine.constraints.asking import ask_constraint
from kodkod_engine.core.answer import Answer
from kodkod_engine.core.block_pool import BlockPool
from kodkod_engine.core.prefix_tree import PrefixTree
from kodkod_engine.core.scheduler import Scheduler, StepEntry
from kodkod_engine.core.sequence import Sequence
from kodkod_engine.core.step import EXPECTED_TOKENS, NOBODY, Choice, ChosenToken, StepRunner, TokenRun
from kodkod_engine.core.stopwatch import Stopwatch
from kodkod_engine.errors import DeviceLost, EngineClosed
from kodkod_engine.speculation.costs import CostTable
from kodkod_engine.speculation.proposal import NO_PROPOSAL, Proposal
from kodkod_engine.speculation.speculator import Speculator, StepTimes

logger = logging.getLogger(__name__)

MEASURED_TOKENS = 128
MEASURING_S = 0.25
"""The longest step whose time is measured before the first answer, and how long that may take in all."""


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


@dataclass(frozen=True, slots=True)
class _Job:
    """One sequence in a step: what was planned, what was drafted, and what the runner is given."""

    entry: StepEntry
    proposal: Proposal
    run: TokenRun


class EngineLoop:
    """Owns the scheduler and the runner; both are touched by its thread alone."""

    def __init__(
        self,
        pool: BlockPool,
        runner: StepRunner,
        *,
        vocab_size: int,
        max_step_tokens: int,
        max_running: int,
        speculator: Speculator | None = None,
    ) -> None:
        """Start the thread. Without a speculator every step is a plain one."""
        self._pool = pool
        self._vocab_size = vocab_size
        self._tree = PrefixTree(pool)
        self._scheduler = Scheduler(pool, self._tree, max_step_tokens=max_step_tokens, max_running=max_running)
        self._max_step_tokens = max_step_tokens
        self._runner = runner
        self._speculator = speculator or Speculator((), CostTable(), default=Speculation.NONE, vocab_size=vocab_size)
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
                raise EngineClosed(_last_words(self._death)) from self._death
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
                except DeviceLost:
                    raise
                except Exception as fault:
                    # The outermost edge of the engine: whatever broke, every reader is told and the engine goes on.
                    logger.exception("a step failed")
                    self._fail_step(f"the engine failed in a step ({_one_line(fault)}); it goes on, so ask again")
                self._publish_stats()
        except DeviceLost as fault:
            logger.error("%s", fault)  # noqa: TRY400  # one line says it all
            self._death = fault
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
            reason, cause = FinishReason.ERROR, _last_words(self._death)
        for request_id in list(self._answers):
            self._end(request_id, reason, cause)
        self._publish_stats()
        # And with them the model and its cache, whoever still holds the loop.
        del self._runner, self._speculator

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
        self._speculator.begin(sequence.id, answer.request, answer.stop_ids)

    def _step(self) -> None:
        if self._speculator.wants_costs:
            self._measure_costs()
        started, stopwatch = time.monotonic(), Stopwatch()
        plan = self._scheduler.schedule()
        for sequence, cause in plan.failed:
            self._end(sequence.id, FinishReason.ERROR, cause)
        proposals = self._propose(plan.entries)
        jobs = self._jobs(plan.entries, proposals)
        for job in jobs:
            self._answers[job.entry.sequence.id].began(started)
        self._announce(plan.entries)
        chosen = self._runner.run(plan.copies, [job.run for job in jobs])
        self._count_first([job.entry for job in jobs])
        emitted = self._take_all(jobs, chosen)
        self._stats = replace(
            self._stats,
            steps=self._stats.steps + 1,
            generated_tokens=self._stats.generated_tokens + sum(emitted.values()),
        )
        if jobs:
            num_tokens, context = sum(len(job.run.token_ids) for job in jobs), max(job.run.end for job in jobs)
            self._speculator.took(StepTimes(num_tokens, context, emitted, stopwatch.seconds()))

    def _announce(self, entries: tuple[StepEntry, ...]) -> None:
        """Tell the runner what is to come of prompts that go on after this step, each token once."""
        for entry in entries:
            ids, end = entry.sequence.token_ids, entry.start + entry.num_tokens
            is_first = entry.start <= entry.sequence.reused_tokens
            first = end if is_first else entry.start + EXPECTED_TOKENS
            coming = ids[first : end + EXPECTED_TOKENS]
            if coming:
                self._runner.expect(ids[max(0, first - self._runner.context_tokens) : first], coming)

    def _take_all(self, jobs: list[_Job], chosen: list[tuple[ChosenToken, ...]]) -> dict[str, int]:
        """What each stream got, where it got any."""
        plain_step_s = 0.0
        if num_choosing := sum(bool(tokens) for tokens in chosen):
            plain_step_s = self._speculator.plain_step_s(num_choosing, max(job.run.end for job in jobs))
        emitted: dict[str, int] = {}
        for job, tokens in zip(jobs, chosen, strict=True):
            if tokens:
                emitted[job.entry.sequence.id] = self._take(job, tokens, plain_step_s)
            else:
                self._scheduler.commit(job.entry)
        return emitted

    def _measure_costs(self) -> None:
        """Steps on blocks that nobody needs, before the first answer: a fraction of a second, once."""
        ids = next(iter(self._sequences.values())).token_ids[:MEASURED_TOKENS]
        ids = (ids * MEASURED_TOKENS)[: 2 * MEASURED_TOKENS]
        num_blocks = self._pool.blocks_for(len(ids))
        block_ids = [
            block for _ in range(min(num_blocks, self._pool.num_free)) if (block := self._pool.allocate()) is not None
        ]

        def time_step(size: int) -> float | None:
            # The first half is context, once it has been computed: by the first, longest step.
            start = MEASURED_TOKENS if size < MEASURED_TOKENS else 0
            if len(block_ids) < self._pool.blocks_for(start + size) or size > self._max_step_tokens:
                return None
            run_ids, context = ids[start : start + size], ids[max(0, start - self._runner.context_tokens) : start]
            choices = [Choice(SamplingParams(), start + 1 + place, None) for place in range(size)]
            stopwatch = Stopwatch()
            self._runner.run((), [TokenRun(NOBODY, run_ids, context, start, block_ids, choices)])
            return stopwatch.seconds()

        try:
            self._speculator.costs.measure(time_step, MEASURED_TOKENS, MEASURING_S)
        finally:
            for block_id in block_ids:
                self._pool.release(block_id)

    def _propose(self, entries: tuple[StepEntry, ...]) -> Mapping[str, Proposal]:
        room = self._max_step_tokens - sum(entry.num_tokens for entry in entries)
        return self._speculator.propose(entries, room, self._scheduler.reserve)

    def _jobs(self, entries: tuple[StepEntry, ...], proposals: Mapping[str, Proposal]) -> list[_Job]:
        """What the runner is to do; a request whose constraint fails is ended and left out."""
        jobs: list[_Job] = []
        for entry in entries:
            answer = self._answers[entry.sequence.id]
            proposal = proposals.get(entry.sequence.id, NO_PROPOSAL)
            try:
                choices = self._choices(entry, answer.request, proposal.token_ids)
            except Exception as fault:  # noqa: BLE001  # see below
                # A constraint is a caller's code: its fault ends its own request and no other.
                cause = f"the constraint failed ({_one_line(fault)}); correct it, or ask without it"
                self._end(entry.sequence.id, FinishReason.ERROR, cause)
                continue
            proposal = proposal.cut(max(0, len(choices) - 1))
            jobs.append(_Job(entry, proposal, self._run(entry, proposal.token_ids, choices)))
        return jobs

    def _choices(self, entry: StepEntry, request: GenerationRequest, drafts: tuple[int, ...]) -> list[Choice]:
        """One for the next token, and one after each draft, up to the first draft that the constraint forbids."""
        if not entry.samples:
            return []
        sequence, constraint = entry.sequence, request.constraint
        if constraint is None:
            places = range(sequence.num_tokens, sequence.num_tokens + len(drafts) + 1)
            return [Choice(request.sampling, position, None) for position in places]
        generated = sequence.token_ids[sequence.num_prompt_tokens :]
        choices = [Choice(request.sampling, sequence.num_tokens, self._allowed(generated, constraint))]
        for draft in drafts:
            allowed = choices[-1].allowed_ids
            if allowed is not None and draft not in allowed:
                break
            generated.append(draft)
            try:
                after = self._allowed(generated, constraint)
            except Exception:  # noqa: BLE001  # whether plain decoding would ever ask this is open
                break
            choices.append(Choice(request.sampling, sequence.num_tokens + len(choices), after))
        return choices

    def _allowed(self, generated_ids: list[int], constraint: Constraint) -> Collection[int] | None:
        return ask_constraint(constraint, generated_ids, self._vocab_size)

    def _run(self, entry: StepEntry, drafts: tuple[int, ...], choices: list[Choice]) -> TokenRun:
        ids, end = entry.sequence.token_ids, entry.start + entry.num_tokens
        return TokenRun(
            request_id=entry.sequence.id,
            token_ids=[*ids[entry.start : end], *drafts],
            context_ids=ids[max(0, entry.start - self._runner.context_tokens) : entry.start],
            start=entry.start,
            block_ids=entry.sequence.block_ids,
            choices=choices,
        )

    def _take(self, job: _Job, tokens: tuple[ChosenToken, ...], plain_step_s: float) -> int:
        """Accepted drafts and the token after them become the sequence's; returns how many were emitted."""
        sequence, num_accepted = job.entry.sequence, len(tokens) - 1
        room = sequence.max_total_tokens - sequence.num_tokens
        num_taken, reason = self._answers[sequence.id].take(tokens, room=room)
        for token in tokens[: min(num_taken, num_accepted)]:
            self._scheduler.append_token(sequence, token.token_id)
        self._scheduler.advance(sequence, job.entry.num_tokens + min(num_taken, num_accepted))
        if num_taken > num_accepted:
            self._scheduler.append_token(sequence, tokens[-1].token_id)
        self._speculator.emitted(sequence.id, num_taken, plain_step_s)
        if job.proposal.segments:
            self._scheduler.reclaim(sequence)
            self._speculator.verified(sequence.id, job.proposal, num_accepted, min(num_taken, num_accepted))
        if reason is not None:
            self._end(sequence.id, reason)
        return num_taken

    def _end(self, request_id: str, reason: FinishReason, error: str | None = None) -> None:
        answer = self._answers.pop(request_id, None)
        sequence = self._sequences.pop(request_id, None)
        if answer is None or sequence is None:
            return
        self._scheduler.finish(sequence)
        self._stats = replace(self._stats, preemptions=self._stats.preemptions + sequence.preemptions)
        drafts, plain_decode_s = self._speculator.end(request_id)
        answer.end(reason, sequence, error, drafts=drafts, plain_decode_s=plain_decode_s)

    def _fail_step(self, cause: str) -> None:
        """What a broken step left in the cache is not to be trusted, so no prefix is kept.

        Those who wait go on, unless nobody runs: then it was they who could not be planned, and never can be.
        """
        for sequence in self._scheduler.running or self._scheduler.waiting:
            self._end(sequence.id, FinishReason.ERROR, cause)
        self._tree.clear()

    def _count_first(self, entries: list[StepEntry]) -> None:
        stats = self._stats
        first = [entry.sequence for entry in entries if self._answers[entry.sequence.id].is_first_step()]
        self._stats = replace(
            stats,
            prompt_tokens=stats.prompt_tokens + sum(sequence.num_prompt_tokens for sequence in first),
            reused_tokens=stats.reused_tokens + sum(sequence.reused_tokens for sequence in first),
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


def _last_words(death: BaseException) -> str:
    return (
        str(death) if isinstance(death, DeviceLost) else f"the engine thread died ({_one_line(death)}); load it again"
    )


def _one_line(fault: BaseException) -> str:
    return " ".join(f"{type(fault).__name__}: {fault}".split())
