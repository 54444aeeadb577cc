"""Random checkpoints: reproducible, loadable, and alive in every part."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace

import pytest
import torch

from engine.oracle import ATTENTION_PARTS, tensors_of
from engine.playing import play, relative_error
from kodkod_engine.models.config import load_config
from kodkod_engine.models.loading import load_model
from kodkod_engine.models.random_checkpoint import TINY, random_tensor, write_random_checkpoint

IDS = [5, 9, 300, 9, 2, 40, 41, 42, 43, 44, 45, 46]
NEXT_IDS = [*IDS[1:], 7]


def digest(folder) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.iterdir())}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_seed_gives_the_same_bytes(tmp_path, dtype):
    folders = [
        write_random_checkpoint(tmp_path / name, TINY, seed=seed, dtype=dtype, shard_bytes=1_000_000)
        for name, seed in (("a", 3), ("b", 3), ("c", 4))
    ]
    first, again, other = map(digest, folders)
    assert first == again
    assert len(first) > 3
    differing = {name for name in first if first[name] != other[name]}
    assert differing == {name for name in first if name.endswith(".safetensors")}


def test_the_layout_is_the_published_one(tiny_folder):
    tensors = tensors_of(tiny_folder)
    config = json.loads((tiny_folder / "config.json").read_text(encoding="utf-8"))
    assert config == TINY
    kinds = {re.sub(r"\d+", "N", name) for name in tensors}
    attention = {f"{part}.weight" for part in ATTENTION_PARTS}
    network = {f"{part}_proj.weight" for part in ("gate", "up", "down")}
    layer, draft = "model.layers.N.", "model.mtp.layers.N."
    assert kinds == {
        "model.embed_tokens.weight",
        "model.ngram_embeddings.embedders.N.weight",
        "model.ngram_embeddings.post_projs.N.weight",
        "model.norm.weight",
        "lm_head.weight",
        f"{layer}input_layernorm.N.weight",
        f"{layer}post_attention_layernorm.N.weight",
        f"{layer}mlp.router.classifier.weight",
        f"{layer}mlp.router.e_score_correction_bias",
        *(f"{layer}self_attn.N.{name}" for name in attention),
        *(f"{layer}mlps.N.{name}" for name in network),
        *(f"{layer}mlp.experts.N.{name}" for name in network),
        "model.mtp.embed_tokens.weight",
        "model.mtp.norm.weight",
        f"{draft}enorm.m.weight",
        f"{draft}hnorm.m.weight",
        f"{draft}eh_proj.weight",
        f"{draft}input_layernorm.weight",
        f"{draft}post_attention_layernorm.weight",
        *(f"{draft}self_attn.{name}" for name in attention),
        *(f"{draft}transformer_layer.mlp.{name}" for name in network),
    }
    assert tensors["model.layers.0.self_attn.0.kv_b_proj.weight"].shape == (4 * (16 + 16), 32)
    assert tensors["model.ngram_embeddings.embedders.11.weight"].shape == (int(7.3 * 320) + 23, 8)


def test_every_shard_but_a_single_tensor_keeps_the_limit(tmp_path):
    folder = write_random_checkpoint(tmp_path, TINY, shard_bytes=100_000)
    index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
    tensors = tensors_of(folder)
    assert set(index["weight_map"]) == set(tensors)
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors.values())
    for shard in set(index["weight_map"].values()):
        sizes = [tensors[name].nbytes for name, home in index["weight_map"].items() if home == shard]
        assert sum(sizes) <= 100_000 or len(sizes) == 1


def test_progress_reaches_the_total(tmp_path):
    calls: list[tuple[int, int]] = []
    folder = write_random_checkpoint(tmp_path, TINY, shard_bytes=300_000, progress=lambda *call: calls.append(call))
    total = sum(tensor.nbytes for tensor in tensors_of(folder).values())
    assert calls[-1] == (total, total)
    assert len(calls) > 3


def test_routers_stay_in_fp32(tmp_path):
    tensors = tensors_of(write_random_checkpoint(tmp_path, TINY, dtype=torch.bfloat16))
    narrow = {name for name, tensor in tensors.items() if tensor.dtype == torch.bfloat16}
    assert {".router." in name for name in set(tensors) - narrow} == {True}
    assert not any(".router." in name for name in narrow)


def test_the_backbone_alone(tmp_path):
    config = {**TINY, "architectures": ["LongcatFlashForCausalLM"]}
    folder = write_random_checkpoint(tmp_path, config, with_mtp=False)
    assert load_config(folder).ngram is None
    loaded = load_model(folder)
    assert loaded.num_cache_layers == 4
    logits = play(loaded)[0].feed(IDS)
    assert logits.shape == (len(IDS), 320)
    assert bool(torch.isfinite(logits).all())


def test_a_tied_head_is_the_word_embedding(tmp_path):
    folder = write_random_checkpoint(tmp_path, {**TINY, "tie_word_embeddings": True})
    assert "lm_head.weight" not in tensors_of(folder)
    loaded = load_model(folder)
    assert loaded.model.lm_head is None
    normed = torch.randn(2, 96, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(loaded.model.head(normed), normed @ loaded.model.embedding.word.T, atol=1e-4)


def kinds_of(loaded) -> dict[str, list[torch.Tensor]]:
    """Slots by name with the numbers of layers and experts left out: which experts a prompt meets is chance."""
    kinds: dict[str, list[torch.Tensor]] = {}
    slots = [*loaded.model.checkpoint_slots(), *loaded.mtp.checkpoint_slots()]
    for name, slot in slots:
        kinds.setdefault(re.sub(r"(layers|experts)\.\d+", r"\1.*", name), []).append(slot)
    return kinds


@torch.inference_mode()
def outputs_of(loaded) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of the model and of its draft block."""
    played = play(loaded)[0]
    batch = played.runner.batch([played.run(IDS)])
    model = loaded.model
    hidden = model(batch, played.runner.cache)
    drafted = replace(batch, token_ids=torch.tensor(NEXT_IDS))
    table = model.rope_table(batch.positions)
    return model.logits(hidden), model.head(loaded.mtp(model.norm(hidden), drafted, table, played.runner.cache))


def test_outputs_depend_on_every_tensor(tiny_folder):
    """Each is shifted by a part of its size and put back: the logits it feeds move, the others do not."""
    loaded = load_model(tiny_folder)
    before = outputs_of(loaded)
    generator = torch.Generator().manual_seed(0)
    kinds = kinds_of(loaded)
    assert len(kinds) == (2 * 12 + 2 + 3) + 3 + 24 + 17
    still = []
    for name, slots in kinds.items():
        kept = [slot.clone() for slot in slots]
        # The selection bias shows only where it tips a choice.
        size = 5 if name.endswith("bias") else 0.05
        for slot in slots:
            slot.add_(size * slot.abs().mean() * torch.randn(slot.shape, generator=generator))
        after = outputs_of(loaded)
        for slot, values in zip(slots, kept, strict=True):
            slot.copy_(values)
        moved = [relative_error(new, old) > 1e-5 for new, old in zip(after, before, strict=True)]
        if moved != ([False, True] if name.startswith("model.mtp.") else [True, True]):
            still.append((name, moved))
    assert not still
    assert all(torch.equal(*pair) for pair in zip(outputs_of(loaded), before, strict=True))


def test_values_have_the_scale_of_trained_ones():
    generator = torch.Generator().manual_seed(0)
    matrix = random_tensor("model.layers.0.mlps.0.up_proj.weight", torch.empty(400, 900), generator)
    assert float(matrix.std()) == pytest.approx(1 / 30, rel=0.02)
    norm = random_tensor("model.norm.weight", torch.empty(4000), generator)
    assert float(norm.mean()) == pytest.approx(1, abs=0.02)
    bias = random_tensor("model.layers.0.mlp.router.e_score_correction_bias", torch.empty(4000), generator)
    assert float(bias.abs().max()) < 0.06
