"""The engine thread around vLLM: takes commands, steps vLLM's engine, hands out; again.

vLLM schedules, computes and chooses. When an answer is complete, what of it is text, and what it cost is for
`core.answer` to say, as with our own engine, so stop conditions and usage mean the same everywhere.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any
from uuid import uuid4

from vllm import SamplingParams
from vllm.inputs import TokensPrompt
from vllm.sampling_params import RequestOutputKind

from kodkod_engine.api import EngineStats, FinishReason, TokenLogprob
from kodkod_engine.backends.vllm_choosing import PROCESSOR, WATCH, Watch, watches
from kodkod_engine.core.answer import Answer
from kodkod_engine.core.engine_thread import EngineThread, one_line
from kodkod_engine.core.sequence import Sequence
from kodkod_engine.core.step import ChosenToken


class _Job:
    """A request that vLLM has."""

    def __init__(self, sequence: Sequence, answer: Answer, watch: Watch | None) -> None:
        self.sequence = sequence
        self.answer = answer
        self.watch = watch
        self.watch_id = uuid4().hex
        self.vllm_id = sequence.id

    @property
    def room(self) -> int:
        """Tokens the answer may still have."""
        return self.sequence.max_total_tokens - self.sequence.num_tokens


class VllmLoop(EngineThread):
    """Owns vLLM's engine, which its thread alone touches."""

    def __init__(self, build: Callable[[], Any]) -> None:
        """Start the thread, and wait until its engine stands.

        Args:
            build: makes vLLM's `LLMEngine`. Called on the thread: on a CPU vLLM's kernels want to run with as many
                OpenMP threads as they were set up with, and that is a matter of the thread that calls them.

        Raises:
            Exception: what `build` raised.
        """
        super().__init__(EngineStats())
        self._build = build
        self._jobs: dict[str, _Job] = {}
        self._stands = threading.Event()
        self._start()
        self._stands.wait()
        if self._refusal is not None:
            self.close()
            raise self._refusal

    def _set_up(self) -> Exception | None:
        try:
            self.engine = self._build()
        except Exception as fault:  # noqa: BLE001  # handed to whoever waits for the engine
            return fault
        self._scheduler = self.engine.engine_core.engine_core.scheduler
        self._pool = self._scheduler.kv_cache_manager.block_pool
        model = self.engine.vllm_config.model_config
        self.vocab_size: int = model.get_vocab_size()
        self.max_context_tokens: int = model.max_model_len
        self.chooses: bool = PROCESSOR in (model.logits_processors or ())
        total = self._pool.num_gpu_blocks - 1  # one block is vLLM's own
        self._stats = EngineStats(total_blocks=total, free_blocks=total)
        return None

    def _work(self) -> None:
        self._refusal = self._set_up()
        self._stands.set()
        if self._refusal is None:
            super()._work()

    @property
    def _has_work(self) -> bool:
        return bool(self._jobs)

    @property
    def _open_ids(self) -> Collection[str]:
        return self._jobs.keys()

    def _admit(self, sequence: Sequence, answer: Answer) -> None:
        request = answer.request
        is_ours = self.chooses and (request.constraint is not None or request.sampling.temperature > 0)
        watch = Watch(request, self.vocab_size) if is_ours else None
        job = self._jobs[sequence.id] = _Job(sequence, answer, watch)
        if watch is not None:
            watches[job.watch_id] = watch
        self._stats = replace(self._stats, prompt_tokens=self._stats.prompt_tokens + sequence.num_prompt_tokens)
        try:
            prompt = TokensPrompt(prompt_token_ids=list(request.token_ids))
            job.vllm_id = self.engine.add_request(sequence.id, prompt, self._sampling(job))
        except Exception as fault:  # noqa: BLE001  # vLLM refuses with many classes; the reader is told
            self._end(sequence.id, FinishReason.ERROR, f"vLLM refuses the request ({one_line(fault)}); ask otherwise")

    def _sampling(self, job: _Job) -> SamplingParams:
        asked = job.answer.request.sampling
        fields: dict[str, Any] = {
            "max_tokens": job.room,
            "stop_token_ids": sorted(job.answer.stop_ids),
            "ignore_eos": True,  # which ids end a turn is said in full
            "detokenize": False,
            "output_kind": RequestOutputKind.DELTA,
        }
        if job.watch is not None:
            return SamplingParams(temperature=0.0, extra_args={WATCH: job.watch_id}, **fields)
        filters = {"top_k": asked.top_k, "top_p": asked.top_p, "min_p": asked.min_p, "seed": asked.seed}
        drawing = {"temperature": asked.temperature, **filters} if asked.temperature else {"temperature": 0.0}
        return SamplingParams(logprobs=asked.logprobs, **drawing, **fields)

    def _step(self) -> None:
        now = time.monotonic()
        for job in self._jobs.values():
            job.answer.began(now)
        outputs = self.engine.step()
        self._stats = replace(self._stats, steps=self._stats.steps + 1)
        for output in outputs:
            if output.request_id in self._jobs:
                self._take(self._jobs[output.request_id], output)

    def _take(self, job: _Job, output: Any) -> None:
        sequence, [said] = job.sequence, output.outputs
        if job.answer.is_first_step():
            sequence.reused_tokens = output.num_cached_tokens or 0
            self._stats = replace(self._stats, reused_tokens=self._stats.reused_tokens + sequence.reused_tokens)
        self._count_preemptions(sequence, output.metrics)
        if job.watch is not None and job.watch.fault is not None:
            cause = f"the constraint failed ({one_line(job.watch.fault)}); correct it, or ask without it"
            self._end(sequence.id, FinishReason.ERROR, cause)
            return
        reason = self._say(job, said) if said.token_ids else None
        if reason is None and output.finished:
            reason = FinishReason.LENGTH if said.finish_reason == "length" else FinishReason.STOP
        if reason is not None:
            self._end(sequence.id, reason)

    def _say(self, job: _Job, said: Any) -> FinishReason | None:
        tokens = [self._chosen(job, said, place) for place in range(len(said.token_ids))]
        num_taken, reason = job.answer.take(tokens, room=job.room)
        job.sequence.token_ids += [token.token_id for token in tokens[:num_taken]]
        self._stats = replace(self._stats, generated_tokens=self._stats.generated_tokens + num_taken)
        return reason

    def _chosen(self, job: _Job, said: Any, place: int) -> ChosenToken:
        token_id = int(said.token_ids[place])
        if job.watch is not None:
            assert job.watch.chosen is not None
            assert job.watch.chosen.token_id == token_id, "vLLM took another token than the one that was left"
            return job.watch.chosen
        num_top = job.answer.request.sampling.logprobs
        if num_top is None:
            return ChosenToken(token_id)
        given = said.logprobs[place]
        best = sorted(given.items(), key=lambda entry: entry[1].rank)[:num_top]
        top = tuple((int(one), float(entry.logprob)) for one, entry in best)
        return ChosenToken(token_id, TokenLogprob(token_id, float(given[token_id].logprob), top))

    def _count_preemptions(self, sequence: Sequence, metrics: Any) -> None:
        seen = getattr(metrics, "num_preemptions", None) or 0
        self._stats = replace(self._stats, preemptions=self._stats.preemptions + seen - sequence.preemptions)
        sequence.preemptions = seen

    def _end(self, request_id: str, reason: FinishReason, error: str | None = None) -> None:
        job = self._jobs.pop(request_id, None)
        if job is None:
            return
        watches.pop(job.watch_id, None)
        self.engine.abort_request([job.vllm_id], internal=True)
        job.answer.end(reason, job.sequence, error)

    def _fail_step(self, cause: str) -> None:
        """What a broken step left in the cache is not to be trusted, so no prefix is kept."""
        running = {request.request_id for request in self._scheduler.running}
        hit = [name for name, job in self._jobs.items() if job.vllm_id in running]
        for request_id in hit or list(self._jobs):
            self._end(request_id, FinishReason.ERROR, cause)
        self.engine.reset_prefix_cache()

    def _let_go(self) -> None:
        self.engine.engine_core.shutdown()
        del self.engine, self._scheduler, self._pool

    def _publish_stats(self) -> None:
        self._stats = replace(
            self._stats,
            running=len(self._scheduler.running),
            waiting=len(self._jobs) - len(self._scheduler.running),
            free_blocks=self._pool.get_num_free_blocks(),
        )
