"""From trained weights to a checkpoint folder in the published layout, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from kodkod_engine.models.checkpoint import INDEX_NAME, Checkpoint
from kodkod_engine.models.config import load_config
from kodkod_engine.models.loading import MTP_PREFIX
from kodkod_engine.training.model import TrainableModel

FILE_NAME = "model-00001-of-00001.safetensors"
DTYPE_NAMES: Mapping[str, torch.dtype] = {"bfloat16": torch.bfloat16, "float32": torch.float32}


def export(model: TrainableModel, config: Mapping[str, Any], folder: str | Path, *, dtype: str = "bfloat16") -> Path:
    """Write config.json, one shard and its index; other files of the folder, a tokenizer's say, stay.

    The router keeps fp32, whatever the others get.

    Args:
        config: the keys of config.json.
        dtype: a key of `DTYPE_NAMES`.

    Returns:
        The folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: slot.detach()
        .to("cpu", torch.float32 if ".router." in name else DTYPE_NAMES[dtype], copy=True)
        .contiguous()
        for name, slot in model.checkpoint_slots().items()
    }
    save_file(tensors, folder / FILE_NAME, metadata={"format": "pt"})
    index = {
        "metadata": {"total_size": sum(tensor.nbytes for tensor in tensors.values())},
        "weight_map": dict.fromkeys(tensors, FILE_NAME),
    }
    _write_json(folder / INDEX_NAME, index)
    _write_json(folder / "config.json", {**config, "torch_dtype": dtype})
    return folder


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def load_trainable(folder: str | Path) -> TrainableModel:
    """A checkpoint's weights with gradients, in fp32.

    Raises:
        CheckpointError: see `models.config.load_config` and `models.checkpoint`.
    """
    checkpoint = Checkpoint(folder)
    has_mtp = any(name.startswith(MTP_PREFIX) for name in checkpoint.tensors)
    model = TrainableModel(load_config(folder), with_mtp=has_mtp)
    fill(model, checkpoint)
    return model


@torch.no_grad()
def fill(model: TrainableModel, checkpoint: Checkpoint) -> None:
    """Copy a checkpoint's weights into a model of the same sizes.

    Raises:
        CheckpointCorrupt: sizes differ, or tensors are missing.
    """
    slots = model.checkpoint_slots()
    checkpoint.check(slots, ignored_prefixes=() if model.mtp else (MTP_PREFIX,))
    checkpoint.load_into(slots)
