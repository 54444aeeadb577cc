"""A published checkpoint made into a converted one: streaming, resumable, hashed.

Weights pass through memory one matrix at a time (0.8 GB for all experts' gate and up of a layer in 4 bits), tables in
small chunks. A file that was finished is not made again; one that was cut off is.
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import torch
from torch import nn

from kodkod_engine.errors import CheckpointCorrupt, DiskFull, EngineError, UnknownArchitecture
from kodkod_engine.layers.packed import Precisions, Slot
from kodkod_engine.models.checkpoint import Checkpoint, Progress, StoredTensor
from kodkod_engine.models.config import load_config
from kodkod_engine.models.converted import ConvertedFile, Manifest, read_manifest
from kodkod_engine.models.loading import MTP_PREFIX, build_model, require_parts, stored_dtype
from kodkod_engine.models.longcat_flash import LongcatFlash, Slots
from kodkod_engine.models.mtp import MtpBlock
from kodkod_engine.models.packing import pack_model
from kodkod_engine.models.safetensors_writer import (
    CHUNK_BYTES,
    PART_SUFFIX,
    PlannedTensor,
    SafetensorsWriter,
    disk_full_message,
    file_bytes,
)
from kodkod_engine.only_writer import only_writer

TEXTS_BYTES = 1 << 24
"""Room for config, tokenizer and manifest."""
COPIED_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "generation_config.json",
    "kodkod.json",
    "ngram_head.safetensors",
)


@dataclass(frozen=True, slots=True)
class WeightFile:
    """A file to make of a part of the model."""

    name: str
    owners: tuple[tuple[str, nn.Module], ...]
    """Modules with parameters of their own, and their names with a dot behind."""
    slots: Callable[[], Slots]
    """What of the checkpoint goes into the part."""

    def tensors(self) -> list[PlannedTensor]:
        """What it will hold, owner by owner."""
        return [
            PlannedTensor(prefix + name, parameter.dtype, tuple(parameter.shape))
            for prefix, owner in self.owners
            for name, parameter in owner.named_parameters(recurse=False)
        ]


@dataclass(frozen=True, slots=True)
class TableFile:
    """A file to make of one N-gram table, as it is."""

    name: str
    table: StoredTensor

    def tensors(self) -> list[PlannedTensor]:
        """What it will hold."""
        return [PlannedTensor(part.name, part.dtype, part.shape) for part in self.parts]

    @property
    def parts(self) -> list[StoredTensor]:
        """The table, and its scales where it is in FP8."""
        return [self.table] if self.table.scales is None else [self.table, self.table.scales]


def convert(source: Path, target: Path, precisions: Precisions, progress: Progress | None = None) -> Manifest:
    """Write the converted checkpoint, or what is left of it to write.

    Args:
        progress: called with (bytes written, bytes in all).

    Raises:
        CheckpointError: the source cannot be used, or the target holds something else.
        FolderBusy: another process converts to the target.
        DiskFull: not enough room, found out before or while writing; what is finished stays.
        EngineError: the target cannot be written.
    """
    config = load_config(source)
    if read_manifest(source) is not None:
        raise UnknownArchitecture(f"{source} is converted already; give the published checkpoint that it was made from")
    checkpoint = Checkpoint(source)
    require_parts(config, checkpoint, is_converted=False)
    dtype = stored_dtype(checkpoint)
    has_mtp = any(name.startswith(MTP_PREFIX) for name in checkpoint.tensors)
    model, mtp = build_model(config, with_mtp=has_mtp, dtype=dtype, activation_dtype=torch.float32, device="meta")
    pack_model(model, mtp, precisions)
    checkpoint.check(dict(chain(model.checkpoint_slots(), mtp.checkpoint_slots() if mtp else ())))
    files: list[WeightFile | TableFile] = [*plan_weight_files(model, mtp), *_table_files(checkpoint)]
    with _told_of(target):
        target.mkdir(parents=True, exist_ok=True)
        with only_writer(target):
            manifest = _begin(source, target, checkpoint, precisions, has_mtp)
            names = {file.name for file in files}
            manifest.files = {name: file for name, file in manifest.files.items() if name in names}
            for file in files:  # of a run that was cut off: made anew, and its room counts
                (target / f"{file.name}{PART_SUFFIX}").unlink(missing_ok=True)
            _require_room(target, files, manifest)
            _copy_texts(source, target)
            return _write_files(target, files, manifest, checkpoint, progress)


@contextmanager
def _told_of(target: Path) -> Iterator[None]:
    """Faults of the disk as one line."""
    try:
        yield
    except OSError as fault:
        if fault.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(disk_full_message(target, TEXTS_BYTES)) from fault
        way_out = "allow it, or give" if fault.errno in (errno.EACCES, errno.EPERM) else "give"
        raise EngineError(f"{fault.filename or target}: {fault.strerror}; {way_out} another folder") from fault


def _write_files(
    target: Path,
    files: Sequence[WeightFile | TableFile],
    manifest: Manifest,
    checkpoint: Checkpoint,
    progress: Progress | None,
) -> Manifest:
    done, total = 0, sum(file_bytes(file.tensors()) for file in files)

    def tell(num_bytes: int) -> None:
        if progress is not None:
            progress(done + num_bytes, total)

    for file in files:
        if not _is_done(target, file.name, manifest):
            manifest.files[file.name] = _write(target / file.name, file, checkpoint, tell)
            manifest.save(target)
        tell(manifest.files[file.name].num_bytes)
        done += manifest.files[file.name].num_bytes
    manifest.is_complete = True
    manifest.save(target)
    return manifest


def _begin(source: Path, target: Path, checkpoint: Checkpoint, precisions: Precisions, has_mtp: bool) -> Manifest:
    wanted = Manifest(
        source=fingerprint(source, checkpoint),
        experts=precisions.experts,
        attention=precisions.attention,
        dense=precisions.dense,
        head=precisions.head,
        has_mtp=has_mtp,
    )
    found = read_manifest(target)
    if found is None:
        if any((target / name).exists() for name in ("config.json", *COPIED_FILES)) or any(
            target.glob("*.safetensors")
        ):
            raise CheckpointCorrupt(f"{target} holds another checkpoint, or files of one; give an empty folder")
        wanted.save(target)
        return wanted
    if found.model_copy(update={"files": {}, "is_complete": False}) != wanted:
        raise CheckpointCorrupt(
            f"{target} was begun from another checkpoint or precision (its experts are in {found.experts}); "
            "give an empty folder"
        )
    return found


def fingerprint(source: Path, checkpoint: Checkpoint) -> str:
    """Tells checkpoints apart by config, names, shapes, dtypes and sizes, without reading weights."""
    facts = [
        [tensor.name, tensor.dtype_name, tensor.shape, tensor.file.name, tensor.offset, tensor.file.stat().st_size]
        for tensor in sorted(checkpoint.tensors.values(), key=lambda tensor: tensor.name)
    ]
    text = (source / "config.json").read_bytes() + json.dumps(facts).encode()
    return hashlib.sha256(text).hexdigest()


def plan_weight_files(model: LongcatFlash, mtp: MtpBlock | None) -> Iterator[WeightFile]:
    """Everything but the tables: a file for each layer, one for what is before and after them, one for drafts."""
    if model.embedding is not None:
        model.embedding.resident = None  # the tables have files of their own
    for index, layer in enumerate(model.dual_layers):
        slots = partial(layer.checkpoint_slots, f"model.layers.{index}.")
        yield WeightFile(f"layer-{index:02d}.safetensors", _owners(layer, f"layers.{index}."), slots)
    ends = tuple((name, owner) for name, owner in _owners(model, "") if not name.startswith("layers."))
    yield WeightFile("ends.safetensors", ends, model.checkpoint_slots)
    if mtp is not None:
        yield WeightFile("mtp.safetensors", _owners(mtp, "mtp."), mtp.checkpoint_slots)


def _owners(part: nn.Module, prefix: str) -> tuple[tuple[str, nn.Module], ...]:
    return tuple(
        (f"{prefix}{name}." if name else prefix, module) for name, module in part.named_modules() if module._parameters
    )


def _table_files(checkpoint: Checkpoint) -> Iterator[TableFile]:
    tables = [tensor for name, tensor in checkpoint.tensors.items() if ".embedders." in name]
    for table in sorted(tables, key=lambda tensor: int(tensor.name.split(".")[3])):
        yield TableFile(f"table-{int(table.name.split('.')[3]):02d}.safetensors", table)


def _require_room(target: Path, files: list[WeightFile | TableFile], manifest: Manifest) -> None:
    left = sum(file_bytes(file.tensors()) for file in files if not _is_done(target, file.name, manifest))
    missing = left - shutil.disk_usage(target).free
    if missing > 0:
        raise DiskFull(disk_full_message(target, missing))


def _is_done(target: Path, name: str, manifest: Manifest) -> bool:
    known, path = manifest.files.get(name), target / name
    return known is not None and path.is_file() and path.stat().st_size == known.num_bytes


def _write(
    path: Path, file: WeightFile | TableFile, checkpoint: Checkpoint, tell: Callable[[int], None]
) -> ConvertedFile:
    tensors = file.tensors()
    with SafetensorsWriter(path, tensors, tell) as writer:
        if isinstance(file, TableFile):
            for part in file.parts:
                _copy(writer, part)
        else:
            _write_weights(writer, file, checkpoint)
    return ConvertedFile(num_bytes=file_bytes(tensors), sha256=writer.sha256)


def _copy(writer: SafetensorsWriter, stored: StoredTensor) -> None:
    left = stored.num_bytes
    with stored.file.open("rb", buffering=0) as handle:
        handle.seek(stored.offset)
        while left:
            try:
                chunk = handle.read(min(CHUNK_BYTES, left))
            except OSError as fault:
                raise CheckpointCorrupt(f"{stored.file}: {fault.strerror} while reading; check the disk") from fault
            if not chunk:
                raise CheckpointCorrupt(f"{stored.file}: ended inside {stored.name}; truncated, fetch it again")
            writer.write(chunk)
            left -= len(chunk)


def _write_weights(writer: SafetensorsWriter, file: WeightFile, checkpoint: Checkpoint) -> None:
    """One owner of parameters at a time gets memory, is filled, written and emptied again."""
    for _, owner in file.owners:
        owner.to_empty(device="cpu", recurse=False)
        filled: dict[str, Slot] = {name: slot for name, slot in file.slots() if not slot.is_meta}
        checkpoint.load_into(filled)
        for parameter in owner.parameters(recurse=False):
            writer.write_tensor(parameter)
        owner.to_empty(device="meta", recurse=False)


def _copy_texts(source: Path, target: Path) -> None:
    """Config and tokenizer; the config loses what told of the source's own quantisation."""
    values = json.loads((source / "config.json").read_text(encoding="utf-8"))
    values.pop("quantization_config", None)
    (target / "config.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    for name in COPIED_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
