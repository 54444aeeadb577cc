"""Latent attention in tiles against its reference: any length, sequences side by side, any number of threads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine.playing import relative_error
from kodkod_engine.core.runner import ModelRunner
from kodkod_engine.core.step import TokenRun
from kodkod_engine.kernels import tiled_latents as module
from kodkod_engine.kernels.tile_products import has_tile_products
from kodkod_engine.kernels.tiled_latents import FIRST_LONG, FIRST_MIDDLE, LONG_CHUNK, reference, tiled_latents
from kodkod_engine.models import longcat_flash
from kodkod_engine.models.loading import LoadedModel, load_model
from kodkod_engine.models.random_checkpoint import TINY, write_random_checkpoint

HEADS, NOPE, ROPE, VALUE, RANK = 32, 16, 32, 12, 64
SCALE = 0.1
SLOTS = FIRST_LONG + 3 * LONG_CHUNK


@pytest.fixture(scope="module", params=["bf16", "fp32"])
def bound(request: pytest.FixtureRequest) -> Iterator[float]:
    """What is multiplied; and how far results may lie apart: bf16 rounds queries, latents and weights of places."""
    is_bf16 = request.param == "bf16"
    if is_bf16 and not has_tile_products():
        pytest.skip("needs AVX-512 BF16 without AMX")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "has_tile_products", lambda: is_bf16)
        yield 5e-3 if is_bf16 else 1e-5


def _randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


LATENTS, KV_WEIGHT = _randn(SLOTS, RANK + ROPE, seed=1), (_randn(HEADS, NOPE + VALUE, RANK, seed=2) / 8).bfloat16()
ORDERS = [torch.randperm(SLOTS, generator=torch.Generator().manual_seed(seed)) for seed in (3, 4)]
"""Where two sequences lie."""


def _attended(query: Tensor, slots: Tensor, positions: list[int], latents: Tensor = LATENTS) -> Tensor:
    return tiled_latents(query, latents, slots, torch.tensor(positions), KV_WEIGHT, SCALE, VALUE)


def _slots(owners: list[int], length: int) -> Tensor:
    return torch.stack([ORDERS[owner][:length] for owner in owners])


@settings(max_examples=25, deadline=None)
@given(
    positions=st.lists(st.integers(0, 700), min_size=1, max_size=5),
    owners=st.lists(st.integers(0, 1), min_size=5, max_size=5),
    threads=st.integers(1, 3),
)
@example(positions=[0], owners=[0] * 5, threads=2)
@example(positions=[FIRST_LONG - 1, FIRST_LONG], owners=[0] * 5, threads=2)
@example(positions=[FIRST_MIDDLE - 1, FIRST_MIDDLE], owners=[0] * 5, threads=2)
@example(positions=[SLOTS - 1, 127, 128], owners=[0, 0, 1, 1, 1], threads=3)
def test_equals_the_reference(bound: float, positions: list[int], owners: list[int], threads: int) -> None:
    """Tokens of one sequence next to one another and apart, which see little or much of it."""
    query, slots = (
        _randn(len(positions), HEADS, NOPE + ROPE, seed=5),
        _slots(owners[: len(positions)], max(positions) + 1),
    )
    wanted = reference(query, LATENTS, slots, torch.tensor(positions), KV_WEIGHT, SCALE, VALUE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "get_num_threads", lambda: threads)
        got = _attended(query, slots, positions)
    for token in range(len(positions)):
        assert relative_error(got[token], wanted[token]) < bound


@pytest.mark.usefixtures("bound")
@pytest.mark.parametrize("length", [300, FIRST_LONG + LONG_CHUNK + 7])
def test_a_token_has_the_same_result_in_any_company_on_any_number_of_threads(
    length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    query, positions = _randn(6, HEADS, NOPE + ROPE, seed=6), [length - 6, length - 5, length - 4, 2, 150, length - 1]
    owners = [0, 0, 0, 1, 1, 0]
    together = _attended(query, _slots(owners, length), positions)
    monkeypatch.setattr(module, "get_num_threads", lambda: 1)
    for token, (owner, position) in enumerate(zip(owners, positions, strict=True)):
        alone = _attended(query[token : token + 1], _slots([owner], position + 1), [position])
        assert torch.equal(together[token], alone[0])


@pytest.mark.usefixtures("bound")
def test_places_after_the_last_position_are_never_read() -> None:
    latents = LATENTS.clone()
    latents[ORDERS[0][200:]] = float("nan")
    assert _attended(_randn(2, HEADS, NOPE + ROPE, seed=7), _slots([0, 0], 300), [199, 150], latents).isfinite().all()


@pytest.mark.usefixtures("bound")
@pytest.mark.parametrize("strange", [float("nan"), float("inf")])
def test_what_is_no_number_stays_with_its_head(strange: float) -> None:
    query = _randn(2, HEADS, NOPE + ROPE, seed=8)
    clean = _attended(query, _slots([0, 0], 300), [299, 298])
    query[0, 5, 3] = strange
    got = _attended(query, _slots([0, 0], 300), [299, 298])
    assert got[0, 5].isnan().all()
    got[0, 5] = clean[0, 5]
    assert torch.equal(got, clean)


def test_a_place_far_below_the_best_weighs_nothing_wherever_the_best_comes(bound: float) -> None:
    """Scores grow from chunk to chunk, and fall."""
    query = torch.zeros(1, HEADS, NOPE + ROPE)
    query[..., NOPE] = 100.0
    for order in (1, -1):
        latents = LATENTS.clone()
        latents[ORDERS[0][:600], RANK] = torch.arange(600) // 100 * float(order)
        got = _attended(query, _slots([0], 600), [599], latents)
        wanted = reference(query, latents, _slots([0], 600), torch.tensor([599]), KV_WEIGHT, SCALE, VALUE)
        assert relative_error(got, wanted) < bound


@pytest.mark.parametrize("parts", [1, 2, 3, 8, 16, 64])
@pytest.mark.parametrize("length", [1, 256, 3000, FIRST_MIDDLE + 1, 8192, FIRST_LONG + 5000, 100_000])
def test_every_chunk_is_one_threads_and_the_work_is_shared_out_evenly(parts: int, length: int) -> None:
    chunks = module._num_chunks(length)
    starts = [module._chunk_start(chunk) for chunk in range(chunks + 1)]
    assert starts[0] == 0
    assert starts[-2] < length <= starts[-1]
    turns = range(-(-chunks // parts))
    taken = [[module._chunk_of(part, parts, turn, chunks) for turn in turns] for part in range(parts)]
    assert sorted(chunk for own in taken for chunk in own if chunk >= 0) == list(range(chunks))
    work = [sum(min(length, starts[chunk + 1]) - starts[chunk] for chunk in own if chunk >= 0) for own in taken]
    assert max(work) <= length / parts + (starts[-1] - starts[-2])


# --- in the model ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    sizes: dict[str, Any] = {
        "num_attention_heads": HEADS,
        "kv_lora_rank": RANK,
        "qk_nope_head_dim": NOPE,
        "qk_rope_head_dim": ROPE,
        "v_head_dim": VALUE,
        # All experts are taken, so that no rounding chooses others.
        "moe_topk": TINY["n_routed_experts"] + TINY["zero_expert_num"],
    }
    return load_model(write_random_checkpoint(tmp_path_factory.mktemp("wide"), {**TINY, **sizes}, dtype=torch.bfloat16))


def _run(name: str, ids: list[int], start: int, first_block: int) -> TokenRun:
    blocks = tuple(range(first_block, first_block + 64))
    return TokenRun(name, ids[start:], ids[max(0, start - 3) : start], start, blocks)


@pytest.mark.parametrize("new", [1, 4, 14])
def test_steps_behind_a_long_context_read_as_the_modules_read_them(
    loaded: LoadedModel, new: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sequence, and one with a short one beside it."""
    ids = torch.randint(3, 300, (700 + new,), generator=torch.Generator().manual_seed(9)).tolist()
    found = []
    for is_plain in (False, True):
        if is_plain:
            monkeypatch.setattr(longcat_flash, "step_arrays", lambda *_args: None)
        runner = ModelRunner(loaded, 128, 16)
        runner.logits([_run("long", ids[:700], 0, 0), _run("short", ids[:40], 0, 64)])
        long, short = _run("long", ids, 700, 0), _run("short", ids[: 40 + 1], 40, 64)
        found.append([*runner.logits([long]), *runner.logits([replace(long, start=700), short])])
    tiled, plain = found
    for mine, theirs in zip(tiled, plain, strict=True):
        assert relative_error(mine, theirs) < 2e-2
    assert not torch.equal(tiled[0], plain[0])  # or none of it went through tiles
