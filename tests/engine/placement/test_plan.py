"""The plan on made-up machines: what is chosen, what is refused, and that its arithmetic is the published model's."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kodkod_engine.config import EngineConfig
from kodkod_engine.errors import EngineError, NotEnoughMemory
from kodkod_engine.layers.packed import Precisions
from kodkod_engine.models.config import load_config
from kodkod_engine.models.loading import build_model, open_stored
from kodkod_engine.models.packing import pack_model
from kodkod_engine.models.random_checkpoint import TINY, write_random_checkpoint
from kodkod_engine.placement import admission
from kodkod_engine.placement.choosing import choose, fits, missing_bytes, require_memory
from kodkod_engine.placement.machine import CAUTIOUS_LINK_RATE, GIB, Gpu, Machine, link_rate
from kodkod_engine.placement.plan import PRECISIONS, Placement, placements
from kodkod_engine.placement.sizes import PartSizes, part_sizes

IN_MEMORY = EngineConfig(device="cpu", weights="resident", ngram_tables="resident", pinned_expert_layers=0)


@pytest.fixture
def sizes(lite_folder) -> PartSizes:
    return part_sizes(load_config(lite_folder))


def _machine(host_gib: float, gpu_gb: float | None = None, rate: float = 40e9) -> Machine:
    gpu = None if gpu_gb is None else Gpu("a card", gpu_gb * 1e9, 4.3e12, (9, 0))
    return Machine(host_gib * GIB, rate, 100e9, gpu)


def test_counts_are_the_published_ones(sizes: PartSizes) -> None:
    assert sizes.tables == 31_406_985_216
    backbone = sizes.attention + sizes.latent_maps + sizes.dense + sizes.experts + sizes.router
    whole = backbone + sizes.tables + sizes.projection + sizes.head + sizes.words
    norms = 14 * 2 * (2 * 3072 + 1536 + 512) + 3072
    assert whole + norms == 68_562_465_024
    assert sizes.active_experts == 8


@pytest.mark.parametrize("precision", PRECISIONS)
def test_bytes_are_what_a_packed_model_takes(lite_folder, sizes: PartSizes, precision: str) -> None:
    config = load_config(lite_folder)
    model, _ = build_model(config, with_mtp=False, dtype=torch.bfloat16, activation_dtype=torch.float32, device="meta")
    pack_model(model, None, Precisions.of(precision))
    model.embedding.resident = None
    norms = 14 * 2 * (2 * 3072 + 1536 + 512) + 3072
    # 2112 rows of the first map of a block are sixteen and a half blocks of FP8, with the scales of seventeen.
    half_blocks = 28 * 24 * 0.5 * 4 if precision == "fp8" else 0
    assert sum(p.nbytes for p in model.parameters()) == sizes.kept_bytes(precision) + 4 * norms + half_blocks
    head = model.lm_head.home
    assert head.nbytes > 131_072 * 3072


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_draft_block_is_counted(lite_folder, precision: str) -> None:
    config = load_config(lite_folder)
    model, draft = build_model(
        config, with_mtp=True, dtype=torch.bfloat16, activation_dtype=torch.float32, device="meta"
    )
    pack_model(model, draft, Precisions.of(precision))
    without, with_draft = part_sizes(config), part_sizes(config, with_draft=True)
    norms = 4 * (5 * 3072 + 1536 + 512)
    half_blocks = 24 * 0.5 * 4 if precision == "fp8" else 0
    taken = with_draft.kept_bytes(precision) - without.kept_bytes(precision)
    assert sum(p.nbytes for p in draft.parameters()) == taken + norms + half_blocks
    assert with_draft.latent_values - without.latent_values == 576


def test_the_limit_of_a_large_card(sizes: PartSizes) -> None:
    """8.01 GB per token in bf16 without context."""
    assert sizes.read_bytes("bf16", 0, 2) == pytest.approx(8.01e9, rel=0.01)
    assert sizes.read_bytes("int4", 0, 2) == pytest.approx(2.5e9, rel=0.05)


@pytest.mark.parametrize(
    ("machine", "wanted"),
    [
        (_machine(24), ("cpu", "int4", "resident", "mapped")),
        (_machine(20), ("cpu", "int4", "mapped", "mapped")),
        (_machine(64), ("cpu", "int4", "resident", "mapped")),
        (_machine(128), ("cpu", "int4", "resident", "resident")),
        (_machine(256, rate=400e9), ("cpu", "bf16", "resident", "resident")),
        (_machine(128, 139), ("gpu", "bf16", "resident", "pinned")),
        (_machine(32, 139), ("gpu", "bf16", "resident", "mapped")),
        (_machine(128, 192), ("gpu", "bf16", "resident", "resident")),
        (_machine(32, 48), ("gpu", "int8", "resident", "mapped")),
        (_machine(32, 24), ("gpu", "int4", "resident", "mapped")),
        (_machine(32, 8), ("gpu", "int4", "resident", "mapped")),
        (_machine(16, 8), ("gpu", "int4", "resident", "mapped")),
    ],
)
def test_what_is_chosen(sizes: PartSizes, machine: Machine, wanted: tuple[str, ...]) -> None:
    chosen = choose(sizes, machine)
    assert (chosen.device, chosen.precision, chosen.weights, chosen.tables) == wanted


def test_numbers_are_called_what_they_are(lite_folder) -> None:
    """A checkpoint that is stored in fp32 is kept so where nothing is packed."""
    machine = _machine(1024, rate=2e12)
    for value_bytes, name in ((2.0, "bf16"), (4.0, "fp32")):
        chosen = choose(part_sizes(load_config(lite_folder), value_bytes), machine)
        assert (chosen.precision, chosen.home.split()[0]) == ("bf16", name)


def test_a_checkpoint_in_fp8_is_kept_so_where_it_fits(sizes: PartSizes) -> None:
    for machine in (_machine(128, 139), _machine(32, 48), _machine(256, rate=400e9)):
        assert choose(sizes, machine, stored="fp8").precision == "fp8"
    assert choose(sizes, _machine(32, 24), stored="fp8").precision == "int4"


def test_fp8_is_asked_for_or_published(lite_folder, tmp_path) -> None:
    values = json.loads((lite_folder / "config.json").read_text(encoding="utf-8"))
    values["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    (tmp_path / "config.json").write_text(json.dumps(values), encoding="utf-8")
    config = load_config(tmp_path)
    stored = admission.stored_as(tmp_path, config)
    assert admission.asked_placement(stored, config, IN_MEMORY, _machine(64)).precision == "fp8"
    packed = replace(IN_MEMORY, precision="int4")
    assert admission.asked_placement(stored, config, packed, _machine(64)).precision == "int4"


def test_too_little_memory_is_told_with_how_much(sizes: PartSizes) -> None:
    with pytest.raises(NotEnoughMemory, match=r"needs \d+\.\d GB more than the 8\.6 GB there are"):
        choose(sizes, _machine(8))
    with pytest.raises(NotEnoughMemory, match="as slow as the disk"):
        choose(sizes, _machine(8))
    with pytest.raises(NotEnoughMemory, match=r"close other programs$"):
        choose(sizes, _machine(1))


def test_a_placement_that_does_not_fit_names_one_that_does(sizes: PartSizes) -> None:
    machine = _machine(24)
    asked = next(one for one in placements(sizes, machine) if one.precision == "bf16" and one.tables == "resident")
    with pytest.raises(NotEnoughMemory, match=r"need 11\d\.\d GB more .* would fit: int4 on cpu") as caught:
        require_memory(sizes, asked, machine)
    assert "(device cpu, precision int4, weights resident, ngram_tables mapped)" in str(caught.value)
    assert "tokens/s" not in str(caught.value), "rates are not measured before a model is loaded"


def test_what_is_converted_is_to_be_had_in_no_other_precision(sizes: PartSizes) -> None:
    machine = _machine(24)
    assert {one.precision for one in placements(sizes, machine, converted="int8")} == {"int8"}
    assert choose(sizes, _machine(256, rate=400e9), stored="int4", is_converted=True).precision == "int4"
    every = placements(sizes, machine, converted="int8")
    asked = next(one for one in every if one.weights == one.tables == "resident")
    with pytest.raises(NotEnoughMemory, match=r"smallest placement \(int8, mapped weights"):
        require_memory(sizes, asked, machine)
    assert any(one.needs_conversion for one in placements(sizes, machine))
    assert not any(one.needs_conversion for one in placements(sizes, machine, converted="int8"))


@pytest.mark.parametrize(("dtype", "value_bytes"), [(torch.float32, 4.0), (torch.bfloat16, 2.0)])
def test_a_checkpoint_in_fp32_takes_twice_as_much(tmp_path, dtype: torch.dtype, value_bytes: float) -> None:
    folder = write_random_checkpoint(tmp_path, TINY, dtype=dtype, with_mtp=False)
    config = load_config(folder)
    stored = admission.stored_as(folder, config)
    assert stored.value_bytes == value_bytes
    one_token = replace(IN_MEMORY, max_cached_tokens=1)
    asked = admission.asked_placement(stored, config, one_token, _machine(24))
    tables = sum(size for name, size in _table_bytes(folder))
    assert asked.host_bytes > tables == part_sizes(config, value_bytes).table_bytes
    model, _ = build_model(config, with_mtp=False, dtype=dtype, activation_dtype=torch.float32, device="meta")
    weights = sum(p.nbytes for name, p in model.named_parameters() if not name.startswith("embedding.resident"))
    norms = 4 * (2 * 2 * (2 * 96 + 48 + 32) + 96)
    assert part_sizes(config, value_bytes).kept_bytes("bf16") + norms == weights
    as_bf16 = admission.asked_placement(stored, config, replace(one_token, dtype="bfloat16"), _machine(24))
    assert (as_bf16.host_bytes < asked.host_bytes) == (value_bytes > 2)


def _table_bytes(folder) -> list[tuple[str, int]]:
    tensors = open_stored(folder).checkpoint.tensors.values()
    return [(tensor.name, tensor.num_bytes) for tensor in tensors if ".embedders." in tensor.name]


def test_a_cache_that_does_not_fit_is_told_as_such(sizes: PartSizes, lite_folder, monkeypatch) -> None:
    """The way out used to be fewer bits, which were planned with another cache."""
    monkeypatch.setattr(admission, "available_bytes", lambda: 24.0 * GIB)
    told = r"a cache of 1,000,000 tokens need .* a smaller cache would fit: max_cached_tokens 8192$"
    with pytest.raises(NotEnoughMemory, match=told):
        admission.require_room(lite_folder, replace(IN_MEMORY, precision="int4", max_cached_tokens=1_000_000))
    monkeypatch.setattr(admission, "available_bytes", lambda: 8.0 * GIB)
    with pytest.raises(NotEnoughMemory, match="the smallest placement"):
        admission.require_room(lite_folder, replace(IN_MEMORY, precision="int4", max_cached_tokens=1_000_000))


def test_mapped_weights_are_loaded_with_less_memory_than_they_want(sizes: PartSizes) -> None:
    machine = _machine(6)
    asked = next(one for one in placements(sizes, machine) if one.weights == one.tables == "mapped")
    assert not fits(asked, machine)
    require_memory(sizes, asked, machine)
    with pytest.raises(NotEnoughMemory):
        require_memory(sizes, asked, _machine(1))


def test_pinned_tables_are_counted_on_the_host_and_for_a_gpu_alone(sizes: PartSizes) -> None:
    def of(device: str) -> dict[str, Placement]:
        every = placements(sizes, _machine(128, 192))
        return {one.tables: one for one in every if (one.device, one.precision) == (device, "bf16")}

    gpu = of("gpu")
    assert set(gpu) == {"resident", "pinned", "mapped"}
    assert gpu["pinned"].host_bytes - gpu["mapped"].host_bytes == 2 * sizes.tables
    assert gpu["resident"].device_bytes - gpu["pinned"].device_bytes == 2 * (sizes.tables + sizes.words)
    assert gpu["mapped"].device_bytes == gpu["pinned"].device_bytes
    assert gpu["pinned"].options["ngram_tables"] == "pinned"
    assert "tables in host memory that it reads" in gpu["pinned"].story
    assert "pinned" not in of("cpu")


def test_pinned_tables_without_a_gpu_are_refused_in_one_line(lite_folder) -> None:
    with pytest.raises(EngineError, match="read by a CUDA device; with device cpu use mapped"):
        admission.require_room(lite_folder, replace(IN_MEMORY, ngram_tables="pinned"))


def test_an_old_card_is_not_planned_for(sizes: PartSizes) -> None:
    old = Machine(32 * GIB, 40e9, 0.0, Gpu("old", 48e9, 0.4e12, (7, 5)))
    assert choose(sizes, old).device == "cpu"


@pytest.mark.parametrize(("capability", "reads"), [((8, 6), False), ((8, 9), True), ((9, 0), True)])
def test_fp8_is_for_cards_that_read_it(sizes: PartSizes, capability: tuple[int, int], reads: bool) -> None:
    machine = Machine(256 * GIB, 40e9, 0.0, Gpu("card", 200e9, 1e12, capability))
    on_gpu = {one.precision for one in placements(sizes, machine) if one.device == "gpu"}
    assert on_gpu == {"bf16", "int8", "int4"} | ({"fp8"} if reads else set())
    assert "fp8" in {one.precision for one in placements(sizes, machine) if one.device == "cpu"}


@pytest.mark.parametrize(("gpu", "cause"), [(None, "no CUDA device"), (Gpu("old", 1.0, 1.0, (7, 5)), "capability 7.5")])
def test_a_device_that_cannot_be_used(monkeypatch, gpu, cause: str) -> None:
    monkeypatch.setattr(admission, "find_gpu", lambda _device: gpu)
    with pytest.raises(EngineError, match=cause):
        admission.require_device("cuda")


def test_the_full_model_is_refused_before_memory_is_taken(lite_folder, monkeypatch) -> None:
    monkeypatch.setattr(admission, "available_bytes", lambda: 24.0 * GIB)
    with pytest.raises(NotEnoughMemory):
        admission.require_room(lite_folder, IN_MEMORY)
    packed = replace(IN_MEMORY, precision="int4", ngram_tables="mapped", max_cached_tokens=8192)
    admission.require_room(lite_folder, packed)


@settings(max_examples=50, deadline=None)
@given(host=st.floats(1, 500), gpu=st.none() | st.floats(1, 300), rate=st.floats(1e9, 1e12))
def test_what_is_chosen_fits_and_nothing_that_fits_is_refused(host: float, gpu: float | None, rate: float) -> None:
    small = PartSizes(
        10**9, 10**8, 10**9, 30 * 10**9, 10**7, 10**6, 4 * 10**8, 4 * 10**8, 10**7, 3 * 10**10, 16128, 8, 14
    )
    machine = _machine(host, gpu, rate)
    try:
        chosen = choose(small, machine)
    except NotEnoughMemory:
        assert not any(fits(one, machine) for one in placements(small, machine))
    else:
        assert missing_bytes(chosen, machine) <= 0
        assert chosen.expected_tokens_per_s < chosen.limit_tokens_per_s


def test_experts_that_a_card_has_no_room_for_are_read_in_host_memory(sizes: PartSizes) -> None:
    """As many layers' as it takes, and the step is longer by what comes over the link."""
    machine = _machine(64, 12)
    chosen = choose(sizes, machine)
    assert (chosen.device, chosen.precision) == ("gpu", "int4")
    assert 0 < chosen.pinned_expert_layers < 14
    layer = sizes.layer_expert_bytes("int4")
    assert 0 <= machine.gpu.free_bytes - chosen.device_bytes < layer
    every = list(placements(sizes, machine))
    options = {key: value for key, value in chosen.options.items() if key != "pinned_expert_layers"}
    whole = next(one for one in every if one.options == options)
    assert whole.device_bytes - chosen.device_bytes == pytest.approx(chosen.pinned_expert_layers * layer)
    link_s = chosen.pinned_expert_layers * sizes.taken_expert_bytes("int4") / machine.gpu.link_bytes_per_s
    own_s = 1 / chosen.limit_tokens_per_s - link_s
    assert link_s > 0.7 / chosen.limit_tokens_per_s
    assert own_s < 1 / whole.limit_tokens_per_s
    assert "experts of" in chosen.home
    assert chosen.options["pinned_expert_layers"] == chosen.pinned_expert_layers


def test_what_fits_a_card_whole_is_preferred_to_more_bits_over_the_link(sizes: PartSizes) -> None:
    machine = Machine(128 * GIB, 40e9, 100e9, Gpu("a card", 24e9, 0.9e12, (8, 9), link_bytes_per_s=50e9))
    in_eight_bits = [one for one in placements(sizes, machine) if one.precision == "int8" and one.pinned_expert_layers]
    assert any(fits(one, machine) and one.expected_tokens_per_s > 20 for one in in_eight_bits)
    chosen = choose(sizes, machine)
    assert (chosen.precision, chosen.pinned_expert_layers) == ("int4", 0)


def test_plain_experts_stay_on_their_device(sizes: PartSizes) -> None:
    every = placements(sizes, _machine(256, 24))
    assert not [one for one in every if one.precision == "bf16" and one.pinned_expert_layers]


def _slot(devices: Path, name: str, **files: str) -> None:
    (devices / name).mkdir(parents=True)
    for file, text in files.items():
        (devices / name / file).write_text(f"{text}\n", encoding="ascii")


CARD = {"vendor": "0x10de", "class": "0x030000", "max_link_width": "16", "max_link_speed": "16.0 GT/s PCIe"}


def test_the_link_is_as_quick_as_its_lanes(tmp_path: Path) -> None:
    assert link_rate(tmp_path / "nothing") == CAUTIOUS_LINK_RATE
    _slot(tmp_path, "0000:01:00.0", **CARD)
    _slot(tmp_path, "0000:01:00.1", **{**CARD, "class": "0x040300", "max_link_width": "1"})
    _slot(tmp_path, "0000:00:02.0", **{**CARD, "vendor": "0x8086", "max_link_width": "1"})
    assert link_rate(tmp_path) == pytest.approx(25.6e9)
    _slot(tmp_path, "0000:02:00.0", **{**CARD, "max_link_width": "8"})
    assert link_rate(tmp_path) == pytest.approx(12.8e9)
    _slot(tmp_path, "0000:03:00.0", **{**CARD, "max_link_speed": "Unknown"})
    assert link_rate(tmp_path) == CAUTIOUS_LINK_RATE
