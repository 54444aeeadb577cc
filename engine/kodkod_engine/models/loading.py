"""From a checkpoint folder to a model that is ready to run."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from kodkod_engine.layers.mapped_rows import MappedRows
from kodkod_engine.models.checkpoint import Checkpoint, Progress
from kodkod_engine.models.config import ModelConfig, load_config
from kodkod_engine.models.longcat_flash import LongcatFlash
from kodkod_engine.models.mtp import MtpBlock

MTP_PREFIX = "model.mtp."


class TableHome(StrEnum):
    """Where the N-gram tables live."""

    RESIDENT = "resident"
    """In memory, on the model's device."""
    MAPPED = "mapped"
    """In the checkpoint files, read row by row behind a cache of n-grams."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model with its weights, and its draft block when the checkpoint has one."""

    config: ModelConfig
    model: LongcatFlash
    mtp: MtpBlock | None
    dtype: torch.dtype
    """Of the large matrices."""
    activation_dtype: torch.dtype
    """Of everything else: activations, norms, the latent projections, the KV cache."""
    device: torch.device

    @property
    def num_cache_layers(self) -> int:
        """The main model's, and one for the draft block."""
        return self.config.num_attention_blocks + (self.mtp is not None)


def activation_dtype_for(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """fp32 on a processor, where activations are few beside the weights; else the model's own."""
    return torch.float32 if device.type == "cpu" else dtype


def build_model(
    config: ModelConfig,
    *,
    with_mtp: bool,
    dtype: torch.dtype,
    activation_dtype: torch.dtype,
    device: torch.device | str,
) -> tuple[LongcatFlash, MtpBlock | None]:
    """A model with unset weights; on the meta device it costs nothing."""
    previous = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = LongcatFlash(config, activation_dtype=activation_dtype)
            mtp = MtpBlock(config, activation_dtype=activation_dtype) if with_mtp else None
    finally:
        torch.set_default_dtype(previous)
    return model, mtp


def load_model(
    checkpoint_dir: str | Path,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    mtp: bool | None = None,
    ngram_tables: TableHome = TableHome.RESIDENT,
    progress: Progress | None = None,
) -> LoadedModel:
    """Stream a checkpoint into a model.

    Args:
        dtype: of the weights; None takes the stored one.
        mtp: whether to load the draft block; None does when it is there.
        progress: called with (bytes read, bytes in all).

    Raises:
        CheckpointError: see `models.config.load_config` and `models.checkpoint`.
    """
    config = load_config(checkpoint_dir)
    checkpoint = Checkpoint(checkpoint_dir)
    device = torch.device(device)
    dtype = dtype or _stored_dtype(checkpoint)
    activation_dtype = activation_dtype_for(dtype, device)
    has_mtp = any(name.startswith(MTP_PREFIX) for name in checkpoint.tensors)
    with_mtp = has_mtp if mtp is None else mtp
    shapes = build_model(config, with_mtp=with_mtp, dtype=dtype, activation_dtype=activation_dtype, device="meta")
    # Everything is checked on shapes alone, before a byte of memory is taken.
    checkpoint.check(_slots(*shapes), ignored_prefixes=() if with_mtp else (MTP_PREFIX,))
    model, mtp_block = _allocate(shapes, checkpoint, ngram_tables, device)
    checkpoint.load_into(_slots(model, mtp_block), progress)
    return LoadedModel(config, model, mtp_block, dtype, activation_dtype, device)


def _stored_dtype(checkpoint: Checkpoint) -> torch.dtype:
    stored = checkpoint.tensors.get("model.norm.weight")
    return stored.dtype if stored else torch.bfloat16


def _slots(model: LongcatFlash, mtp: MtpBlock | None) -> dict[str, Tensor]:
    return dict(chain(model.checkpoint_slots(), mtp.checkpoint_slots() if mtp else ()))


def _allocate(
    shapes: tuple[LongcatFlash, MtpBlock | None],
    checkpoint: Checkpoint,
    tables: TableHome,
    device: torch.device,
) -> tuple[LongcatFlash, MtpBlock | None]:
    """Give the meta model memory; mapped tables are taken out first and cost none."""
    model, mtp = shapes
    if tables is TableHome.MAPPED and model.embedding is not None:
        model.embedding.move_tables(MappedRows(model.embedding.spec, checkpoint))
    model.to_empty(device=device)
    return model, mtp.to_empty(device=device) if mtp else None
