"""Speculation loses nothing: the same ids, texts, log-probabilities and ends with drafts as without.

Requests of all kinds run side by side on a small cache, so that prefixes are found, forks copied, prompts chunked and
sequences preempted. Sums over few and over many rows differ in their last bits, so where two answers part the model
itself is asked, and must have found the two tokens all but equal.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.speculation.guessers import KnowingDrafter, always
from kodkod_engine.api import Completion, GenerationRequest, SamplingParams, Speculation, collect
from kodkod_engine.backends.native import NativeEngine, drafters_for
from kodkod_engine.chat.tokenizer import Tokenizer
from kodkod_engine.config import EngineConfig
from kodkod_engine.core.runner import ModelRunner
from kodkod_engine.core.sampler import filtered_probabilities, restrict, uniform
from kodkod_engine.core.step import TokenRun
from kodkod_engine.models.loading import LoadedModel, load_model
from kodkod_engine.nano import folder as nano_folder

TIE_GAP = 1e-4
"""Logits, or places of a draw, that differ by less are equal for all that fp32 can tell."""

MODES = (Speculation.AUTO, Speculation.SUFFIX, Speculation.MTP)
THOROUGH = settings(
    max_examples=2_500, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
BRIEF = settings(THOROUGH, max_examples=24)


@dataclass(frozen=True)
class Fence:
    """A constraint that depends on the answer so far, and often leaves no choice."""

    vocab_size: int
    width: int
    start: int

    def allowed_ids(self, generated_ids: Sequence[int]) -> list[int] | None:
        place = (self.start + 7 * sum(generated_ids[-2:])) % 5
        if place == 0:
            return None
        first = (31 * len(generated_ids) + self.start) % (self.vocab_size - self.width)
        return list(range(first, first + (1 if place < 3 else self.width)))


class Pair:
    """One model in an engine that speculates whatever it is told, and can be asked without."""

    def __init__(self, loaded: LoadedModel, tokenizer: Tokenizer, draft: str) -> None:
        self.loaded = loaded
        vocab_size = loaded.config.vocab_size
        self.knowing = KnowingDrafter(vocab_size) if draft == "known" else None
        config = EngineConfig(max_cached_tokens=96, block_size=4, max_step_tokens=48, max_running=4)
        self.engine = NativeEngine(
            loaded,
            tokenizer,
            config,
            speculate=lambda runner, _: always([self.knowing] if self.knowing else drafters_for(runner), vocab_size),
        )
        self.num_tokens = self.num_ties = self.num_drafted = self.num_accepted = 0

    async def answers(self, requests: Sequence[GenerationRequest], mode: Speculation) -> list[Completion]:
        """All side by side; those that have a parent go on from the first one's stream."""
        streams = [self.engine.generate(replace(requests[0], speculation=mode))]
        streams += [
            self.engine.generate(replace(one, speculation=mode, parent_id=one.parent_id and streams[0].id))
            for one in requests[1:]
        ]
        return list(await asyncio.gather(*map(collect, streams)))

    def check(self, requests: Sequence[GenerationRequest], mode: Speculation) -> None:
        plain = asyncio.run(self.answers(requests, Speculation.NONE))
        if self.knowing:
            pairs = zip(requests, plain, strict=True)
            self.knowing.answers = {request.token_ids: done.token_ids for request, done in pairs}
        drafted = asyncio.run(self.answers(requests, mode))
        for request, one, other in zip(requests, plain, drafted, strict=True):
            assert not any(usage.fault for usage in other.usage.drafts), other.usage
            assert other.usage.generated_tokens == len(other.token_ids)
            assert other.usage.accepted_tokens <= other.usage.drafted_tokens
            self.num_drafted += other.usage.drafted_tokens
            self.num_accepted += other.usage.accepted_tokens
            self.num_tokens += len(one.token_ids)
            self._compare(request, one, other)

    def _compare(self, request: GenerationRequest, plain: Completion, drafted: Completion) -> None:
        if drafted.token_ids != plain.token_ids:
            self.num_ties += 1
            return self._assert_tie(request, plain.token_ids, drafted.token_ids)
        assert (drafted.text, drafted.finish_reason, drafted.error) == (plain.text, plain.finish_reason, plain.error)
        assert len(drafted.logprobs) == len(plain.logprobs)
        for one, other in zip(plain.logprobs, drafted.logprobs, strict=True):
            assert one.token_id == other.token_id
            assert other.logprob == pytest.approx(one.logprob, abs=1e-3)
        return None

    def _assert_tie(self, request: GenerationRequest, one: Sequence[int], other: Sequence[int]) -> None:
        place = next((i for i, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), None)
        assert place is not None, f"{one} and {other} are not of one length"
        ids = [*request.token_ids, *one[:place]]
        runner = ModelRunner(self.loaded, -(-len(ids) // 4), 4)
        logits = runner.logits([TokenRun("plain", ids, (), 0, range(-(-len(ids) // 4)))])[0][-1:]
        allowed = request.constraint.allowed_ids(one[:place]) if request.constraint else None
        logits = restrict(logits, [allowed])[0]
        if request.sampling.temperature == 0:
            assert abs(float(logits[one[place]] - logits[other[place]])) < TIE_GAP
            return
        cumulative = filtered_probabilities(logits, request.sampling).cumsum(0)
        point = uniform(request.sampling.seed, len(ids)) * float(cumulative[-1])
        # The draw lies at the border of both tokens' shares, or a filter's border runs between them.
        low, high = sorted((one[place], other[place]))
        near = torch.stack([(cumulative[low] - point).abs(), (cumulative[high - 1] - point).abs()])
        filters = request.sampling.top_k or request.sampling.top_p < 1 or request.sampling.min_p
        assert filters or float(near.max()) < TIE_GAP


@st.composite
def batches(draw: st.DrawFn, vocab_size: int) -> list[GenerationRequest]:
    rng = random.Random(draw(st.integers(0, 2**32)))
    base = [rng.randrange(vocab_size) for _ in range(draw(st.integers(1, 40)))]
    base += base[len(base) // 2 :] * draw(st.integers(0, 1))
    requests = []
    for index in range(draw(st.integers(1, 4))):
        prompt = base if index == 0 else base[: rng.randint(1, len(base))]
        prompt = [*prompt, *(rng.randrange(vocab_size) for _ in range(rng.randrange(4)))]
        sampling = SamplingParams(
            temperature=rng.choice([0.0, 0.0, 0.3, 1.0, 1.5]),
            top_k=rng.choice([0, 0, 0, 5]),
            top_p=rng.choice([1.0, 1.0, 0.8]),
            min_p=rng.choice([0.0, 0.0, 0.05]),
            seed=rng.randrange(1_000),
            max_tokens=rng.randint(1, 24),
            stop_ids=frozenset(rng.sample(range(vocab_size), rng.choice([0, 0, 8]))),
            stop_strings=tuple(rng.choice(["a", "e", " ", "th"]) for _ in range(rng.choice([0, 0, 1]))),
            ignore_eos=rng.random() < 0.8,
            logprobs=rng.choice([None, None, 0, 2]),
        )
        fence = Fence(vocab_size, rng.randint(2, 30), rng.randrange(100)) if rng.random() < 0.3 else None
        requests.append(
            GenerationRequest(
                tuple(prompt),
                sampling,
                fence,
                parent_id="first" if index and rng.random() < 0.5 else None,
                draft_sources=(tuple(base),) if rng.random() < 0.3 else (),
            )
        )
    return requests


@pytest.fixture(scope="module")
def nano() -> LoadedModel:
    return load_model(nano_folder(), dtype=torch.float32)


@pytest.fixture(scope="module")
def models(tiny, tokenizer, nano) -> dict[str, tuple[LoadedModel, Tokenizer]]:
    return {"tiny": (tiny, tokenizer), "nano": (nano, Tokenizer.from_folder(nano_folder()))}


@pytest.fixture
def pair(models, request) -> Iterator[Pair]:
    name, draft = request.param
    pair = Pair(*models[name], draft)
    yield pair
    pair.engine.close()
    pair.engine.check_integrity()
    assert pair.num_ties <= 1 + pair.num_tokens / 2_000, f"{pair.num_ties} ties in {pair.num_tokens} tokens"


ALL = pytest.mark.parametrize(
    "pair",
    [(name, draft) for name in ("tiny", "nano") for draft in ("real", "known")],
    ids=lambda value: "-".join(value),
    indirect=True,
)


def check_cases(pair: Pair, how: settings) -> None:
    @how
    @given(st.data())
    def holds(data: st.DataObject) -> None:
        mode = Speculation.AUTO if pair.knowing else data.draw(st.sampled_from(MODES))
        pair.check(data.draw(batches(pair.loaded.config.vocab_size)), mode)

    holds()
    assert pair.num_drafted > pair.num_accepted > 0


@ALL
def test_an_answer_is_the_same_with_drafts_as_without(pair):
    check_cases(pair, BRIEF)


@ALL
def test_an_answer_is_the_same_when_sequences_are_preempted(pair):
    sampling = SamplingParams(max_tokens=30, ignore_eos=True, temperature=0.7, seed=3)
    prompts = [(*range(20, 44), last) for last in range(4)]
    pair.check([GenerationRequest(prompt, sampling) for prompt in prompts], Speculation.AUTO)
    pair.engine.close()
    assert pair.engine.stats().preemptions > 0


@ALL
@pytest.mark.slow
@pytest.mark.timeout(7_200)
def test_an_answer_is_the_same_in_ten_thousand_cases(pair):
    check_cases(pair, THOROUGH)
