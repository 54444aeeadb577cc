"""Steps for which the device has all it needs are not sent anything, and are the same ids as through the modules."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from kodkod_engine.core.step import TokenRun, next_run
from kodkod_engine.models.loading import load_model
from kodkod_engine.models.random_checkpoint import write_random_checkpoint

pytest.importorskip("triton")

from engine.kernels.gpu.test_gpu_visits import (  # what it is made of needs triton
    BLOCK_SIZE,
    BLOCKS_EACH,
    CONFIG,
    DEVICE,
    DRAWN,
    GREEDY,
    Pair,
    compute_by_modules,
)
from kodkod_engine.kernels.gpu import thin_linear
from kodkod_engine.models import gpu_step
from kodkod_engine.models.step_buffers import MOST_STEPS, SMALLEST_BUCKET, StepBuffers


@pytest.fixture(scope="module")
def played(tmp_path_factory) -> Iterator[Pair]:
    loaded = load_model(
        write_random_checkpoint(tmp_path_factory.mktemp("model"), CONFIG, seed=2, with_mtp=False), device=DEVICE
    )
    with pytest.MonkeyPatch.context() as patch:
        if DEVICE == "cpu":
            patch.setattr(gpu_step.GpuStep, "_compute", compute_by_modules)
            patch.setattr(gpu_step, "thin_linear", thin_linear.reference)
        pair = Pair(loaded, patch)
        patch.setattr(loaded.model, "_gpu_step", pair.step)
        yield pair


@pytest.fixture
def sent(monkeypatch) -> list[int]:
    """For how many steps each of the times."""
    counted: list[int] = []
    fill = StepBuffers.fill
    monkeypatch.setattr(StepBuffers, "fill", lambda self, *rest: (counted.append(rest[-1]), fill(self, *rest))[1])
    return counted


def test_numbers_are_sent_once_for_each_block(played, sent):
    runs = played.begin([[7, 8, 2, 9, 11]], [GREEDY])
    played.check(runs, [1])
    sent.clear()
    played.check(runs, [1] * 11)
    assert sent == [3, 4, 4], "positions 5 to 7, 8 to 11, 12 to 15"


def test_the_next_block_of_any_sequence_is_sent(played, sent):
    runs = played.begin([[7], [7, 8, 2, 9, 11, 12], [30, 4, 9, 2]], [GREEDY] * 3)
    played.check(runs, [1])
    sent.clear()
    played.check(runs, [1] * 8)
    assert sent == [2, 1, 1, 2, 1, 1], "at positions 1, 6 and 4 there are blocks for 3, 2 and 4"


def test_visits_are_gone_on_with_too(played):
    played.check(played.begin([[7, 8, 2, 9, 11], [3]], [GREEDY, GREEDY]), [1, 2, 1, 3, 1, 1, 4, 1, 2, 2])


def test_drawn_ids_are_sent_their_draws(played, sent):
    runs = played.begin([[7, 8, 2, 9]], [DRAWN])
    played.check(runs, [1])
    sent.clear()
    played.check(runs, [1] * 3)
    assert sent == [1, 1, 1]


def after(played: Pair, runs: list[TokenRun]) -> list[TokenRun]:
    """The runs that both lead to, which have more room in their block."""
    got = played.fused.run([], runs)
    assert got == played.plain.run([], runs)
    return [played._after(run, tokens) for run, tokens in zip(runs, got, strict=True)]


@pytest.fixture
def two(played) -> list[TokenRun]:
    return after(played, after(played, played.begin([[7, 8, 2, 9], [30, 4, 9, 2]], [GREEDY, GREEDY])))


def test_another_token_than_was_chosen_is_the_one_that_counts(played, two):
    other = (two[0].token_ids[0] + 1) % CONFIG["vocab_size"]
    played.check([replace(two[0], token_ids=[other]), two[1]], [1, 1])


def test_whoever_goes_is_gone_and_whoever_comes_is_there(played, two):
    first, second = two
    (first,) = after(played, [first])
    first, second = after(played, [first, second])
    played.check([second, first], [1])


def test_another_sequence_has_another_text_before_it(played, two):
    other = [(token_id + 1) % CONFIG["vocab_size"] for token_id in two[0].context_ids]
    played.check([replace(two[0], request_id="another", context_ids=other), two[1]], [1])


def test_a_sequence_that_was_moved_is_read_where_it_is(played, two):
    """Its list of blocks is the same object, with other blocks in it."""
    run, spare = two[0], 3 * (BLOCKS_EACH - 1 - BLOCKS_EACH // 2) + 2
    for runner in (played.fused, played.plain):
        runner.cache.copy_block(run.block_ids[1], spare, BLOCK_SIZE)
        runner.cache.copy_block(run.block_ids[-1], run.block_ids[1], BLOCK_SIZE)
    run.block_ids[1] = spare
    played.check(two, [1, 1])


def test_a_step_in_between_is_no_harm(played, two):
    for runner in (played.fused, played.plain):
        runner.forward([TokenRun("else", [4, 5], (), 0, [3 * BLOCKS_EACH - 1])])
        runner.run([], [TokenRun("else", [4], (), 0, [3 * BLOCKS_EACH - 1])])
    played.check(two, [1, 1])


def test_what_a_constraint_took_back_is_not_gone_on_with(played, monkeypatch):
    """A visit's last token comes again where it was, behind another than the device chose; beside prompts, say, the
    steps between are the modules'."""
    (run,) = played.begin([[7, 8, 2, 9]], [GREEDY])
    played.plain.run([], [run])
    first, second, third = (token.token_id for token in played.fused.run([], [run], 3)[0])
    other = (second + 1) % CONFIG["vocab_size"]
    with monkeypatch.context() as patch:
        patch.setattr(played.step, "admits", lambda *_: False)
        for said, wanted in ((first, other), (other, third)):
            run = next_run(run, said, played.plain.context_tokens)
            bound = replace(run, choices=[replace(run.choices[0], allowed_ids=frozenset({wanted}))])
            assert [runner.run([], [bound])[0][0].token_id for runner in (played.fused, played.plain)] == [wanted] * 2
    run = next_run(run, third, played.plain.context_tokens)
    played.check([run], [1])
    slot = run.block_ids[run.start // BLOCK_SIZE] * BLOCK_SIZE + run.start % BLOCK_SIZE
    latents = [runner.cache._latents[:, slot] for runner in (played.fused, played.plain)]
    torch.testing.assert_close(*latents, rtol=1e-3, atol=1e-4)


@torch.inference_mode()
def test_no_step_goes_beyond_what_its_graph_sees(played):
    blocks = list(range(BLOCKS_EACH))
    batch = played.fused.batch([TokenRun("a", [7], [5, 6], SMALLEST_BUCKET - 3, blocks)])
    assert played.step.choose(batch, None, 1, 9).shape == (1, 1)
    assert played.step.go_on(3) is None, "the third one is beyond"
    assert played.step.go_on(2).shape == (2, 1)
    assert played.step.go_on() is None


@torch.inference_mode()
def test_no_more_steps_follow_each_other_than_there_are_places_for_ids(played):
    batch = played.fused.batch([TokenRun("a", [7], [5, 6], 4, list(range(BLOCKS_EACH)))])
    played.step.choose(batch, None, 1, 99)
    assert [played.step.go_on() is None for _ in range(MOST_STEPS)] == [False] * (MOST_STEPS - 1) + [True]
