"""Kernels of long steps against their references, and the modules' roads on a device against their plain ones."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from engine.playing import play, relative_error
from kodkod_engine.kv.cache import KvCache
from kodkod_engine.kv.layout import KvLayout
from kodkod_engine.layers import grouped_experts as grouped_experts_module
from kodkod_engine.layers.attention import LatentAttention
from kodkod_engine.layers.expanded_context import ExpandedContext
from kodkod_engine.layers.grouped_experts import grouped_experts
from kodkod_engine.layers.moe import MixtureOfExperts
from kodkod_engine.layers.on_device import unpacked_pieces
from kodkod_engine.layers.packed import PackedMatrix, PackedParameter, Precision, Precisions
from kodkod_engine.layers.split_product import split_product
from kodkod_engine.layers.step_batch import AttentionGroup
from kodkod_engine.models.loading import LoadedModel, TableHome, load_model
from kodkod_engine.models.random_checkpoint import TINY, write_random_checkpoint

pytest.importorskip("triton")

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

PACKED = [precision for precision in Precision if precision is not Precision.BF16]
NARROW = torch.bfloat16 if DEVICE.type == "cuda" else torch.float16
"""The interpreter multiplies no bf16."""


def _randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


@pytest.mark.parametrize(("rows", "width"), [(1, 16), (7, 40), (3, 1500)])
def test_swiglu_rows(rows: int, width: int) -> None:
    from kodkod_engine.kernels.gpu.swiglu_rows import reference, swiglu_rows

    wide = _randn(rows, 2 * width, dtype=torch.bfloat16)
    torch.testing.assert_close(swiglu_rows(wide), reference(wide), rtol=1e-2, atol=1e-3)


def test_expert_sum_reads_no_row_of_an_identity_expert() -> None:
    from kodkod_engine.kernels.gpu.expert_sum import expert_sum, reference

    x, rows = _randn(4, 40), _randn(12, 40, seed=1)
    chosen = torch.tensor([[0, 5, 1], [6, 7, 5], [2, 3, 0], [4, 1, 7]], device=DEVICE)
    places = torch.randperm(12, generator=torch.Generator().manual_seed(2)).view(4, 3).to(DEVICE)
    rows[places[chosen >= 5]] = float("nan")
    weights = torch.rand(4, 3, generator=torch.Generator().manual_seed(3)).to(DEVICE)
    wanted = reference(x, rows, places, chosen, weights, 5)
    assert wanted.isfinite().all()
    torch.testing.assert_close(expert_sum(x, rows, places, chosen, weights, 5), wanted, rtol=1e-5, atol=1e-5)


def test_table_rows() -> None:
    from kodkod_engine.kernels.gpu.table_rows import reference, table_rows

    table = torch.randn(300, 24)
    table = table.pin_memory() if DEVICE.type == "cuda" else table
    rows = torch.tensor([[0, 299, 7], [150, 1, 299]], device=DEVICE)
    assert torch.equal(table_rows(table, rows), reference(table, rows))


@pytest.mark.parametrize(("new", "context"), [(1, 1), (5, 5), (33, 200), (130, 130), (140, 333)])
@pytest.mark.parametrize("dtype", [torch.float32, NARROW])
def test_prefill_attention(new: int, context: int, dtype: torch.dtype) -> None:
    from kodkod_engine.kernels.gpu.prefill_attention import prefill_attention, reference

    query, per_head = _randn(new, 2, 48, dtype=dtype), _randn(context, 2, 48, seed=1, dtype=dtype)
    rope_keys = _randn(context, 80, seed=2, dtype=dtype)[:, 64:]
    got = prefill_attention(query, per_head, rope_keys, 0.2)
    bound = 1e-4 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(got, reference(query, per_head, rope_keys, 0.2), rtol=bound, atol=bound)


@pytest.mark.parametrize("number", range(6))
def test_every_tiling_says_the_same(number: int) -> None:
    from kodkod_engine.kernels.gpu.prefill_attention import TILINGS, prefill_attention, reference

    assert len(TILINGS) == 6
    query, per_head = _randn(70, 1, 48, dtype=NARROW), _randn(150, 1, 48, seed=1, dtype=NARROW)
    rope_keys = _randn(150, 80, seed=2, dtype=NARROW)[:, 64:]
    got = prefill_attention(query, per_head, rope_keys, 0.2, TILINGS[number])
    torch.testing.assert_close(got, reference(query, per_head, rope_keys, 0.2), rtol=2e-2, atol=2e-2)


def _attention(tiny, dtype: torch.dtype) -> LatentAttention:
    config = replace(
        tiny.config,
        num_heads=2,
        qk_nope_head_dim=16,
        qk_rope_head_dim=16,
        v_head_dim=16,
        kv_lora_rank=32,
        rope=replace(tiny.config.rope, dim=16),
    )
    attention = LatentAttention(config, 0)
    for index, parameter in enumerate(attention.parameters()):
        parameter.copy_(_randn(*parameter.shape, seed=index) * parameter.shape[-1] ** -0.5)
    return attention.to(DEVICE, dtype)


@pytest.mark.parametrize(("new", "context"), [(1, 40), (20, 300), (70, 70), (80, 200)])
@pytest.mark.parametrize("neighbours", [True, False])
@torch.inference_mode()
def test_attention_on_a_device_is_the_plain_one(tiny, new: int, context: int, neighbours: bool) -> None:
    """Few new tokens and many, slots side by side and scattered; one fits no bucket, one lies on the limit."""
    attention = _attention(tiny, NARROW)
    cache = KvCache(KvLayout(1, 48, 2, 64), NARROW, DEVICE)
    cache.layer(0).copy_(_randn(1024, 48, seed=3))
    order = torch.randperm(1024, generator=torch.Generator().manual_seed(4))[:context].to(DEVICE)
    positions = torch.arange(context - new, context, device=DEVICE)[None]
    slots = slice(100, 100 + context) if neighbours else order[None]
    group = AttentionGroup(slice(0, new), 1, new, slots, context, positions)
    query = _randn(new, 2, 32, seed=5, dtype=NARROW)
    latents = cache.read(0, slots).reshape(1, context, -1)
    wanted = attention.float().absorbed(query.float()[None], latents.float(), positions)[0].flatten(1)
    assert relative_error(attention.to(NARROW).on_device(query, group, cache), wanted) < 2e-2


@pytest.mark.parametrize("neighbours", [True, False])
@pytest.mark.parametrize("room", [10_000, 150, 0])
@torch.inference_mode()
def test_attention_on_a_device_over_keys_that_are_kept(tiny, room: int, neighbours: bool) -> None:
    """Turn by turn of one conversation, in room for all of it, for its beginning, for nothing."""
    attention = _attention(tiny, NARROW)
    cache = KvCache(KvLayout(1, 48, 2, 64), NARROW, DEVICE)
    cache.layer(0).copy_(_randn(1024, 48, seed=3))
    token_bytes = attention.expanded_bytes(torch.device("cuda"), NARROW)
    kept = ExpandedContext(1, token_bytes, lambda: 1e9, room * token_bytes)
    order = torch.randperm(1024, generator=torch.Generator().manual_seed(4)).to(DEVICE)
    for start, context in ((0, 100), (100, 180), (120, 210)):
        positions = torch.arange(start, context, device=DEVICE)[None]
        slots = slice(100, 100 + context) if neighbours else order[None, :context]
        group = AttentionGroup(slice(0, context - start), 1, context - start, slots, context, positions)
        query = _randn(context - start, 2, 32, seed=context, dtype=NARROW)
        wanted = attention.on_device(query, group, cache)
        kept.follow(list(range(min(context, 120))) + list(range(context, context + context - min(context, 120))))
        got = attention.on_device(query, replace(group, expanded=kept), cache)
        assert relative_error(got, wanted) < 5e-3
        assert kept.num_tokens == min(room, context)
        assert kept.num_bytes <= room * token_bytes


@torch.inference_mode()
def test_sequences_of_one_group_attend_each_to_its_own(tiny) -> None:
    attention = _attention(tiny, NARROW)
    cache = KvCache(KvLayout(1, 48, 2, 64), NARROW, DEVICE)
    cache.layer(0).copy_(_randn(1024, 48, seed=3))
    slots = torch.randint(0, 1024, (3, 290), generator=torch.Generator().manual_seed(4)).to(DEVICE)
    positions = torch.tensor([[288, 289], [3, 4], [100, 101]], device=DEVICE)
    group = AttentionGroup(slice(0, 6), 3, 2, slots, 290, positions)
    query = _randn(6, 2, 32, seed=5, dtype=NARROW)
    own = query.float().unflatten(0, (3, 2))
    wanted = attention.float().absorbed(own, cache.read(0, slots).float(), positions).flatten(2).flatten(0, 1)
    assert relative_error(attention.to(NARROW).on_device(query, group, cache), wanted) < 2e-2


def _experts(tiny, real: int, identity: int, k: int, hidden: int = 48, width: int = 16) -> MixtureOfExperts:
    config = replace(
        tiny.config,
        hidden_size=hidden,
        expert_ffn_hidden_size=width,
        num_experts=real,
        num_identity_experts=identity,
        experts_per_token=k,
    )
    experts = MixtureOfExperts(config)
    for index, (name, parameter) in enumerate(experts.named_parameters()):
        scale = 0.05 if "bias" in name else parameter.shape[-1] ** -0.5
        parameter.data = (_randn(*parameter.shape, seed=index) * scale).to(parameter.dtype)
    experts.gate_up.data, experts.down.data = experts.gate_up.data.bfloat16(), experts.down.data.bfloat16()
    return experts.to(DEVICE)


@pytest.mark.parametrize(
    ("real", "identity", "k", "tokens"), [(6, 3, 4, 40), (3, 3, 6, 5), (16, 0, 2, 3), (1, 1, 1, 9)]
)
@torch.inference_mode()
def test_grouped_experts_are_the_plain_ones(tiny, real: int, identity: int, k: int, tokens: int) -> None:
    """Experts that nobody chose, tokens with identity experts alone, all experts chosen at once."""
    experts = _experts(tiny, real, identity, k)
    x = _randn(tokens, 48, seed=9, dtype=torch.bfloat16)
    chosen, weights = experts.router(x)
    got = grouped_experts(x, experts.gate_up, experts.down, chosen, weights)
    wide = experts.float()._by_expert(x.float(), chosen, weights)
    assert relative_error(got, wide) < 1e-2


@pytest.mark.parametrize(
    ("counts", "behind", "outputs", "length"),
    [
        ([3, 0, 40, 1, 0], 5, 24, 48),
        ([0, 0, 0], 4, 130, 16),
        ([7], 0, 150, 200),
        ([1] * 9, 0, 16, 64),
        ([0, 150], 2, 40, 80),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, NARROW])
def test_grouped_rows(counts: list[int], behind: int, outputs: int, length: int, dtype: torch.dtype) -> None:
    """Groups of none, of one row and of several tiles; rows behind all groups; sizes that no tile divides."""
    from kodkod_engine.kernels.gpu.grouped_rows import grouped_rows, reference

    x = _randn(sum(counts) + behind, length, dtype=dtype)
    weight = _randn(len(counts), outputs, length, seed=1, dtype=dtype) * length**-0.5
    ends = torch.tensor(counts, device=DEVICE).cumsum(0).to(torch.int32)
    got, wanted = grouped_rows(x, weight, ends)[: sum(counts)], reference(x, weight, ends)[: sum(counts)]
    bound = 1e-5 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(got, wanted, rtol=bound, atol=bound)


@torch.inference_mode()
def test_experts_where_torch_has_no_grouped_product_are_the_plain_ones(tiny, monkeypatch) -> None:
    monkeypatch.setattr(grouped_experts_module, "_multiplies_groups", lambda _device: False)
    experts = _experts(tiny, 6, 3, 4)
    x = _randn(40, 48, seed=9, dtype=NARROW)
    chosen, weights = experts.router(x.float())
    homes = experts.gate_up.to(NARROW), experts.down.to(NARROW)
    got = grouped_experts(x, *homes, chosen, weights)
    assert relative_error(got, experts.float()._by_expert(x.float(), chosen, weights)) < 1e-2


def test_the_router_of_a_long_step_is_as_exact_as_fp32() -> None:
    x, weight = _randn(200, 512, dtype=torch.bfloat16), _randn(24, 512, seed=1) / 22
    wanted = (x.double() @ weight.double().t()).float()
    torch.testing.assert_close(split_product(x, weight), wanted, rtol=1e-5, atol=1e-5)


def _packed(shape: tuple[int, ...], precision: Precision, part_rows: int = 0) -> PackedMatrix:
    matrix = PackedParameter(shape, precision, part_rows).to(DEVICE).matrix
    matrix.copy_(_randn(*shape, seed=3) * shape[-1] ** -0.5)
    return matrix


@pytest.mark.parametrize("precision", PACKED)
@pytest.mark.parametrize(("shape", "part_rows"), [((150, 256), 128), ((140, 48), 24), ((2, 132, 128), 66)])
@torch.inference_mode()
def test_unpack_rows(precision: Precision, shape: tuple[int, ...], part_rows: int) -> None:
    """Pieces that end within a block of rows, groups smaller than usual, stacks."""
    from kodkod_engine.kernels.gpu.unpack_rows import reference, unpack_rows

    matrix = _packed(shape, precision, part_rows)
    for first, count in ((0, shape[-2]), (128, 3)):
        got, wanted = unpack_rows(matrix, first, count), reference(matrix, first, count, torch.bfloat16)
        torch.testing.assert_close(got, wanted, rtol=1e-2, atol=1e-6)
    pieces = list(unpacked_pieces(matrix, torch.float32, num_bytes=1))
    torch.testing.assert_close(torch.cat(pieces, dim=-2), matrix.unpacked())
    assert len(pieces) == -(-shape[-2] // 128)


@pytest.mark.parametrize("precision", PACKED)
@pytest.mark.parametrize(
    ("counts", "behind", "outputs", "length"),
    [([3, 0, 40, 1, 0], 5, 24, 64), ([0, 0, 0], 4, 130, 32), ([7], 0, 150, 256), ([0, 150], 2, 140, 96)],
)
@torch.inference_mode()
def test_grouped_packed(precision: Precision, counts: list[int], behind: int, outputs: int, length: int) -> None:
    """As `test_grouped_rows`; groups of 32 to 128 neighbours, blocks of rows that are cut off."""
    from kodkod_engine.kernels.gpu.grouped_packed import grouped_packed, reference, takes_grouped_packed

    home = _packed((len(counts), outputs, length), precision, outputs // 2)
    x = _randn(sum(counts) + behind, length, dtype=NARROW)
    ends = torch.tensor(counts, device=DEVICE).cumsum(0).to(torch.int32)
    got, wanted = grouped_packed(x, home, ends)[: sum(counts)], reference(x, home, ends)[: sum(counts)]
    torch.testing.assert_close(got, wanted, rtol=1e-2, atol=1e-2)
    assert takes_grouped_packed(x[:1], home)
    assert not takes_grouped_packed(x.new_empty(49 * len(counts), length), home)


@pytest.mark.parametrize("precision", PACKED)
@pytest.mark.parametrize(("tokens", "outputs", "length"), [(1, 150, 64), (70, 40, 256), (128, 130, 96)])
@torch.inference_mode()
def test_packed_rows(precision: Precision, tokens: int, outputs: int, length: int) -> None:
    """Rows of a wider tensor, of which it takes a part; a last block of rows that is cut off."""
    from kodkod_engine.kernels.gpu.grouped_packed import packed_rows, takes_packed_rows

    home = _packed((outputs, length), precision, outputs)
    x = _randn(tokens, 3 * length, dtype=NARROW)[:, length : 2 * length]
    wanted = x.float() @ home.unpacked().T
    torch.testing.assert_close(packed_rows(x, home).float(), wanted, rtol=1e-2, atol=1e-2)
    assert takes_packed_rows(x, home)
    assert not takes_packed_rows(x.new_empty(129, length), home)
    assert not takes_packed_rows(x.float(), home)
    assert not takes_packed_rows(x.new_empty(length, tokens).T, home) or tokens == 1


@pytest.mark.parametrize("precision", PACKED)
@pytest.mark.parametrize("most_rows", [0, 1000])
@torch.inference_mode()
def test_grouped_packed_experts_are_the_plain_ones(tiny, monkeypatch, precision: Precision, most_rows: int) -> None:
    """Unpacked before, and read as they lie."""
    monkeypatch.setattr("kodkod_engine.kernels.gpu.grouped_packed.MOST_ROWS_OF_GROUP", most_rows)
    experts = _experts(tiny, 5, 3, 4, 64, 32)
    homes = _packed((5, 64, 64), precision, 32), _packed((5, 64, 32), precision, 64)
    x = _randn(30, 64, seed=9, dtype=NARROW)
    chosen, weights = experts.router(x.float())
    got = grouped_experts(x, *homes, chosen, weights)
    experts.float()
    experts.gate_up.copy_(homes[0].unpacked())
    experts.down.copy_(homes[1].unpacked())
    assert relative_error(got, experts._by_expert(x.float(), chosen, weights)) < 1e-2


@torch.inference_mode()
def test_a_long_step_of_identity_experts_alone(tiny) -> None:
    experts = _experts(tiny, 4, 3, 2)
    x = _randn(6, 48, seed=9, dtype=torch.bfloat16)
    chosen, weights = torch.full((6, 2), 5, device=DEVICE), torch.full((6, 2), 1.5, device=DEVICE)
    got = grouped_experts(x, experts.gate_up, experts.down, chosen, weights)
    torch.testing.assert_close(got, 3 * x, rtol=1e-2, atol=1e-3)


CONFIG = {**TINY, "hidden_size": 48, "num_attention_heads": 2, "qk_nope_head_dim": 16, "qk_rope_head_dim": 16}


@pytest.mark.skipif(DEVICE.type != "cuda", reason="needs a CUDA device")
@pytest.mark.parametrize("tables", [TableHome.RESIDENT, TableHome.PINNED, TableHome.MAPPED])
@pytest.mark.parametrize(("choices", "worst", "usual"), [(12, 0.04, 0.01), (3, 0.5, 0.015)])
def test_a_model_on_a_device_says_what_it_says_on_the_processor(
    tmp_path, tables: TableHome, choices: int, worst: float, usual: float
) -> None:
    """A long prompt, a step of some tokens behind it, then single ones: modules, kernels and graphs in turn.

    Where every expert is chosen nothing but rounding is left: a processor that rounds activations to bf16 as well is
    off by 0.013 at worst. Where three are, near ties fall the other way at some tokens, there as here, and the usual
    token tells.
    """
    config = {**CONFIG, "moe_topk": choices}
    folder = write_random_checkpoint(tmp_path, config, seed=2, dtype=torch.bfloat16, with_mtp=False)
    wanted, got = _said(load_model(folder)), _said(load_model(folder, device="cuda", ngram_tables=tables))
    errors = (got - wanted).abs().amax(dim=1) / (wanted.max() - wanted.min())
    assert errors.median() < usual
    assert errors.max() < worst


@pytest.mark.skipif(DEVICE.type != "cuda", reason="needs a CUDA device")
def test_experts_beside_attention_say_what_they_say_in_their_turn(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_random_checkpoint(tmp_path, CONFIG, seed=2, dtype=torch.bfloat16, with_mtp=False)
    loaded = load_model(folder, device="cuda")
    several = [_said(loaded) for _ in range(5)]
    monkeypatch.setattr("kodkod_engine.layers.beside.MAX_TOKENS", 0)
    in_turn = _said(loaded)
    assert all(torch.equal(beside, in_turn) for beside in several)


@pytest.mark.skipif(DEVICE.type != "cuda", reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["fp8", "int8", "int4"])
def test_experts_in_pinned_memory_say_what_they_say_on_the_device(tmp_path, name: str) -> None:
    """All chosen, as above; each home may be read the way that is quicker there, and rounds as that does."""
    config = {**CONFIG, "moe_topk": 12}
    folder = write_random_checkpoint(tmp_path, config, seed=2, dtype=torch.bfloat16, with_mtp=False)
    packed = Precisions.of(name)
    wanted = _said(load_model(folder, device="cuda", precisions=packed))
    loaded = load_model(folder, device="cuda", precisions=packed, pinned_expert_layers=1)
    assert [layer.experts.homes[0].codes.is_cuda for layer in loaded.model.dual_layers] == [True, False]
    errors = (_said(loaded) - wanted).abs().amax(dim=1) / (wanted.max() - wanted.min())
    assert errors.median() < 0.01
    assert errors.max() < 0.04


def _said(loaded: LoadedModel) -> torch.Tensor:
    ids = torch.randint(3, 300, (400,), generator=torch.Generator().manual_seed(1)).tolist()
    played = play(loaded)[0]
    steps = (ids[:200], ids[200:390], ids[390:398], ids[398:399], ids[399:])
    return torch.cat([played.feed(step).cpu() for step in steps])
