"""The model that comes along: complete, small enough, and loaded by the same code as any other."""

from __future__ import annotations

import asyncio
from contextlib import closing

import pytest

from kodkod_engine import load_config, load_engine, nano
from kodkod_engine.api import FinishReason, GenerationRequest, SamplingParams, collect

_MAX_BYTES = 24_000_000


@pytest.fixture(scope="module")
def engine():
    with closing(load_engine(nano.folder())) as loaded:
        yield loaded


def test_fits_in_the_package():
    assert sum(path.stat().st_size for path in nano.folder().iterdir() if path.is_file()) <= _MAX_BYTES


def test_has_everything_the_large_one_has():
    config = load_config(nano.folder())
    assert config.ngram is not None
    assert config.num_identity_experts > 0
    # A table whose size is near a multiple of the vocabulary's would send many n-grams to the same rows.
    for rows in config.ngram.moduli:
        assert 0.1 < rows / config.vocab_size % 1 < 0.9


def test_has_a_draft_block(engine):
    assert engine.runner.loaded.mtp is not None


def test_knows_how_code_goes_on(engine):
    """Far better than chance: it was trained."""
    code = "    def __len__(self) -> int:\n        return len(self._items)\n"
    ids = engine.tokenizer.encode_text(code)
    request = GenerationRequest(tuple(ids[:-3]), SamplingParams(max_tokens=1, logprobs=10))
    answer = asyncio.run(collect(engine.generate(request)))
    assert answer.finish_reason is FinishReason.LENGTH
    assert answer.logprobs[0].logprob > -5.0, "the likeliest of 8,192 ids is likelier than one in 150"
