"""What every drafter keeps to, whatever it drafts from; and what is the draft block's own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from engine.playing import play
from engine.speculation.guessers import FakeDrafter, always
from kodkod_engine.api import GenerationRequest, SamplingParams, Speculation, collect
from kodkod_engine.backends.native import NativeEngine, drafters_for
from kodkod_engine.config import EngineConfig
from kodkod_engine.core.sequence import Sequence
from kodkod_engine.speculation.drafter import Draft, Drafter, DraftTask
from kodkod_engine.speculation.hot_head import HotHead

NAMES = ("forced", "suffix", "mtp")
PROMPT = (5, 6, 7, 5, 6, 7, 5, 6)


class Recorder:
    """Stands before a drafter and notes what it is asked and what it says."""

    def __init__(self, drafter: Drafter) -> None:
        self.name = drafter.name
        self.drafter = drafter
        self.said: list[tuple[DraftTask, list[int], Draft]] = []

    def draft(self, tasks):
        known = [list(task.sequence.token_ids) for task in tasks]
        drafts = self.drafter.draft(tasks)
        assert [task.sequence.token_ids for task in tasks] == known, "it changed what is not its own"
        self.said += zip(tasks, known, drafts, strict=True)
        return drafts

    def end(self, request_id):
        self.drafter.end(request_id)


class Rut:
    """A constraint under which every second token is forced."""

    def allowed_ids(self, generated_ids):
        return [7] if len(generated_ids) % 2 else None


class Workbench:
    def __init__(self, loaded, name: str) -> None:
        self.recorders: list[Recorder] = []

        def speculate(runner, _config):
            self.recorders += [
                Recorder(drafter) for drafter in drafters_for(runner) if drafter.name in ("forced", name)
            ]
            return always(self.recorders, loaded.config.vocab_size)

        config = EngineConfig(max_cached_tokens=512, block_size=4, max_step_tokens=64)
        self.engine = NativeEngine(loaded, None, config, speculate=speculate)
        self.recorder = next(one for one in self.recorders if one.name == name)

    def ask(self, *prompts, **fields):
        async def together():
            constraint = Rut() if self.recorder.name == "forced" else None
            requests = [GenerationRequest(prompt, constraint=constraint, **fields) for prompt in prompts]
            return await asyncio.gather(*(collect(self.engine.generate(request)) for request in requests))

        return asyncio.run(together())


@pytest.fixture(params=NAMES)
def bench(tiny, request) -> Iterator[Workbench]:
    bench = Workbench(tiny, request.param)
    yield bench
    bench.engine.close()
    bench.engine.check_integrity()


def test_drafts_are_ids_with_confidences_and_no_longer_than_asked_for(bench):
    sampling = SamplingParams(max_tokens=30, ignore_eos=True)
    (done,) = bench.ask(PROMPT, sampling=sampling)
    assert len(done.token_ids) == 30
    drafts = [(task, draft) for task, _, draft in bench.recorder.said if draft.token_ids]
    assert drafts
    for task, draft in drafts:
        assert len(draft.token_ids) <= task.max_tokens
        assert all(0 <= token_id < bench.engine.vocab_size for token_id in draft.token_ids)
        assert all(0 <= confidence <= 1 for confidence in draft.confidences)


def test_it_is_asked_for_several_streams_at_once(bench):
    sampling = SamplingParams(max_tokens=20, ignore_eos=True, temperature=0.8)
    prompts = [(*PROMPT, last) for last in (9, 10, 11)]
    together = bench.ask(*prompts, sampling=sampling)
    alone = [bench.ask(prompt, sampling=sampling)[0] for prompt in prompts]
    assert [done.token_ids for done in together] == [done.token_ids for done in alone]


def test_nothing_of_an_ended_stream_is_kept_but_texts(bench):
    bench.ask(PROMPT, sampling=SamplingParams(max_tokens=12, ignore_eos=True))
    state = {key: value for key, value in vars(bench.recorder.drafter).items() if key not in ("_kept", "_answers")}
    held = [value for value in state.values() if isinstance(value, dict)]
    assert not any(held)
    if bench.recorder.name == "mtp":
        assert not bench.recorder.drafter._head._own


def test_one_that_was_not_asked_for_a_while_catches_up(bench):
    """A drafter is not told of tokens: it finds them."""
    recorder, real = bench.recorder, bench.recorder.drafter.draft
    calls = iter(range(1_000))
    recorder.drafter.draft = lambda tasks: real(tasks) if next(calls) % 3 == 2 else [Draft()] * len(tasks)
    sampling = SamplingParams(max_tokens=30, ignore_eos=True)
    (done,) = bench.ask(PROMPT, sampling=sampling)
    (plain,) = bench.ask(PROMPT, sampling=sampling, speculation=Speculation.NONE)
    assert done.token_ids == plain.token_ids
    assert not any(usage.fault for usage in done.usage.drafts)


def test_the_fake_is_a_drafter_too():
    fake: Drafter = FakeDrafter(lambda _: [1, 2, 3])
    task = DraftTask(Sequence("s", [1], 1, 9), GenerationRequest((1,)), 2)
    assert fake.draft([task]) == [Draft((1, 2), (0.99, 0.99))]
    fake.end("s")


def test_a_draft_has_a_confidence_for_each_token():
    with pytest.raises(ValueError, match="2 drafted tokens with 1 confidences"):
        Draft((1, 2), (0.5,))


# --- the draft block ------------------------------------------------------------------------------------------------


@torch.inference_mode()
def test_the_block_says_what_it_says_when_it_is_fed_in_one_go(tiny):
    """What is drafted step by step, over KV written piece by piece, is what one pass over the whole sequence gives."""
    bench = Workbench(tiny, "mtp")
    bench.ask(PROMPT, sampling=SamplingParams(max_tokens=20, ignore_eos=True))
    drafts = [(ids, draft) for _, ids, draft in bench.recorder.said if draft.token_ids]
    bench.engine.close()
    assert len(drafts) > 5
    for ids, draft in drafts:
        played = play(tiny)[0]
        batch = played.runner.batch([played.run(ids[:-1])]).to(tiny.device)
        hidden = tiny.model.norm(tiny.model(batch, played.runner.cache))
        shifted = replace(batch, token_ids=torch.tensor(ids[1:], device=tiny.device), windows=None)
        out = tiny.mtp(hidden, shifted, tiny.model.rope_table(batch.positions), played.runner.cache)
        logits = tiny.model.head(out)[-1]
        assert int(logits.argmax()) == draft.token_ids[0]
        assert float(logits.softmax(-1).max()) == pytest.approx(draft.confidences[0], abs=1e-4)


@torch.inference_mode()
def test_the_hot_head_gives_the_logits_of_the_whole_one(tiny):
    whole, hot = HotHead(tiny.model), HotHead(tiny.model, small_vocab=1)
    normed = torch.randn(1, tiny.config.hidden_size, device=tiny.device)
    ids, logits = whole.logits("s", [5, 300], normed)
    assert ids is None
    assert torch.equal(logits, tiny.model.head(normed)[0])
    for conversation in ([5, 300], [5, 300, 299, 41, 300]):
        ids, some = hot.logits("s", conversation, normed)
        assert ids.tolist() == sorted({*range(320 // 8), *conversation})
        torch.testing.assert_close(some, logits[ids], rtol=1e-5, atol=1e-5)
    hot.end("s")
    assert hot.logits("s", [5], normed)[0].tolist() == list(range(40))
