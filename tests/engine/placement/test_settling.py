"""What loading decides by itself: on the GPU if there is one it fits, as precise as it is stored if that fits."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kodkod_engine.config import EngineConfig
from kodkod_engine.errors import EngineError, NotEnoughMemory
from kodkod_engine.placement import admission, settling
from kodkod_engine.placement.machine import GIB, Gpu, Machine
from kodkod_engine.placement.settling import settled

Put = Callable[..., None]


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Put:
    """Be on a machine with so much memory, and a card with so much."""

    def put(
        host_gib: float, gpu_gb: float | None = None, link: float = 25e9, capability: tuple[int, int] = (8, 9)
    ) -> None:
        gpu = None if gpu_gb is None else Gpu("a card", gpu_gb * 1e9, 0.9e12, capability, link)
        machine = Machine(host_gib * GIB, 40e9, 1e12, gpu)
        monkeypatch.setattr(settling, "this_machine", lambda _folder, _device: machine)
        monkeypatch.setattr(admission, "available_bytes", lambda: host_gib * GIB)
        monkeypatch.setattr(admission, "find_gpu", lambda _device: gpu)

    return put


def _homes(options: EngineConfig) -> tuple[Any, ...]:
    return options.device, options.precision, options.weights, options.ngram_tables


@pytest.mark.parametrize(
    ("machine", "wanted"),
    [
        ((256, 192), ("cuda", None, "resident", "resident")),
        ((128, 139), ("cuda", None, "resident", "pinned")),
        ((128, 80), ("cuda", None, "resident", "pinned")),
        ((32, 48), ("cuda", "int8", "resident", "mapped")),
        ((192, 24), ("cuda", "int4", "resident", "pinned")),
        ((32, 8), ("cuda", "int4", "resident", "mapped")),
        ((256,), ("cpu", None, "resident", "resident")),
        ((128,), ("cpu", None, "resident", "mapped")),
        ((32,), ("cpu", "int4", "resident", "mapped")),
    ],
)
def test_with_nothing_said(lite_folder: Path, on: Put, machine: tuple[float, ...], wanted: tuple[str, ...]) -> None:
    on(*machine)
    options, placement = settled(lite_folder, EngineConfig())
    assert _homes(options) == wanted
    assert options.is_settled
    assert placement is not None
    assert (options.pinned_expert_layers > 0) == (machine == (32, 8))
    assert settled(lite_folder, options) == (options, None), "what is settled stays so"


def test_a_small_model_needs_no_plan(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settling, "this_machine", lambda *_: pytest.fail("the machine was measured"))
    options, placement = settled(tiny_folder, EngineConfig())
    assert _homes(options) == ("cpu", None, "resident", "resident")
    assert placement is None
    assert _homes(settled(tiny_folder, EngineConfig(ngram_tables="mapped"))[0])[3] == "mapped"


def test_a_small_model_goes_to_the_device_that_is_named(tiny_folder: Path, on: Put) -> None:
    on(32, 24)
    assert settled(tiny_folder, EngineConfig())[0].device == "cpu"
    assert settled(tiny_folder, EngineConfig(device="cuda:1"))[0].device == "cuda:1"


OPEN = {
    "device": st.sampled_from(["auto", "cpu", "cuda", "cuda:1"]),
    "precision": st.sampled_from([None, "bf16", "fp8", "int8", "int4"]),
    "weights": st.sampled_from(["auto", "resident", "mapped"]),
    "ngram_tables": st.sampled_from(["auto", "resident", "pinned", "mapped"]),
    "pinned_expert_layers": st.sampled_from([None, 0, 3, 14]),
    "dtype": st.sampled_from([None, "bfloat16"]),
}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(said=st.fixed_dictionaries(OPEN), gpu_gb=st.sampled_from([None, 8.0, 24.0, 80.0]))
def test_what_was_said_holds(lite_folder: Path, on: Put, said: dict[str, Any], gpu_gb: float | None) -> None:
    on(256, gpu_gb)
    try:
        options, _ = settled(lite_folder, EngineConfig(**said))
    except EngineError:
        return
    for name, value in said.items():
        assert value in (None, "auto", getattr(options, name)), name


def test_numbers_of_a_named_dtype_are_not_packed(lite_folder: Path, on: Put) -> None:
    on(256, 24)
    options, _ = settled(lite_folder, EngineConfig(dtype="bfloat16"))
    assert _homes(options) == ("cpu", None, "resident", "resident")


def test_fp8_is_kept_where_it_fits(lite_folder: Path, tmp_path: Path, on: Put) -> None:
    values = json.loads((lite_folder / "config.json").read_text(encoding="utf-8"))
    values["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    (tmp_path / "config.json").write_text(json.dumps(values), encoding="utf-8")
    on(128, 48)
    assert _homes(settled(tmp_path, EngineConfig())[0]) == ("cuda", None, "resident", "pinned")
    on(128, 24)
    assert settled(tmp_path, EngineConfig())[0].precision == "int4"
    on(128, 48, capability=(8, 6))
    assert _homes(settled(tmp_path, EngineConfig())[0]) == ("cuda", "int8", "resident", "pinned")
    with pytest.raises(
        EngineError, match=r"a card has compute capability 8\.6, FP8 needs 8\.9; name another precision"
    ):
        settled(tmp_path, EngineConfig(precision="fp8", device="cuda"))


def test_the_cache_is_as_large_as_there_is_room(lite_folder: Path, on: Put) -> None:
    def cached(*machine: float, **said: Any) -> int | None:
        on(*machine)
        return settled(lite_folder, EngineConfig(**said))[0].max_cached_tokens

    assert cached(128, 139) == 131_072
    assert cached(128, 80) == 32_768
    assert cached(256) == 32_768
    assert cached(22) == 8192
    assert cached(128, 139, max_cached_tokens=50_000) == 50_000


def test_what_fits_nowhere_is_told_with_how_much(lite_folder: Path, on: Put) -> None:
    on(8)
    with pytest.raises(NotEnoughMemory, match=r"need \d+\.\d GB more"):
        settled(lite_folder, EngineConfig())


def test_a_conversion_is_advised_and_never_made(lite_folder: Path, on: Put) -> None:
    on(20)
    with pytest.raises(NotEnoughMemory, match="a smaller cache would fit"):
        settled(lite_folder, EngineConfig(max_cached_tokens=32_768))
    with pytest.raises(NotEnoughMemory, match="mapped from the disk after kodkod convert"):
        settled(lite_folder, EngineConfig())


@pytest.mark.parametrize(
    ("said", "machine", "cause"),
    [
        ({"device": "tpu"}, (32,), "device tpu: the engine computes on auto, cpu, cuda"),
        ({"device": "cuda"}, (32,), "torch finds no CUDA device of that name here"),
        ({"device": "cpu", "pinned_expert_layers": 2}, (256, 24), "read by a CUDA device; .* pinned_expert_layers 0"),
        (
            {"device": "cuda", "precision": "bf16", "pinned_expert_layers": 2},
            (256, 24),
            "read packed; name a precision",
        ),
        ({"device": "cuda", "precision": "int4", "pinned_expert_layers": 15}, (256, 24), "the model has 14 layers"),
        ({"device": "cuda", "weights": "mapped"}, (256, 24), "with device cuda use resident ones"),
        ({"device": "cpu", "ngram_tables": "pinned"}, (256, 24), "with device cpu use mapped"),
    ],
)
def test_what_cannot_be_is_refused(
    lite_folder: Path, on: Put, said: dict[str, Any], machine: tuple[float, ...], cause: str
) -> None:
    on(*machine)
    with pytest.raises(EngineError, match=cause):
        settled(lite_folder, EngineConfig(**said))


def test_fewer_than_no_layers_cannot_be_pinned() -> None:
    with pytest.raises(ValueError, match="0 or more"):
        EngineConfig(pinned_expert_layers=-1)


def test_more_layers_than_it_takes_may_be_pinned(lite_folder: Path, on: Put) -> None:
    on(64, 24)
    options, _ = settled(lite_folder, EngineConfig(device="cuda", precision="int4", pinned_expert_layers=14))
    assert options.pinned_expert_layers == 14
    assert replace(options, pinned_expert_layers=None).is_settled is False
