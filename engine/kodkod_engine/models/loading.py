"""From a checkpoint folder to a model that is ready to run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from pathlib import Path

import torch
from torch import nn

from kodkod_engine.errors import CheckpointCorrupt, CheckpointError, UnknownArchitecture
from kodkod_engine.layers.mapped_files import MappedFiles
from kodkod_engine.layers.mapped_rows import MappedRows, map_tensor
from kodkod_engine.layers.ngram_embedding import NgramEmbedding
from kodkod_engine.layers.packed import PackedMatrix, Precision, Precisions, Slot
from kodkod_engine.models.checkpoint import Checkpoint, Progress, StoredTensor
from kodkod_engine.models.config import ModelConfig, load_config
from kodkod_engine.models.converted import Manifest, read_manifest, require_complete
from kodkod_engine.models.longcat_flash import LongcatFlash
from kodkod_engine.models.memory import allocate, pin_experts, pin_tables, pin_words
from kodkod_engine.models.mtp import MtpBlock
from kodkod_engine.models.packing import pack_model

MTP_PREFIX = "model.mtp."
HOME_MTP_PREFIX = "mtp."
RESIDENT_PREFIX = "embedding.resident."


class WeightHome(StrEnum):
    """Where all other weights live."""

    RESIDENT = "resident"
    """In memory, on the model's device."""
    MAPPED = "mapped"
    """In the files of a converted checkpoint; pages come in when they are read and may leave again."""


class TableHome(StrEnum):
    """Where the N-gram tables live."""

    RESIDENT = "resident"
    """In memory, on the model's device."""
    PINNED = "pinned"
    """In host memory that the CUDA device reads row by row, in place; the words with them."""
    MAPPED = "mapped"
    """In the checkpoint files, read row by row behind a cache of n-grams."""


UNPACKED = Precisions()
Shapes = tuple[LongcatFlash, MtpBlock | None]
"""A model on the meta device, and its draft block."""


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
    precisions: Precisions = UNPACKED

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


def require_parts(config: ModelConfig, checkpoint: Checkpoint, *, is_converted: bool) -> None:
    """That there are tensors enough for the layers and experts, before a model of all of them is built to compare.

    Raises:
        CheckpointCorrupt: there are not.
    """
    parts = config.num_layers * (1 if is_converted else config.num_experts)
    if parts > len(checkpoint.tensors):
        raise CheckpointCorrupt(
            f"{checkpoint.folder}: {config.num_layers} layers of {config.num_experts} experts in "
            f"{len(checkpoint.tensors)} tensors cannot be; config.json and weights do not match"
        )


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A checkpoint folder of which config, manifest and headers were read, and no weights."""

    folder: Path
    config: ModelConfig
    manifest: Manifest | None
    """None of a published checkpoint."""
    checkpoint: Checkpoint

    @property
    def dtype(self) -> torch.dtype:
        """Of the large matrices that are not packed."""
        return stored_dtype(self.checkpoint)

    @property
    def precision(self) -> str:
        """Of the experts, as `Precision` names it; fp16 and fp32 count as bf16."""
        return str((self.manifest.precisions if self.manifest else stored_precisions(self.checkpoint)).experts)

    @property
    def mtp_prefix(self) -> str:
        """Begins the names of the draft block's tensors."""
        return MTP_PREFIX if self.manifest is None else HOME_MTP_PREFIX

    @property
    def has_mtp(self) -> bool:
        """Whether there is a draft block."""
        return any(name.startswith(self.mtp_prefix) for name in self.checkpoint.tensors)

    def slots_of(self, shapes: Shapes) -> dict[str, Slot]:
        """A model's weights by the names they have here."""
        return _published_slots(*shapes) if self.manifest is None else _home_slots(*shapes)


def open_stored(folder: Path) -> StoredModel:
    """Read what a checkpoint is, all but its weights.

    Raises:
        CheckpointError: see `models.config.load_config` and `models.checkpoint`.
    """
    config, manifest = load_config(folder), read_manifest(folder)
    if manifest is not None:
        require_complete(folder, manifest)
    checkpoint = Checkpoint(folder, None if manifest is None else list(manifest.files))
    require_parts(config, checkpoint, is_converted=manifest is not None)
    return StoredModel(folder, config, manifest, checkpoint)


def require_loadable(folder: Path) -> StoredModel:
    """That names, shapes and dtypes of a checkpoint are those of its model; no weights are read.

    Raises:
        CheckpointError: they are not, or see `open_stored`.
    """
    stored = open_stored(folder)
    keeps = stored.manifest.precisions if stored.manifest else stored_precisions(stored.checkpoint)
    _checked_shapes(stored, stored.dtype, torch.float32, keeps, None)
    return stored


def _checked_shapes(
    stored: StoredModel, dtype: torch.dtype, activation_dtype: torch.dtype, precisions: Precisions, mtp: bool | None
) -> Shapes:
    """The model on the meta device, after it was compared with the files: before a byte of memory is taken."""
    with_mtp = stored.has_mtp if mtp is None else mtp
    shapes = build_model(
        stored.config, with_mtp=with_mtp, dtype=dtype, activation_dtype=activation_dtype, device="meta"
    )
    pack_model(*shapes, precisions)
    slots = stored.slots_of(shapes)
    try:
        stored.checkpoint.check(slots, ignored_prefixes=() if with_mtp else (stored.mtp_prefix,))
    except CheckpointError as fault:
        if with_mtp and _is_right_without_draft(stored, slots):
            raise type(fault)(
                f"{fault}; engine.mtp = false does without the draft block, where the fault is"
            ) from fault
        raise
    return shapes


def _is_right_without_draft(stored: StoredModel, slots: Mapping[str, Slot]) -> bool:
    main = {name: slot for name, slot in slots.items() if not name.startswith(stored.mtp_prefix)}
    try:
        stored.checkpoint.check(main, ignored_prefixes=(stored.mtp_prefix,))
    except CheckpointError:
        return False
    return True


def load_model(
    checkpoint_dir: str | Path,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    mtp: bool | None = None,
    ngram_tables: TableHome = TableHome.RESIDENT,
    precisions: Precisions | None = None,
    weights: WeightHome = WeightHome.RESIDENT,
    pinned_expert_layers: int = 0,
    progress: Progress | None = None,
) -> LoadedModel:
    """Stream a checkpoint into a model.

    Args:
        dtype: of the weights, FP8 ones too unless precisions are given; None takes the stored one.
        mtp: whether to load the draft block; None does when it is there.
        precisions: of the large matrices; None keeps what is stored.
        weights: mapped ones need a converted checkpoint and the host as device.
        pinned_expert_layers: see `EngineConfig`; packed experts alone.
        progress: called with (bytes read, bytes in all).

    Raises:
        CheckpointError: see `models.config.load_config` and `models.checkpoint`.
        NotEnoughMemory: memory for experts could not be pinned.
    """
    folder, device = Path(checkpoint_dir), torch.device(device)
    stored = open_stored(folder)
    checkpoint = stored.checkpoint
    # Whoever names a dtype wants numbers of it.
    keeps = stored_precisions(checkpoint) if dtype is None else UNPACKED
    dtype = dtype or stored.dtype
    precisions = _precisions(folder, stored.manifest, precisions) or keeps
    activation_dtype = activation_dtype_for(dtype, device)
    shapes = _checked_shapes(stored, dtype, activation_dtype, precisions, mtp)
    if weights is WeightHome.MAPPED:
        if stored.manifest is None:
            raise UnknownArchitecture(f"{folder}: only converted weights can be mapped; run `kodkod convert` first")
        _map_weights(shapes, checkpoint)
    shapes[0].mapped_files = MappedFiles(_mapped_paths(checkpoint, weights, ngram_tables))
    model, mtp_block = shapes
    if model.embedding is not None:
        _place_tables(model.embedding, checkpoint, ngram_tables)
    if ngram_tables is TableHome.PINNED or (ngram_tables is TableHome.MAPPED and device.type == "cuda"):
        pin_words(model, mtp_block)
    pin_experts(model, pinned_expert_layers)
    allocate(shapes, device)
    unset = stored.slots_of(shapes)
    if weights is WeightHome.MAPPED:
        unset = {name: slot for name, slot in unset.items() if not _is_mappable(checkpoint.tensors[name], slot)}
    checkpoint.load_into(unset, progress)
    return LoadedModel(stored.config, model, mtp_block, dtype, activation_dtype, device, precisions)


def _precisions(folder: Path, manifest: Manifest | None, asked: Precisions | None) -> Precisions | None:
    """What is asked for or converted to, which have to agree; None where neither is said."""
    if manifest is None:
        return asked
    if asked is not None and asked != manifest.precisions:
        raise UnknownArchitecture(f"{folder} is converted to {manifest.precisions.experts}; convert the original again")
    return manifest.precisions


_PART_NAMES = {"experts": ".mlp.experts.", "attention": ".self_attn.", "dense": ".mlps.", "head": "lm_head."}


def stored_precisions(checkpoint: Checkpoint) -> Precisions:
    """Of a published checkpoint: FP8 for the parts whose matrices all are; the latent maps are no part."""

    def is_fp8(piece: str) -> bool:
        names = (name for name in checkpoint.tensors if piece in name and not name.startswith(MTP_PREFIX))
        stored = [checkpoint.tensors[name] for name in names if "kv_b_proj" not in name]
        return {one.dtype for one in stored if len(one.shape) > 1} == {torch.float8_e4m3fn}

    return Precisions(**{part: Precision.FP8 for part, piece in _PART_NAMES.items() if is_fp8(piece)})


def stored_dtype(checkpoint: Checkpoint) -> torch.dtype:
    """Of the large matrices that are not packed.

    Raises:
        UnknownArchitecture: not a dtype that this engine reads so.
    """
    for name in ("model.norm.weight", "embedding.word", "word_embedding"):
        if (stored := checkpoint.tensors.get(name)) is not None:
            if stored.dtype.itemsize > 1:
                return stored.dtype
            raise UnknownArchitecture(f"{stored.file}: this engine does not read {name} stored as {stored.dtype_name}")
    return torch.bfloat16


def _published_slots(model: LongcatFlash, mtp: MtpBlock | None) -> dict[str, Slot]:
    """By the names of a published checkpoint."""
    return dict(chain(model.checkpoint_slots(), mtp.checkpoint_slots() if mtp else ()))


def _home_slots(model: LongcatFlash, mtp: MtpBlock | None) -> dict[str, Slot]:
    """By the names of a converted checkpoint: the model's own, but for the N-gram tables."""
    slots: dict[str, Slot] = {name: p for name, p in model.named_parameters() if not name.startswith(RESIDENT_PREFIX)}
    slots |= dict(model.table_slots())
    return slots | ({f"{HOME_MTP_PREFIX}{name}": p for name, p in mtp.named_parameters()} if mtp else {})


def _is_mappable(stored: StoredTensor, slot: Slot) -> bool:
    """Whether the bytes of the file can be the weight: same dtype, aligned, and no table."""
    is_whole = not isinstance(slot, PackedMatrix) and slot.dtype == stored.dtype
    return is_whole and not stored.offset % stored.dtype.itemsize and ".embedders." not in stored.name


def _map_weights(shapes: Shapes, checkpoint: Checkpoint) -> None:
    """Put the files' pages in place of meta parameters."""
    for prefix, part in (("", shapes[0]), (HOME_MTP_PREFIX, shapes[1])):
        for path, module in part.named_modules() if part is not None else ():
            for leaf, parameter in list(module.named_parameters(recurse=False)):
                stored = checkpoint.tensors.get(f"{prefix}{path}.{leaf}" if path else f"{prefix}{leaf}")
                if stored is not None and _is_mappable(stored, parameter):
                    setattr(module, leaf, nn.Parameter(map_tensor(stored), requires_grad=False))


def _mapped_paths(checkpoint: Checkpoint, weights: WeightHome, tables: TableHome) -> Iterator[Path]:
    """Files that the model reads while it runs."""
    for tensor in checkpoint.tensors.values():
        if (tables is TableHome.MAPPED) if ".embedders." in tensor.name else (weights is WeightHome.MAPPED):
            yield tensor.file


def _place_tables(embedding: NgramEmbedding, checkpoint: Checkpoint, home: TableHome) -> None:
    """Mapped tables are taken out of the model and cost no memory."""
    if home is TableHome.MAPPED or (home is TableHome.PINNED and not pin_tables(embedding)):
        dtype = embedding.resident.weight.dtype if embedding.resident else None
        embedding.move_tables(MappedRows(embedding.spec, checkpoint, dtype=dtype))
