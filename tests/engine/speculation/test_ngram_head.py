"""The head on the N-gram embedding: what it reads, what it drafts, and its file."""

from __future__ import annotations

import asyncio

import pytest
import torch

from engine.speculation.guessers import always
from kodkod_engine.api import GenerationRequest, SamplingParams, Speculation, collect
from kodkod_engine.backends.native import NativeEngine, drafters_for
from kodkod_engine.config import EngineConfig
from kodkod_engine.core.runner import ModelRunner
from kodkod_engine.core.sequence import Sequence
from kodkod_engine.errors import CheckpointCorrupt
from kodkod_engine.layers.ngram_hash import ABSENT
from kodkod_engine.speculation.drafter import DraftTask
from kodkod_engine.speculation.ngram_head import FILE_NAME, NgramHead, NgramHeadDrafter, load_ngram_head


@pytest.fixture(scope="module")
def head(tiny) -> NgramHead:
    generator = torch.Generator().manual_seed(1)
    hidden, vocab = tiny.config.hidden_size, tiny.config.vocab_size
    down, up = torch.randn(16, hidden, generator=generator), torch.randn(vocab, 16, generator=generator)
    return NgramHead(down.to(tiny.device), up.to(tiny.device))


def task(ids: list[int], max_tokens: int = 3) -> DraftTask:
    return DraftTask(Sequence("s", ids, 1, 99), GenerationRequest((1,)), max_tokens)


@torch.inference_mode()
def test_it_reads_the_embedding_of_the_last_tokens_and_its_own_drafts(tiny, head):
    drafter = NgramHeadDrafter(ModelRunner(tiny, 4, 4), head)
    for ids in ([5], [5, 9, 300], [7, 8, 5, 9, 300, 41], [41, 2, 9]):
        [draft] = drafter.draft([task(ids)])
        known = [ABSENT] * 3 + ids
        for token_id, confidence in zip(draft.token_ids, draft.confidences, strict=True):
            window = torch.tensor([known[-1:-5:-1]], device=tiny.device)
            logits = head.logits(tiny.model.embedding(window[:, 0], window))[0]
            assert token_id == int(logits.argmax())
            assert confidence == pytest.approx(float(logits.softmax(-1).max()), rel=1e-4)
            known.append(token_id)
        assert len(draft.token_ids) == 3


def test_answers_stay_the_same(tiny, head):
    config = EngineConfig(max_cached_tokens=256, block_size=4)
    engine = NativeEngine(
        tiny, None, config, speculate=lambda runner, _: always([NgramHeadDrafter(runner, head)], tiny.config.vocab_size)
    )

    def answer(mode: Speculation, temperature: float):
        sampling = SamplingParams(temperature, max_tokens=20, ignore_eos=True, seed=4)
        return asyncio.run(collect(engine.generate(GenerationRequest((5, 6, 7), sampling, speculation=mode))))

    for temperature in (0.0, 0.9):
        done, plain = answer(Speculation.NGRAM_HEAD, temperature), answer(Speculation.NONE, temperature)
        assert done.token_ids == plain.token_ids
        assert [usage.drafter for usage in done.usage.drafts] == ["ngram_head"]
        assert done.usage.drafted_tokens > 10
    engine.close()
    engine.check_integrity()


def test_a_checkpoint_that_has_one_is_drafted_for_with_it(tiny, head, tmp_path):
    runner = ModelRunner(tiny, 4, 4)
    assert load_ngram_head(tmp_path, tiny.config, tiny.device) is None
    assert "ngram_head" not in [drafter.name for drafter in drafters_for(runner, tmp_path)]
    head.save(tmp_path)
    loaded = load_ngram_head(tmp_path, tiny.config, tiny.device)
    torch.testing.assert_close(loaded.up, head.up, rtol=0.01, atol=0)
    assert "ngram_head" in [drafter.name for drafter in drafters_for(runner, tmp_path)]


def test_a_file_that_does_not_fit_is_named(tiny, head, tmp_path):
    for down, up in (
        (head.down, head.up[:-1]),
        (head.down, head.up[:, 0]),
        (head.down[0], head.up),
        (head.down, head.up[0, 0]),
    ):
        NgramHead(down, up).save(tmp_path)
        with pytest.raises(CheckpointCorrupt, match="belongs to another model; remove it or make it again"):
            load_ngram_head(tmp_path, tiny.config, tiny.device)
    (tmp_path / FILE_NAME).write_bytes(b"\0" * 20)
    with pytest.raises(CheckpointCorrupt, match="cannot be read"):
        load_ngram_head(tmp_path, tiny.config, tiny.device)
