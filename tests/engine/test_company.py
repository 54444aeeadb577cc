"""What a request is answered does not depend on what goes on beside it.

Requests of all kinds share an engine that is short of room: some are cancelled, some fork, drafts are verified, several
steps are taken at once, prefixes come back from disk. Each token that was said has to be the one that is chosen after
one plain pass over all before it, with its log-probability; and nothing may be lost. Sums in another order round
differently, so that now and then another token, or another expert, is all but as good: that is rare, and counted.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.speculation.guessers import always
from kodkod_engine.api import (
    Completion,
    FinishReason,
    GenerationRequest,
    SamplingParams,
    Speculation,
    TokenChunk,
    TokenStream,
    collect,
)
from kodkod_engine.backends.native import NativeEngine, drafters_for
from kodkod_engine.config import EngineConfig
from kodkod_engine.constraints.token_mask import TokenMask
from kodkod_engine.core import visits
from kodkod_engine.core.runner import ModelRunner
from kodkod_engine.core.sampler import choose
from kodkod_engine.core.step import Choice, TokenRun

EOS_ID, VOCAB_SIZE = 2, 320
SETTINGS = settings(max_examples=20, deadline=None, derandomize=True, database=None)


@dataclass(frozen=True)
class Fence:
    """Allows by the number of tokens so far: anything, one id, a few, or most; and anything again for a while."""

    first: int
    pause: int

    def allowed_ids(self, generated_ids: Sequence[int]) -> Sequence[int] | TokenMask | None:
        place = self.first + len(generated_ids)
        some = range(place % 40, VOCAB_SIZE, 40)
        if place % (4 + self.pause) >= 4:
            return None
        return (None, some[:1], list(some), TokenMask.of(range(place % 40, VOCAB_SIZE), VOCAB_SIZE))[
            place % (4 + self.pause)
        ]


@dataclass(frozen=True)
class Ask:
    """A prompt that shares its beginning with the others', and when its reader has enough."""

    num_shared: int
    new_ids: list[int]
    sampling: SamplingParams
    constraint: Fence | None
    enough: int | None


@dataclass
class Reading:
    """A stream that is cancelled when its reader has enough."""

    stream: TokenStream
    enough: int | None

    async def __aiter__(self) -> AsyncIterator[TokenChunk]:
        num_read = 0
        if self.enough == 0:
            self.stream.cancel()
        async for chunk in self.stream:
            num_read += len(chunk.token_ids)
            if self.enough and num_read >= self.enough:
                self.stream.cancel()
            yield chunk


samplings = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.0, 0.7, 2.0]),
    top_k=st.sampled_from([0, 0, 5]),
    top_p=st.sampled_from([1.0, 1.0, 0.8]),
    seed=st.integers(-3, 2**70),
    max_tokens=st.integers(1, 30),
    stop_ids=st.frozensets(st.integers(3, VOCAB_SIZE - 1), max_size=5),
    logprobs=st.sampled_from([None, None, 0, 2]),
)
new_ids = st.lists(st.integers(0, VOCAB_SIZE - 1) | st.just(EOS_ID), min_size=1, max_size=6)
fences = st.none() | st.builds(Fence, st.integers(0, 99), st.sampled_from([0, 3, 9]))
asks = st.lists(
    st.builds(Ask, st.integers(0, 40), new_ids, samplings, fences, st.none() | st.none() | st.integers(0, 9)),
    min_size=2,
    max_size=6,
)
configs = st.builds(
    EngineConfig,
    block_size=st.sampled_from([1, 4, 8, 16]),
    max_step_tokens=st.sampled_from([8, 24, 64]),
    max_running=st.just(6),
    max_cached_tokens=st.integers(80, 110),
    steps_per_visit=st.sampled_from([1, 4]),
    speculation=st.sampled_from([Speculation.AUTO, Speculation.NONE]),
)

ASKED = [Ask(40, [7], SamplingParams(max_tokens=30), None, enough) for enough in (None, None, 3)]
DRAFTING = EngineConfig(block_size=4, max_step_tokens=24, max_running=6, max_cached_tokens=110)
VISITED = replace(DRAFTING, block_size=16, max_cached_tokens=400, steps_per_visit=4, speculation=Speculation.NONE)


class Company:
    """One model, engines of it, and what was in the examples."""

    def __init__(self, loaded, tokenizer) -> None:
        self.loaded, self.tokenizer, self.counts = loaded, tokenizer, Counter()

    def answers(self, config: EngineConfig, requests: Sequence[GenerationRequest], wanted: Sequence[Ask]) -> list:
        """All side by side in a new engine, in which nothing is lost."""
        engine = NativeEngine(
            self.loaded,
            self.tokenizer,
            config,
            speculate=lambda runner, config: always(drafters_for(runner), VOCAB_SIZE, config.speculation),
            identity="0" * 24,
        )
        self._count_visits(engine.runner)
        try:
            return asyncio.run(self._read_all(engine, requests, wanted))
        finally:
            engine.close()
            engine.check_integrity()
            stats = engine.stats()
            assert stats.free_blocks + stats.cached_blocks == stats.total_blocks
            self.counts.update(preempted=stats.preemptions, reused=stats.reused_tokens, restored=stats.restored_tokens)

    def _count_visits(self, runner: ModelRunner) -> None:
        run = runner.run

        def counted(copies, runs, num_steps=1):
            self.counts["visits"] += num_steps > 1
            return run(copies, runs, num_steps)

        runner.run = counted

    async def _read_all(self, engine, requests, wanted) -> list[Completion]:
        streams = [engine.generate(request) for request in requests]
        readings = [Reading(stream, ask.enough) for stream, ask in zip(streams, wanted, strict=True)]
        return list(await asyncio.gather(*map(collect, readings)))

    def check(self, request: GenerationRequest, done: Completion, enough: int | None) -> None:
        """Every token is the one chosen after those before it, and the end is one that was asked for."""
        self.counts.update(tokens=len(done.token_ids), accepted=done.usage.accepted_tokens, asked=1)
        self.counts["cancelled"] += done.finish_reason is FinishReason.CANCELLED
        assert done.error is None
        assert done.usage.generated_tokens == len(done.token_ids)
        assert done.finish_reason is self._end(request, done.token_ids), (request, done, enough)
        assert enough is not None or done.finish_reason is not FinishReason.CANCELLED
        said = done.token_ids[: len(done.token_ids) - self._is_stopped(request, done.token_ids)]
        assert done.text == self.tokenizer.decode(said, skip_special=False)
        chosen = self._chosen(request, done.token_ids)
        self.counts["others"] += sum(one.token_id != said for one, said in zip(chosen, done.token_ids, strict=True))
        if request.sampling.logprobs is not None:
            pairs = zip(chosen, done.logprobs, strict=True)
            self.counts["others"] += sum(
                abs(one.logprob.logprob - told.logprob) > 1e-3 for one, told in pairs if one.token_id == told.token_id
            )

    def _is_stopped(self, request: GenerationRequest, ids: Sequence[int]) -> bool:
        return ids[-1:] != () and ids[-1] in request.sampling.stop_ids | {EOS_ID}

    def _end(self, request: GenerationRequest, ids: Sequence[int]) -> FinishReason:
        if self._is_stopped(request, ids):
            return FinishReason.STOP
        return FinishReason.LENGTH if len(ids) == request.sampling.max_tokens else FinishReason.CANCELLED

    def _chosen(self, request: GenerationRequest, said: Sequence[int]) -> list:
        if not said:
            return []
        prompt, ids = request.token_ids, [*request.token_ids, *said[:-1]]
        logits = ModelRunner(self.loaded, 1, len(ids)).logits([TokenRun("plain", ids, (), 0, [0])])[0]
        allow = request.constraint.allowed_ids if request.constraint else lambda _: None
        places = range(len(said))
        choices = [Choice(request.sampling, len(prompt) + place, allow(said[:place])) for place in places]
        return [choose(logits[len(prompt) - 1 + place][None], [choices[place]])[0] for place in places]


def test_an_answer_is_its_own_in_any_company(tiny, tokenizer, monkeypatch):
    monkeypatch.setattr(visits, "VISIT_S", float("inf"))
    company = Company(tiny, tokenizer)

    @SETTINGS
    @given(asks, configs, st.booleans())
    @example(ASKED, DRAFTING, False)  # whatever is drawn, everything that is counted happens
    @example(ASKED, VISITED, True)
    def holds(wanted: list[Ask], config: EngineConfig, is_kept: bool) -> None:
        shared = tuple(place * place % 97 + 30 for place in range(40))
        requests = [
            GenerationRequest((*shared[: one.num_shared], *one.new_ids), one.sampling, one.constraint) for one in wanted
        ]
        with TemporaryDirectory() as folder:
            kept = replace(config, kv_folder=str(Path(folder) / "kv") if is_kept else None)
            first = company.answers(kept, requests, wanted)
            again = [replace(one, draft_sources=(done.token_ids,)) for one, done in zip(requests, first, strict=True)]
            for done in (first, company.answers(kept, again, wanted)):
                for request, one, ask in zip(requests, done, wanted, strict=True):
                    company.check(request, one, ask.enough)

    holds()
    assert company.counts.pop("others") <= 1 + company.counts["tokens"] / 1_000
    kinds = ("preempted", "reused", "restored", "accepted", "cancelled", "visits")
    assert all(company.counts[kind] for kind in kinds), company.counts
