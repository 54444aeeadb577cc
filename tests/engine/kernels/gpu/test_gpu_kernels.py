"""Each Triton kernel against its reference: odd batch sizes, last rows, identity experts alone, long drafts."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kodkod_engine.layers.ngram_embedding import NgramEmbedding
from kodkod_engine.layers.ngram_hash import ABSENT, NgramHasher
from kodkod_engine.models.ngram_spec import polynomial_spec

pytest.importorskip("triton")

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def _embedding(dtype: torch.dtype) -> NgramEmbedding:
    spec = polynomial_spec(vocab_size=50, ratio=3, order_limit=4, splits=2, table_width=16, border_ids=frozenset({2}))
    embedding = NgramEmbedding(spec, 50, 40).to(DEVICE, dtype)
    embedding.dtype = dtype
    for index, parameter in enumerate(embedding.parameters()):
        parameter.copy_(_randn(*parameter.shape, seed=index))
    return embedding


@pytest.mark.parametrize(("tokens", "dtype"), [(1, torch.float32), (5, torch.float32), (3, torch.bfloat16)])
def test_ngram_input(tokens: int, dtype: torch.dtype) -> None:
    from kodkod_engine.kernels.gpu.ngram_input import NgramInput, reference

    embedding = _embedding(dtype)
    assert embedding.resident is not None
    windows = torch.randint(3, 50, (tokens, 4), generator=torch.Generator().manual_seed(tokens)).to(DEVICE)
    windows[0] = torch.tensor([7, 2, 9, ABSENT])  # behind a border
    out = torch.empty(tokens, 40, device=DEVICE, dtype=dtype)
    NgramInput(embedding, embedding.resident.weight)(windows, out)
    wanted = reference(embedding, windows[:, 0].contiguous(), windows)
    bound = 1e-5 if dtype == torch.float32 else 3e-2
    torch.testing.assert_close(out, wanted, rtol=bound, atol=bound)


def test_the_highest_row_of_the_last_table_is_read() -> None:
    from kodkod_engine.kernels.gpu.ngram_input import NgramInput, reference

    embedding = _embedding(torch.float32)
    assert embedding.resident is not None
    hasher, last = NgramHasher(embedding.spec, DEVICE), embedding.spec.moduli[-1] - 1
    candidates = torch.cartesian_prod(*[torch.arange(50)] * 2, torch.tensor([5]), torch.tensor([6])).to(DEVICE)
    window = candidates[hasher.row_ids(candidates)[:, -1] == last][:1]
    assert len(window)
    out = torch.empty(1, 40, device=DEVICE)
    NgramInput(embedding, embedding.resident.weight)(window, out)
    torch.testing.assert_close(out, reference(embedding, window[:, 0].contiguous(), window), rtol=1e-5, atol=1e-5)


def test_hashes_do_not_overflow_at_the_published_sizes() -> None:
    """One-hot rows: a wrong id would show as another value. Tables of the published moduli would not fit, so ids are
    compared through a table of one column whose rows hold their own number, modulus by modulus."""
    from kodkod_engine.kernels.gpu.ngram_input import NgramInput

    spec = polynomial_spec(
        vocab_size=131_072, ratio=1.5, order_limit=4, splits=1, table_width=1, border_ids=frozenset({2})
    )
    embedding = NgramEmbedding(spec, 131_072, 3).to(DEVICE)
    assert embedding.resident is not None
    embedding.word.zero_()
    embedding.resident.weight.copy_(torch.arange(spec.row_offsets[-1], dtype=torch.float32)[:, None])
    embedding.projection.weight.copy_(torch.eye(3))
    window = torch.tensor([[131_071, 131_071, 131_070, 131_069]], device=DEVICE)
    out = torch.empty(1, 3, device=DEVICE)
    NgramInput(embedding, embedding.resident.weight)(window, out)
    ids = NgramHasher(spec, DEVICE).row_ids(window) + torch.tensor(spec.row_offsets[:-1], device=DEVICE)
    torch.testing.assert_close(out / spec.combiner.ngram_scale, ids.float(), rtol=1e-6, atol=0)


@pytest.mark.parametrize(("tokens", "choices", "k"), [(1, 12, 3), (7, 24, 12), (2, 384, 12)])
def test_route(tokens: int, choices: int, k: int) -> None:
    from kodkod_engine.kernels.gpu.route import Routing, reference, route

    x, weight = _randn(tokens, 96, seed=1), _randn(choices, 96, seed=2) / 10
    bias = _randn(choices, seed=3) * 0.01
    norm = 1 + _randn(96, seed=4) / 10
    to = Routing(8, choices, k, 96, DEVICE, torch.float32)
    for _ in range(2):  # the counters must be as they were
        route(x, norm, 1e-5, weight, bias, 6.0, choices * 2 // 3, to)
        chosen, weights, identity, normed = reference(x, norm, 1e-5, weight, bias, k, 6.0, choices * 2 // 3)
        torch.testing.assert_close(to.normed[:tokens], normed)
        assert torch.equal(to.chosen[:tokens], chosen)
        torch.testing.assert_close(to.weights[:tokens], weights, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(to.identity[:tokens], identity, rtol=1e-4, atol=1e-6)


def test_the_bias_steers_and_does_not_weigh() -> None:
    from kodkod_engine.kernels.gpu.route import Routing, route

    to = Routing(1, 16, 1, 8, DEVICE, torch.float32)
    bias = torch.zeros(16, device=DEVICE)
    bias[11] = 5
    x, norm = torch.zeros(1, 8, device=DEVICE), torch.ones(8, device=DEVICE)
    route(x, norm, 1e-5, torch.zeros(16, 8, device=DEVICE), bias, 6.0, 16, to)
    assert to.chosen.tolist() == [[11]]
    assert to.weights.item() == pytest.approx(6 / 16)


def _experts(tokens: int, chosen: torch.Tensor, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    gate_up, down = _randn(6, 48, 40, seed=4, dtype=dtype) / 6, _randn(6, 40, 24, seed=5, dtype=dtype) / 5
    x, residual = _randn(tokens, 40, seed=6, dtype=dtype), _randn(tokens, 40, seed=7, dtype=dtype)
    weights = torch.rand(chosen.shape, generator=torch.Generator().manual_seed(8)).to(DEVICE)
    identity = (weights * (chosen >= 6)).sum(dim=1)
    return x, residual, gate_up, down, chosen.int(), weights.masked_fill(chosen >= 6, 0), identity


def _decoded(case: tuple[torch.Tensor, ...]) -> torch.Tensor:
    from kodkod_engine.kernels.gpu.expert_decode import expert_decode, scratch

    tokens, k = case[4].shape
    inner = scratch(tokens, k, 24, DEVICE, case[0].dtype).fill_(float("nan"))
    return expert_decode(*case, inner, torch.empty_like(case[1]))


@pytest.mark.parametrize(("tokens", "dtype"), [(1, torch.float32), (3, torch.float32), (5, torch.bfloat16)])
def test_expert_decode(tokens: int, dtype: torch.dtype) -> None:
    from kodkod_engine.kernels.gpu.expert_decode import reference

    order = [torch.randperm(9, generator=torch.Generator().manual_seed(seed))[:4] for seed in range(tokens)]
    case = _experts(tokens, torch.stack(order).to(DEVICE), dtype)
    bound = 1e-4 if dtype == torch.float32 else 3e-2
    torch.testing.assert_close(_decoded(case), reference(*case), rtol=bound, atol=bound)


def test_tokens_with_identity_experts_alone_read_no_expert() -> None:
    case = _experts(3, torch.full((3, 4), 6, device=DEVICE))
    case[2].fill_(float("nan"))
    case[3].fill_(float("nan"))
    x, residual, identity = case[0], case[1], case[6]
    torch.testing.assert_close(_decoded(case), residual + identity[:, None] * x)


@pytest.mark.parametrize(
    ("sequences", "new", "heads", "context", "splits", "block_size"),
    [(1, 1, 4, 1, 1, 1), (2, 3, 5, 70, 4, 1), (1, 9, 4, 48, 4, 16), (3, 1, 32, 64, 2, 16)],
)
def test_latent_decode(sequences: int, new: int, heads: int, context: int, splits: int, block_size: int) -> None:
    from kodkod_engine.kernels.gpu.latent_decode import latent_decode, reference
    from kodkod_engine.kernels.gpu.latent_plans import TILES, Plan

    query, latents, kv_b = _randn(sequences, new, heads, 48, seed=1), _randn(400, 48, seed=2), _randn(heads * 40, 32)
    blocks = torch.randperm(400 // block_size, generator=torch.Generator().manual_seed(3))
    blocks = blocks[: sequences * context // block_size].view(sequences, -1).to(DEVICE)
    positions = torch.arange(context - new, context).expand(sequences, -1).clone()
    positions[0] -= min(3, context - new)  # a shorter sequence: its last slots are padding
    arguments: Any = (query, latents, blocks, positions.to(DEVICE), kv_b, 24, 0.2, block_size)
    wanted = reference(*arguments)
    for tile in TILES if splits == 4 else TILES[:1]:
        got = latent_decode(*arguments, plan=Plan(tile, splits))
        torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("sequences", "new", "heads"), [(1, 1, 2), (2, 3, 2), (3, 3, 1)])
@pytest.mark.parametrize("splits", [1, 32, 256])
def test_splits_are_joined(sequences: int, new: int, heads: int, splits: int) -> None:
    """Few tokens and many, a split that saw nothing, and more splits than a program asks for together."""
    from kodkod_engine.kernels.gpu.latent_join import join_splits, reference

    partial, highest = (
        _randn(sequences, splits, new * heads, 16, seed=1),
        _randn(sequences, splits, new * heads, seed=2),
    )
    sums, kv_b = 1 + highest.abs(), _randn(heads * (8 + 24), 16, seed=3)
    if splits > 1:
        partial[:, -1], sums[:, -1], highest[:, -1] = 0, 0, -1e30
    positions = 7 * torch.arange(sequences * new, device=DEVICE).view(sequences, new)
    given = (partial, highest, sums, kv_b, positions, new, heads, 24)
    torch.testing.assert_close(join_splits(*given, 0), reference(*given, 0), rtol=1e-4, atol=1e-4)
    if splits > 32:
        partial[:, 5:], sums[:, 5:], highest[:, 5:] = (float("nan"),) * 3  # beyond the last position: nobody was there
        torch.testing.assert_close(join_splits(*given, 16), reference(*given, 16), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("sequences", "new", "heads"), [(1, 1, 4), (2, 3, 5)])
def test_latent_decode_in_whole_tiles(sequences: int, new: int, heads: int) -> None:
    from kodkod_engine.kernels.gpu.latent_decode import latent_decode, reference
    from kodkod_engine.kernels.gpu.latent_plans import WHOLE_TILES, Plan

    query, latents, kv_b = _randn(sequences, new, heads, 48, seed=1), _randn(512, 48, seed=2), _randn(heads * 40, 32)
    blocks = torch.randperm(32, generator=torch.Generator().manual_seed(3))[: sequences * 8].view(sequences, 8)
    positions = torch.arange(70, 70 + new).expand(sequences, -1).clone()
    positions[0] -= 20  # its second tile of 64 is beyond what it sees
    arguments: Any = (query, latents, blocks.to(DEVICE), positions.to(DEVICE), kv_b, 24, 0.2, 16)
    wanted = reference(*arguments)
    for tile in WHOLE_TILES:
        got = latent_decode(*arguments, plan=Plan(tile, 128 // tile.places))
        torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("context", "sequences", "rows", "splits"),
    [(256, 1, 32, 8), (8192, 1, 32, 128), (131_072, 1, 32, 128), (8192, 32, 32, 4), (8192, 5, 96, 8), (1, 1, 4, 1)],
)
def test_splits_fill_the_device_and_are_powers_of_two(context: int, sequences: int, rows: int, splits: int) -> None:
    from kodkod_engine.kernels.gpu.latent_plans import MAX_WHOLE_SPLITS, plans_for, splits_of

    assert splits_of(context, sequences, rows) == splits
    plans = plans_for(context, sequences, rows)
    assert plans[0].splits == splits
    assert all(plan.splits & (plan.splits - 1) == 0 and 1 <= plan.splits <= MAX_WHOLE_SPLITS for plan in plans)


@pytest.mark.parametrize("tokens", [1, 3, 19])
def test_latent_inputs(tokens: int) -> None:
    from kodkod_engine.kernels.gpu.latent_inputs import LatentShape, latent_inputs, reference

    shape = LatentShape(heads=3, nope=16, rope=16, rank=32, value=24, q_scale=1.4, kv_scale=2.4, eps=1e-6)
    query, down, norm = _randn(tokens, 96, seed=1), _randn(tokens, 56, seed=2)[:, 8:], _randn(32, seed=3)
    turns = torch.view_as_real(torch.polar(torch.ones(100, 8), _randn(100, 8, seed=4).cpu())).contiguous().to(DEVICE)
    generator = torch.Generator().manual_seed(5)
    positions = torch.randint(0, 100, (tokens,), generator=generator).to(DEVICE)
    slots = torch.randperm(40, generator=generator)[:tokens].to(DEVICE)
    caches = [torch.zeros(40, 48, device=DEVICE) for _ in range(2)]
    rest = (_randn(120, 32, seed=6), norm, turns, positions, slots)
    got, wanted = latent_inputs(query, down, *rest, caches[0], shape), reference(query, down, *rest, caches[1], shape)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(*caches, rtol=1e-4, atol=1e-5)


LINEARS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "behind a norm": ("norm",),
    "with residual": ("residual",),
    "with two residuals": ("residual", "also"),
    "gate and up behind a norm": ("norm", "is_pair"),
}


@pytest.mark.parametrize(
    ("tokens", "size", "outputs", "dtype"),
    [
        (1, 384, 6, torch.float32),
        (3, 100, 14, torch.float32),
        (2, 1536, 10, torch.bfloat16),
        (2, 1536, 10, torch.float16),
        (9, 96, 12, torch.float32),
    ],
)
@pytest.mark.parametrize("fused", LINEARS.values(), ids=list(LINEARS))
def test_thin_linear(tokens: int, size: int, outputs: int, dtype: torch.dtype, fused: tuple[str, ...]) -> None:
    """Rows lie apart. Each way that a device may find the quickest, whatever is taken here."""
    from kodkod_engine.kernels.gpu.around import Around
    from kodkod_engine.kernels.gpu.few_plain import few_plain
    from kodkod_engine.kernels.gpu.thin_linear import reference, thin_linear, ways_of

    x, weight = _randn(tokens, size + 8, seed=1, dtype=dtype)[:, :size], _randn(outputs, size, seed=2, dtype=dtype)
    every: dict[str, Any] = {
        "norm": _randn(size, seed=3, dtype=dtype),
        "residual": _randn(tokens, outputs, seed=4, dtype=dtype),
        "also": _randn(tokens, outputs, seed=5, dtype=dtype),
        "is_pair": True,
    }
    options = {"eps": 1e-5} | {name: every[name] for name in fused}
    bound = 1e-4 if dtype == torch.float32 else 3e-2
    weight = weight / size**0.5
    wanted = reference(x, weight, **options)
    # The interpreter multiplies tiles of no bf16.
    left_out = few_plain if DEVICE.type == "cpu" and dtype == torch.bfloat16 else None
    results = [way(x, weight, Around(**options)) for way in ways_of(x, weight) if way is not left_out]
    for got in (thin_linear(x, weight, **options), *results):
        torch.testing.assert_close(got, wanted, rtol=bound, atol=bound)


@pytest.mark.parametrize(("tokens", "dtype"), [(1, torch.float32), (7, torch.float32), (3, torch.bfloat16)])
def test_residual_norm(tokens: int, dtype: torch.dtype) -> None:
    from kodkod_engine.kernels.gpu.residual_norm import reference, residual_norm

    x, added = _randn(tokens, 100, seed=1, dtype=dtype), _randn(tokens, 100, seed=2, dtype=dtype)
    weight = _randn(100, seed=3, dtype=dtype)
    for got, wanted in zip(residual_norm(x, added, weight, 1e-5), reference(x, added, weight, 1e-5), strict=True):
        bound = 1e-5 if dtype == torch.float32 else 2e-2
        torch.testing.assert_close(got, wanted, rtol=bound, atol=bound)


def test_norm_alone() -> None:
    from kodkod_engine.kernels.gpu.residual_norm import normed, reference

    x, weight = _randn(3, 100, seed=1), _randn(96, seed=3)
    part = x[:, :96]
    wanted = reference(part, torch.zeros_like(part), weight, 1e-5)[1]
    torch.testing.assert_close(normed(part, weight, 1e-5), wanted)
