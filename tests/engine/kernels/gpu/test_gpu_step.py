"""The fused decode step against the model: single tokens, drafts, several sequences; on a GPU with graphs replayed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from kodkod_engine.api import SamplingParams
from kodkod_engine.core.runner import ModelRunner
from kodkod_engine.core.step import Choice, TokenRun
from kodkod_engine.layers.packed import PackedMatrix, Precisions, Slot
from kodkod_engine.models.loading import TableHome, load_model
from kodkod_engine.models.random_checkpoint import TINY, write_random_checkpoint
from kodkod_engine.models.step_buffers import Ending

if TYPE_CHECKING:
    from kodkod_engine.models.longcat_flash import LongcatFlash

pytest.importorskip("triton")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CONFIG = {
    **TINY,
    "hidden_size": 48,
    "num_attention_heads": 2,
    "qk_rope_head_dim": 16,
    "ffn_hidden_size": 64,
    "num_layers": 1,
}


def _run(first_block: int, start: int, ids: list[int], before: list[int]) -> TokenRun:
    blocks = tuple(range(first_block, first_block + (start + len(ids)) // 16 + 1))
    return TokenRun(str(first_block), tuple(ids), tuple(before[-3:]), start, blocks, None)


@pytest.mark.parametrize("tables", [TableHome.RESIDENT, pytest.param(TableHome.MAPPED, marks=pytest.mark.slow)])
@torch.inference_mode()
def test_equals_the_model(tmp_path: Path, tables: TableHome, monkeypatch: pytest.MonkeyPatch) -> None:
    from kodkod_engine.models.gpu_step import GpuStep
    from kodkod_engine.models.longcat_flash import LongcatFlash

    monkeypatch.setattr(LongcatFlash, "_fused_step", lambda *_args: None)
    loaded = load_model(write_random_checkpoint(tmp_path, CONFIG, seed=2), device=DEVICE, ngram_tables=tables)
    runner = ModelRunner(loaded, 64, 16)
    runner.cache._latents.zero_()
    prompts = [[5, 9, 300, 9, 2, 40, 41], [7, 8]]
    runner.forward([_run(0, 0, prompts[0], []), _run(8, 0, prompts[1], [])])
    fused = GpuStep(loaded.model, runner.cache)
    steps = [
        [_run(0, 7, [17], prompts[0])],
        [_run(0, 8, [18, 19, 20], [*prompts[0], 17])],
        [_run(0, 11, [21], [18, 19, 20]), _run(8, 2, [9], prompts[1])],
    ]
    for runs in steps:
        batch = runner.batch(runs)
        assert fused.admits(batch)
        got = fused(batch).clone()
        wanted = loaded.model(batch, runner.cache)
        torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-4)
        assert torch.equal(fused.choose(batch)[0], loaded.model.logits(wanted).argmax(dim=-1))
    assert len(fused._shapes) == 6


@torch.inference_mode()
def test_ids_come_from_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same tokens as through logits, drawn or not: drafts are accepted as far as they agree."""
    from kodkod_engine.models.gpu_step import GpuStep
    from kodkod_engine.models.longcat_flash import LongcatFlash

    loaded = load_model(write_random_checkpoint(tmp_path, CONFIG, seed=2), device=DEVICE)
    runner = ModelRunner(loaded, 64, 16)
    runner.forward([_run(0, 0, [5, 9, 300, 9], [])])
    monkeypatch.setattr(LongcatFlash, "_fused_for", lambda *_args: None)

    def drafted(drafts: list[int], sampling: SamplingParams) -> list[TokenRun]:
        choices = [Choice(sampling, 5 + place, None) for place in range(len(drafts) + 1)]
        return [replace(_run(0, 4, [17, *drafts], [9, 300, 9]), choices=choices)]

    greedy, drawn = SamplingParams(), SamplingParams(temperature=1.0, top_p=0.9)
    first = runner.run([], drafted([0], greedy))[0][0].token_id
    runs = [drafted(drafts, sampling) for drafts in ([first, 1], [first + 1]) for sampling in (greedy, drawn)]
    wanted = [runner.run([], one) for one in runs]
    fused = GpuStep(loaded.model, runner.cache)
    monkeypatch.setattr(LongcatFlash, "_fused_for", lambda *_args: fused)
    runner._chooses_on_device = True
    assert [runner.run([], one) for one in runs] == wanted
    assert {key.ending for key in fused._shapes} == {Ending.GREEDY, Ending.DRAWN}


@pytest.mark.parametrize("name", ["fp8", pytest.param("int4", marks=pytest.mark.slow)])
@torch.inference_mode()
def test_a_packed_model_takes_it_too(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _compare_packed(tmp_path, CONFIG, name, [17, 18], 1e-5, monkeypatch)


@pytest.mark.parametrize("name", ["fp8", "int8", "int4"])
@pytest.mark.parametrize("ids", [[17], [17, 18, 19]])
def test_a_packed_model_by_groups(tmp_path: Path, name: str, ids: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """With the kernels that a device may find quicker; their digits are good for 16-bit numbers, not for fp32."""
    from kodkod_engine.kernels.gpu import thin_linear
    from kodkod_engine.kernels.gpu.tuning import Tuner

    used = []

    def few_packed(*given: Any) -> torch.Tensor:
        used.append(given)
        return thin_linear_few(*given)

    thin_linear_few = thin_linear.few_packed
    monkeypatch.setattr(thin_linear, "few_packed", few_packed)
    monkeypatch.setattr(Tuner, "quickest", lambda _tuner, _key, ways, _run: ways[-1])
    monkeypatch.setattr(thin_linear, "fits_groups", lambda stored, _dtype: stored.per_group * stored.halves >= 32)
    _compare_packed(tmp_path, CONFIG | {"hidden_size": 96}, name, ids, 4e-3, monkeypatch)
    assert bool(used) == (len(ids) > 2)


def _compare_packed(
    tmp_path: Path, config: dict[str, Any], name: str, ids: list[int], bound: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against a plain model with the values that the codes stand for."""
    from kodkod_engine.models.gpu_step import GpuStep
    from kodkod_engine.models.longcat_flash import LongcatFlash

    monkeypatch.setattr(LongcatFlash, "_fused_step", lambda *_args: None)
    folder = write_random_checkpoint(tmp_path, config, seed=2)
    loaded, plain = load_model(folder, device=DEVICE, precisions=Precisions.of(name)), load_model(folder, device=DEVICE)
    for home, packed in zip(_homes(plain.model), _homes(loaded.model), strict=True):
        assert isinstance(home, torch.Tensor)
        home.copy_(packed.unpacked() if isinstance(packed, PackedMatrix) else packed)
    runner = ModelRunner(plain, 64, 16)
    runner.cache._latents.zero_()
    runner.forward([_run(0, 0, [5, 9, 300, 9], [])])
    fused = GpuStep(loaded.model, runner.cache)
    batch = runner.batch([_run(0, 4, ids, [9, 300, 9])])
    assert fused.admits(batch)
    got = fused(batch).clone()
    wanted = plain.model(batch, runner.cache)
    assert (got - wanted).norm() <= bound * wanted.norm()


def _homes(model: LongcatFlash) -> list[Slot]:
    homes: list[Slot] = [model.head_weight]
    for layer in model.dual_layers:
        homes += layer.experts.homes
        for half in (layer.first, layer.second):
            attention, dense = half.attention, half.dense
            homes += [attention.qkv_a.home, attention.q_b.home, attention.o.home, dense.gate_up.home, dense.down.home]
    return homes
