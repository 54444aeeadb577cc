"""Several steps in a row on the device against as many single ones through the modules, token for token.

In the interpreter a step of all kernels takes seconds. What is looked at here is what lies between two steps, so the
layers are computed by the modules there, from nothing but the integers that a graph would read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import torch

from kodkod_engine.api import SamplingParams
from kodkod_engine.core.runner import ModelRunner
from kodkod_engine.core.step import Choice, TokenRun, next_run
from kodkod_engine.errors import CheckpointCorrupt
from kodkod_engine.layers.step_batch import AttentionGroup, Blocks, StepBatch
from kodkod_engine.models.config import BACKBONE_ARCHITECTURE
from kodkod_engine.models.loading import LoadedModel, TableHome, load_model
from kodkod_engine.models.random_checkpoint import TINY, write_random_checkpoint

if TYPE_CHECKING:
    from kodkod_engine.models.gpu_step import GpuStep
    from kodkod_engine.models.step_buffers import ShapeKey, StepBuffers

pytest.importorskip("triton")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CONFIG = {**TINY, "hidden_size": 48, "num_attention_heads": 2, "qk_rope_head_dim": 16, "num_layers": 1}
OTHERS = ("backbone", "mapped")
"""No tables, and tables that a step on the device cannot read: its visits are single steps."""
BLOCK_SIZE, BLOCKS_EACH = 4, 80
GREEDY, DRAWN, FILTERED = SamplingParams(), SamplingParams(1.0, seed=8), SamplingParams(1.5, 30, 0.9, 0.01, seed=9)


@pytest.fixture(scope="module", params=["ngrams", *(pytest.param(one, marks=pytest.mark.slow) for one in OTHERS)])
def loaded(request, tmp_path_factory) -> LoadedModel:
    config = {**CONFIG, "architectures": [BACKBONE_ARCHITECTURE]} if request.param == "backbone" else CONFIG
    folder = write_random_checkpoint(tmp_path_factory.mktemp(request.param), config, seed=2, with_mtp=False)
    home = TableHome.MAPPED if request.param == "mapped" else TableHome.RESIDENT
    return load_model(folder, device=DEVICE, ngram_tables=home)


@pytest.fixture(
    scope="module", params=["modules", pytest.param("kernels", marks=[] if DEVICE == "cuda" else [pytest.mark.slow])]
)
def played(request, loaded: LoadedModel) -> Iterator[Pair]:
    if request.param == "modules" and DEVICE == "cuda":
        pytest.skip("where there is a device its kernels are quick")
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "modules":
            from kodkod_engine.kernels.gpu import thin_linear
            from kodkod_engine.models import gpu_step

            patch.setattr(gpu_step.GpuStep, "_compute", compute_by_modules)
            patch.setattr(gpu_step, "thin_linear", thin_linear.reference)
        yield Pair(loaded, patch)


def compute_by_modules(step: GpuStep, shape: StepBuffers, key: ShapeKey) -> torch.Tensor:
    """See `GpuStep._compute`."""
    model, at = step.model, shape.places
    places, positions = Blocks(at.blocks.clone(), step.cache.layout.block_size), at.positions.clone()
    rows = positions.view(key.sequences, key.query_len)
    group = AttentionGroup(slice(0, key.tokens), key.sequences, key.query_len, places, key.context, rows)
    windows = at.windows.clone()
    batch = StepBatch(windows[:, 0].contiguous(), windows, positions, at.slots.clone(), (group,))
    x, table = model.embed(batch), model.rope_table(positions)
    for layer in model.dual_layers:
        x = layer(x, batch, table, step.cache)
    return x


class Pair:
    """One model behind the fused step, and through its modules alone."""

    def __init__(self, loaded: LoadedModel, patch: pytest.MonkeyPatch) -> None:
        from kodkod_engine.models.gpu_step import GpuStep
        from kodkod_engine.models.longcat_flash import LongcatFlash

        self.fused, self.plain = (ModelRunner(loaded, 3 * BLOCKS_EACH, BLOCK_SIZE) for _ in range(2))
        self.step = GpuStep(loaded.model, self.fused.cache)
        self.fused._chooses_on_device, self.plain._chooses_on_device = True, False
        steps = {id(self.fused.cache): self.step}
        patch.setattr(
            LongcatFlash,
            "_fused_for",
            lambda _model, batch, cache: (step := steps.get(id(cache))) and (step if step.admits(batch) else None),
        )

    def begin(self, prompts: Sequence[Sequence[int]], samplings: Sequence[SamplingParams]) -> list[TokenRun]:
        """Both read the prompts; the runs of the first token after them. Blocks lie interleaved, last one first."""
        runs = []
        for index, (prompt, sampling) in enumerate(zip(prompts, samplings, strict=True)):
            blocks = [3 * (BLOCKS_EACH - 1 - place) + index for place in range(BLOCKS_EACH)]
            for runner in (self.fused, self.plain):
                runner.run([], [TokenRun(str(index), prompt, (), 0, blocks)])
            choice = Choice(sampling, len(prompt) + 1, None)
            depth = self.plain.context_tokens
            context = prompt[max(0, len(prompt) - depth) :]
            runs.append(TokenRun(str(index), [5 + index], context, len(prompt), blocks, [choice]))
        return runs

    def check(self, runs: list[TokenRun], visits: Sequence[int]) -> None:
        """Visits of so many steps each, by both; and the next begins where the one before ended."""
        ours = theirs = runs
        for num_steps in visits:
            got = self.fused.run([], ours, num_steps)
            wanted = self.plain.run([], theirs, num_steps)
            assert got == wanted
            assert all(len(tokens) == num_steps for tokens in got)
            ours = theirs = [self._after(run, tokens) for run, tokens in zip(ours, got, strict=True)]

    def _after(self, run: TokenRun, tokens: Sequence) -> TokenRun:
        for token in tokens:
            run = next_run(run, token.token_id, self.plain.context_tokens)
        return run


def test_one_sequence_over_borders_of_blocks_and_segments(played):
    played.check(played.begin([[7, 8, 2, 9, 11]], [GREEDY]), [1, 4, 3, 1, 8])


def test_sequences_of_all_kinds_side_by_side(played):
    """An odd batch, each row at its own place of a block, drawn each in its way."""
    prompts = [[7], [7, 8, 2, 9, 11, 12], [300, 4, 9, 2]]
    played.check(played.begin(prompts, [GREEDY, FILTERED, DRAWN]), [4, 2, 5])


def test_the_first_visit_of_a_shape_is_one_too(played):
    """What is run to prepare a shape must not move its places."""
    played.step._shapes.clear()
    played.check(played.begin([[40, 41], [50]], [DRAWN, DRAWN]), [4])


def test_a_visit_that_leaves_its_context_bucket(played):
    from kodkod_engine.models.step_buffers import SMALLEST_BUCKET

    prompt = [(7 * place) % 300 + 3 for place in range(SMALLEST_BUCKET - 2)]
    played.check(played.begin([prompt], [GREEDY]), [4])


def test_visits_longer_than_the_device_takes_are_made_of_single_steps(played, monkeypatch):
    from kodkod_engine.models import gpu_step

    monkeypatch.setattr(gpu_step, "MOST_STEPS", 2)
    played.check(played.begin([[9, 9, 9]], [DRAWN]), [3])


def test_what_is_behind_the_sequences_stays_as_it_is(played):
    """A visit writes the slots of its tokens and no others."""
    runs = played.begin([[7, 8, 2, 9, 11], [3, 4]], [GREEDY, DRAWN])
    before = played.fused.cache._latents.clone()
    played.fused.run([], runs, 4)
    changed = (played.fused.cache._latents != before).any(dim=-1)
    slots = {
        run.block_ids[place // BLOCK_SIZE] * BLOCK_SIZE + place % BLOCK_SIZE
        for run in runs
        for place in range(run.start, run.start + 4)
    }
    assert {int(slot) for slot in changed.nonzero()[:, -1]} == slots


def test_a_prompt_is_gone_on_with_from_its_last_token(played):
    blocks = list(range(BLOCKS_EACH))
    for sampling in (GREEDY, DRAWN):
        run = TokenRun("0", [7, 8, 2, 9, 11], (), 0, blocks, [Choice(sampling, 5, None)])
        assert played.fused.run([], [run]) == played.plain.run([], [run])


@contextmanager
def damaged(pair: Pair, weights: torch.Tensor) -> Iterator[None]:
    """NaN in place of some weights, and nothing of it left behind."""
    sound = weights.clone()
    weights.fill_(float("nan"))
    try:
        yield
    finally:
        weights.copy_(sound)
        pair.fused.cache._latents.zero_()


interpreted = pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
"""The interpreter computes with numpy, which says so where NaN comes about."""


@interpreted
@pytest.mark.parametrize("sampling", [GREEDY, DRAWN, FILTERED], ids=["greedy", "drawn", "filtered"])
@pytest.mark.parametrize("num_steps", [1, 3])
def test_a_device_that_computes_no_numbers_chooses_nothing(played, sampling, num_steps):
    runs = played.begin([[7, 8, 2, 9, 11]], [sampling])
    with damaged(played, played.fused.loaded.model.norm.weight), pytest.raises(CheckpointCorrupt, match="no numbers"):
        played.fused.run([], runs, num_steps)


@interpreted
def test_numbers_that_end_within_a_visit_are_told(played):
    runs = played.begin([[7, 8, 2, 9, 11]], [DRAWN])
    ((first, second),) = played.fused.run([], runs, 2)
    assert second.token_id not in (5, first.token_id), "it is read by the third step alone"
    word = played.fused.loaded.model.words[second.token_id]
    with damaged(played, word):
        assert played.fused.run([], runs, 2) == [(first, second)], "nothing has read it yet"
        with pytest.raises(CheckpointCorrupt, match="no numbers"):
            played.fused.run([], runs, 3)


def test_a_visit_of_the_modules_is_as_many_steps(played):
    runs = played.begin([[7, 8, 2], [9]], [DRAWN, FILTERED])
    together = played.plain.run([], runs, 3)
    again = played.begin([[7, 8, 2], [9]], [DRAWN, FILTERED])
    for place in range(3):
        one = played.plain.run([], again)
        assert [tokens[place : place + 1] for tokens in together] == one
        again = [played._after(run, tokens) for run, tokens in zip(again, one, strict=True)]
