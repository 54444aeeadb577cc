"""The engine thread around our own scheduler and runner: schedule, run, hand out; again."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from kodkod_engine.api import Constraint, EngineStats, FinishReason, GenerationRequest, Speculation
from kodkod_engine.constraints.asking import ask_constraint, num_unrestricted
from kodkod_engine.core.answer import Answer
from kodkod_engine.core.block_pool import BlockPool
from kodkod_engine.core.engine_thread import CLOSED, EngineThread, one_line
from kodkod_engine.core.first_costs import measure_costs
from kodkod_engine.core.plan import StepEntry
from kodkod_engine.core.prefix_store import PrefixStore, WatchedStore
from kodkod_engine.core.prefix_tree import PrefixTree
from kodkod_engine.core.scheduler import Scheduler
from kodkod_engine.core.sequence import Sequence, SequenceStatus
from kodkod_engine.core.step import EXPECTED_TOKENS, Choice, ChosenToken, OverlappingRunner, StepRunner, TokenRun
from kodkod_engine.core.stopwatch import Stopwatch
from kodkod_engine.core.visits import Visits
from kodkod_engine.errors import EngineClosed
from kodkod_engine.speculation.costs import CostTable
from kodkod_engine.speculation.proposal import NO_PROPOSAL, Proposal
from kodkod_engine.speculation.speculator import Speculator
from kodkod_engine.speculation.step_times import StepTimes


@dataclass(frozen=True, slots=True)
class _Job:
    """One sequence in a step: what was planned, what was drafted, and what the runner is given."""

    entry: StepEntry
    proposal: Proposal
    run: TokenRun


class EngineLoop(EngineThread):
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
        steps_per_visit: int = 1,
        store: PrefixStore | None = None,
    ) -> None:
        """Start the thread. Without a speculator every step is a plain one. `steps_per_visit`: see `Visits`.

        A store keeps prefixes that the cache has no room for, or that are to outlive it; it is closed with the thread.
        """
        super().__init__(EngineStats(total_blocks=pool.num_blocks, free_blocks=pool.num_free))
        self._pool = pool
        self._vocab_size = vocab_size
        self._tree = PrefixTree(pool)
        self._scheduler = Scheduler(pool, self._tree, max_step_tokens=max_step_tokens, max_running=max_running)
        self._max_step_tokens = max_step_tokens
        self._visits = Visits(steps_per_visit)
        self._runner = runner
        self._wakes_at_once = not (isinstance(runner, OverlappingRunner) and runner.overlaps)
        if isinstance(runner, OverlappingRunner):
            runner.meanwhile = self._meanwhile
        self._store = None if store is None else WatchedStore(store)
        self._speculator = speculator or Speculator((), CostTable(), default=Speculation.NONE, vocab_size=vocab_size)
        self._answers: dict[str, Answer] = {}
        self._sequences: dict[str, Sequence] = {}
        self._num_steps_taken = self._num_generated = 0
        self._start()

    def check_integrity(self) -> None:
        """Assert that no block is lost. To be called when nothing runs."""
        self._scheduler.check_integrity()

    @property
    def _has_work(self) -> bool:
        return self._scheduler.has_work

    @property
    def _open_ids(self) -> Collection[str]:
        return self._answers.keys()

    def _let_go(self) -> None:
        if self._store is not None:
            self._store.close()
        del self._runner, self._speculator, self._store

    def _admit(self, sequence: Sequence, answer: Answer) -> None:
        self._answers[sequence.id] = answer
        self._sequences[sequence.id] = sequence
        parent_id = answer.request.parent_id
        self._scheduler.add(sequence, parent=self._sequences.get(parent_id) if parent_id else None)
        self._speculator.begin(sequence.id, answer.request, answer.stop_ids)

    def _step(self) -> None:
        if self._speculator.wants_costs:
            known_ids = next(iter(self._sequences.values())).token_ids
            measure_costs(self._speculator.costs, self._runner, self._pool, known_ids, self._max_step_tokens)
        started = time.monotonic()
        self._restore()
        stopwatch = Stopwatch()
        plan = self._scheduler.schedule()
        if not (plan.entries or plan.failed):
            raise RuntimeError("nothing was planned")  # again and again, for readers who wait in vain
        for sequence, cause in plan.failed:
            self._end(sequence.id, FinishReason.ERROR, cause)
        proposals = self._propose(plan.entries)
        jobs = self._jobs(plan.entries, proposals)
        for job in jobs:
            self._answers[job.entry.sequence.id].began(started)
        self._announce(plan.entries)
        num_steps = 1 if proposals else self._num_steps(jobs)
        chosen = self._runner.run(plan.copies, [job.run for job in jobs], num_steps)
        self._count_first([job.entry for job in jobs])
        emitted = self._take_all(jobs, chosen)
        for job in jobs:
            self._keep(job.entry.sequence)
        self._num_steps_taken += num_steps
        self._num_generated += sum(emitted.values())
        if jobs:
            num_tokens, context = sum(len(job.run.token_ids) for job in jobs), max(job.run.end for job in jobs)
            self._speculator.took(StepTimes(num_tokens, context, emitted, stopwatch.seconds(), num_steps))

    def _restore(self) -> None:
        if self._store is not None:
            restored = self._scheduler.restore(self._store)
            self._stats = replace(self._stats, restored_tokens=self._stats.restored_tokens + restored)

    def _keep(self, sequence: Sequence) -> None:
        """What it has computed, while it holds the blocks."""
        if self._store is not None and sequence.status is SequenceStatus.RUNNING:
            self._store.offer(sequence.id, sequence.token_ids, sequence.num_computed, sequence.block_ids)

    def _num_steps(self, jobs: list[_Job]) -> int:
        """Of the visit that begins with these, which have no drafts: slots for its tokens are reserved."""
        if self._scheduler.waiting or not jobs:
            return 1
        num_steps = self._visits.num_steps(
            [job.entry for job in jobs],
            [job.run.choices for job in jobs],
            plain_steps=self._speculator.plain_steps,
            step_s=self._speculator.plain_step_s(len(jobs), max(job.run.end for job in jobs)),
        )
        if num_steps == 1 or all(self._scheduler.reserve(job.entry.sequence, num_steps - 1) for job in jobs):
            return num_steps
        for job in jobs:
            self._scheduler.reclaim(job.entry.sequence)
        return 1

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
                cause = f"the constraint failed ({one_line(fault)}); correct it, or ask without it"
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
            sequence_ids=ids,
        )

    def _take(self, job: _Job, tokens: tuple[ChosenToken, ...], plain_step_s: float) -> int:
        """Accepted drafts, or a visit's tokens, and the token after them become the sequence's.

        Returns:
            How many were emitted.
        """
        tokens = self._unrestricted(job, tokens)
        sequence, num_accepted = job.entry.sequence, len(tokens) - 1
        room = sequence.max_total_tokens - sequence.num_tokens
        num_taken, reason = self._answers[sequence.id].take(tokens, room=room, wakes=self._wakes_at_once)
        for token in tokens[: min(num_taken, num_accepted)]:
            self._scheduler.append_token(sequence, token.token_id)
        self._scheduler.advance(sequence, job.entry.num_tokens + min(num_taken, num_accepted))
        if num_taken > num_accepted:
            self._scheduler.append_token(sequence, tokens[-1].token_id)
        self._speculator.emitted(sequence.id, num_taken, plain_step_s)
        self._scheduler.reclaim(sequence)  # also what was reserved for drafts that were not verified after all
        if job.proposal.segments:
            self._speculator.verified(sequence.id, job.proposal, num_accepted, min(num_taken, num_accepted))
        if reason is not None:
            self._end(sequence.id, reason)
        return num_taken

    def _unrestricted(self, job: _Job, tokens: tuple[ChosenToken, ...]) -> tuple[ChosenToken, ...]:
        """Those of a visit that a constraint has nothing to say to; what is drafted was asked about before."""
        sequence, answer = job.entry.sequence, self._answers[job.entry.sequence.id]
        constraint = answer.request.constraint
        if constraint is None or job.proposal.token_ids or len(tokens) == 1:
            return tokens
        generated, ids = sequence.token_ids[sequence.num_prompt_tokens :], [token.token_id for token in tokens]
        return tokens[: num_unrestricted(constraint, generated, ids, answer.stop_ids, self._vocab_size)]

    def _meanwhile(self) -> None:
        """Readers take the interpreter, so that they are woken waits until the device has the next step."""
        if self._is_closed:
            raise EngineClosed(CLOSED)
        self._wake_readers()

    def _wake_readers(self) -> None:
        """Of what the last step brought."""
        for answer in self._answers.values():
            answer.wake()

    def _end(self, request_id: str, reason: FinishReason, error: str | None = None) -> None:
        answer = self._answers.pop(request_id, None)
        sequence = self._sequences.pop(request_id, None)
        if answer is None or sequence is None:
            return
        try:
            self._take_out(sequence, is_sound=reason is not FinishReason.ERROR)
        finally:  # whatever breaks, the reader is told
            drafts, plain_decode_s = self._speculator.end(request_id)
            answer.end(reason, sequence, error, drafts=drafts, plain_decode_s=plain_decode_s)

    def _take_out(self, sequence: Sequence, *, is_sound: bool) -> None:
        """Nobody computes for it any more. `is_sound`: what it computed may be kept."""
        if is_sound:
            self._keep(sequence)
        if self._store is not None:
            self._store.forget(sequence.id)
        self._scheduler.finish(sequence)
        self._stats = replace(self._stats, preemptions=self._stats.preemptions + sequence.preemptions)

    def _fail_step(self, cause: str) -> None:
        """What a broken step left in the cache is not to be trusted, so no prefix is kept.

        Those who wait go on, unless nobody runs: then it was they who could not be planned, and never can be.
        """
        for sequence in self._scheduler.running or self._scheduler.waiting:
            self._end(sequence.id, FinishReason.ERROR, cause)
            self._scheduler.finish(sequence)  # it may have been its own end that broke the step
        self._tree.clear()
        self._wake_readers()

    def _count_first(self, entries: list[StepEntry]) -> None:
        stats = self._stats
        first = [entry.sequence for entry in entries if self._answers[entry.sequence.id].is_first_step()]
        if first:
            self._stats = replace(
                stats,
                prompt_tokens=stats.prompt_tokens + sum(sequence.num_prompt_tokens for sequence in first),
                reused_tokens=stats.reused_tokens + sum(sequence.reused_tokens for sequence in first),
            )

    def _publish_stats(self) -> None:
        scheduler = self._scheduler
        self._stats = replace(
            self._stats,
            steps=self._num_steps_taken,
            generated_tokens=self._num_generated,
            running=len(scheduler.running),
            waiting=len(scheduler.waiting),
            free_blocks=self._pool.num_free,
            cached_blocks=self._pool.num_evictable,
        )
