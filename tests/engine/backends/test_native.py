"""What the native back end has of its own: options, table homes, real draws, memory."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest
import torch

from engine.backends.bench import answer_to
from kodkod_engine import load_engine
from kodkod_engine.config import EngineConfig

PROMPT = tuple(range(30, 60))


@pytest.fixture
def load(tiny_folder):
    """Engines of the tiny checkpoint, closed at the end."""
    engines = []

    def build(**options):
        engines.append(load_engine(tiny_folder, **{"max_cached_tokens": 512, **options}))
        return engines[-1]

    yield build
    for engine in engines:
        engine.close()


async def test_the_tokenizer_beside_the_checkpoint_is_taken(load):
    engine = load()
    done = await answer_to(engine, engine.tokenizer.encode_text("hello"), 5)
    assert done.text == engine.tokenizer.decode(done.token_ids, skip_special=False)


async def test_mapped_tables_and_a_missing_draft_block_change_nothing(load):
    wanted = await answer_to(load(), PROMPT, 20)
    assert (await answer_to(load(ngram_tables="mapped"), PROMPT, 20)).token_ids == wanted.token_ids
    assert (await answer_to(load(mtp=False), PROMPT, 20)).token_ids == wanted.token_ids


async def test_rows_of_a_long_prompt_are_asked_for_in_advance_and_change_nothing(load, monkeypatch):
    prompt = tuple(range(30, 230))
    wanted = await answer_to(load(max_step_tokens=16, max_running=4), prompt, 8)
    mapped = load(max_step_tokens=16, max_running=4, ngram_tables="mapped")
    rows, expected = mapped.runner.loaded.model.embedding.row_source, []
    expect = rows.expect
    monkeypatch.setattr(rows, "expect", lambda windows: (expected.append(windows), expect(windows)))
    assert (await answer_to(mapped, prompt, 8)).token_ids == wanted.token_ids
    told = torch.cat(expected)
    assert told[:, 0].tolist() == list(prompt[16:])
    assert told[:, 1:].tolist() == [[token - 1, token - 2, token - 3] for token in prompt[16:]]


async def test_draws_differ_by_seed_and_by_position(load):
    engine = load()
    answers = [(await answer_to(engine, PROMPT, 20, temperature=1.0, seed=seed)).token_ids for seed in (1, 2, 1)]
    assert answers[0] == answers[2] != answers[1]
    assert len(set(answers[0])) > 5


async def test_every_logprob_is_of_the_whole_distribution(load):
    done = await answer_to(load(), PROMPT, 3, logprobs=320, temperature=1.0)
    for entry in done.logprobs:
        assert len(entry.top) == 320
        assert dict(entry.top)[entry.token_id] == entry.logprob


async def test_a_closed_engine_keeps_no_cache_and_no_weights(load):
    engine = load()
    await answer_to(engine, PROMPT, 2)
    kept = [weakref.ref(engine.runner.cache), weakref.ref(engine.runner.loaded.model)]
    engine.close()
    gc.collect()
    assert [ref() for ref in kept] == [None, None]
    engine.close()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"max_running": 0}, ValueError),
        ({"block_size": 0}, ValueError),
        ({"steps_per_visit": 0}, ValueError),
        ({"ngram_tables": "floppy"}, ValueError),
        ({"colour": "red"}, TypeError),
    ],
)
def test_options_that_cannot_be_are_refused(load, options, error):
    with pytest.raises(error) as refusal:
        load(**options)
    assert "\n" not in str(refusal.value)


async def test_no_more_sequences_run_than_a_step_has_tokens(load):
    engine = load(max_step_tokens=3, max_running=9)
    wanted = await answer_to(load(), PROMPT, 6)
    answers = await asyncio.gather(*(answer_to(engine, PROMPT, 6) for _ in range(7)))
    assert {answer.token_ids for answer in answers} == {wanted.token_ids}


@pytest.mark.parametrize(("device", "tokens"), [("cpu", 512), ("cuda", 4096), ("cuda:1", 4096)])
def test_how_long_a_step_is_suits_the_device_unless_told(device: str, tokens: int) -> None:
    assert EngineConfig(device=device).step_tokens == tokens
    assert EngineConfig(device=device, max_step_tokens=64).step_tokens == 64
