"""Reading weights from safetensors files, straight to their home and precision.

Bytes go from the file into the tensor they belong to; only a tensor that changes its dtype or device passes through
a small staging buffer. So the host never holds a second copy of a model.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import torch
from pydantic import BaseModel, NonNegativeInt, TypeAdapter, ValidationError
from torch import Tensor

from kodkod_engine.errors import CheckpointCorrupt, CheckpointMissing, UnknownArchitecture
from kodkod_engine.kernels.packing import GROUP_SIZE, scaled_rows
from kodkod_engine.layers.packed import PackedMatrix, Slot

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
SCALE_SUFFIX = "weight_scale_inv"
STAGING_BYTES = 16 * 1024**2
MAX_HEADER_BYTES = 100 * 1024**2
MAX_NAMES_SHOWN = 3

TORCH_DTYPES: Mapping[str, torch.dtype] = {
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F8_E4M3": torch.float8_e4m3fn,
    "U8": torch.uint8,
    "I8": torch.int8,
}
"""Stored dtypes this engine reads."""


class _Index(BaseModel):
    weight_map: dict[str, str]


class _HeaderEntry(BaseModel):
    dtype: str
    shape: tuple[NonNegativeInt, ...]
    data_offsets: tuple[NonNegativeInt, NonNegativeInt]


_HEADER = TypeAdapter(dict[str, _HeaderEntry])

Progress = Callable[[int, int], None]
"""Called with (bytes read, bytes in all)."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where one tensor lies."""

    name: str
    file: Path
    dtype_name: str
    shape: tuple[int, ...]
    offset: int
    """First byte in the file."""
    num_bytes: int
    scales: StoredTensor | None = None
    """Of an FP8 matrix: a factor per block of 128 x 128 values, [out / 128, in / 128] rounded up."""

    @property
    def dtype(self) -> torch.dtype:
        """Raises UnknownArchitecture when this engine does not read the stored dtype."""
        if self.dtype_name not in TORCH_DTYPES:
            known = ", ".join(name for name, dtype in TORCH_DTYPES.items() if dtype.is_floating_point)
            raise UnknownArchitecture(
                f"{self.file}: {self.name} is stored as {self.dtype_name}; this engine reads {known}"
            )
        return TORCH_DTYPES[self.dtype_name]

    @property
    def fills_its_bytes(self) -> bool:
        """Whether shape and dtype account for the bytes; taken on trust for a dtype this engine does not read."""
        known = TORCH_DTYPES.get(self.dtype_name)
        return known is None or self.num_bytes == math.prod(self.shape) * known.itemsize

    def may_have(self, scales: StoredTensor) -> bool:
        """Whether they are of its blocks; numbers that need none were scaled already, or are not these."""
        is_packed = TORCH_DTYPES.get(self.dtype_name) in (None, torch.float8_e4m3fn)
        return is_packed and scales.shape == tuple(-(-size // GROUP_SIZE) for size in self.shape)


class Checkpoint:
    """The tensors of a checkpoint folder, whatever its shards are called and how they are cut."""

    def __init__(self, folder: str | Path, files: Sequence[str] | None = None) -> None:
        """Read the index and every header, no weights; `files` stands for the index.

        Raises:
            CheckpointMissing: no folder, no index, or a shard that is not there.
            CheckpointCorrupt: a file that is not safetensors, or shorter than its header says; a tensor in two files.
        """
        self.folder = Path(folder)
        self.tensors: dict[str, StoredTensor] = {}
        for shard in self._shards() if files is None else [self.folder / name for name in files]:
            for tensor in read_header(shard):
                self._add(tensor)
        self._join_scales()

    def _add(self, tensor: StoredTensor) -> None:
        known = self.tensors.setdefault(tensor.name, tensor)
        if known is not tensor:
            raise CheckpointCorrupt(
                f"{tensor.file}: {tensor.name} is in {known.file.name} too; remove the file that does not belong here, "
                "or fetch the checkpoint again"
            )

    def _join_scales(self) -> None:
        """Block scales belong to their matrices; they are no tensors of their own."""
        for name in [name for name in self.tensors if name.endswith(SCALE_SUFFIX)]:
            scales = self.tensors.pop(name)
            owner = self.tensors.get(name.removesuffix(SCALE_SUFFIX) + "weight")
            if owner is None or not owner.may_have(scales):
                raise CheckpointCorrupt(
                    f"{scales.file}: {name} fits no matrix in blocks of {GROUP_SIZE}; fetch it again"
                )
            self.tensors[owner.name] = replace(owner, scales=scales)

    def _shards(self) -> Sequence[Path]:
        if not self.folder.is_dir():
            raise CheckpointMissing(f"{self.folder}: no such folder; give the folder of a checkpoint")
        index = self.folder / INDEX_NAME
        if not index.exists():
            single = self.folder / SINGLE_NAME
            if single.exists():
                return [single]
            raise CheckpointMissing(
                f"{self.folder}: neither {INDEX_NAME} nor {SINGLE_NAME}; fetch the checkpoint again"
            )
        return self._indexed_shards(index)

    def _indexed_shards(self, index: Path) -> Sequence[Path]:
        try:
            shards = _Index.model_validate_json(index.read_bytes()).weight_map.values()
        except (OSError, ValidationError) as fault:
            raise CheckpointCorrupt(f"{index}: not a weight index; fetch the file again") from fault
        names = sorted(set(shards))
        missing = [name for name in names if not (self.folder / name).is_file()]
        if missing:
            raise CheckpointMissing(f"{self.folder}: {_some(missing)} missing; fetch the checkpoint again")
        return [self.folder / name for name in names]

    def check(self, expected: Mapping[str, Slot], *, ignored_prefixes: Sequence[str] = ()) -> None:
        """Compare with what a model wants: names, shapes, readable dtypes.

        Raises:
            CheckpointCorrupt: some are missing, extra or of the wrong shape; all kinds named in one line.
            UnknownArchitecture: one is stored in a dtype this engine does not read.
        """
        missing = [name for name in expected if name not in self.tensors]
        extra = [name for name in self.tensors if name not in expected and not name.startswith(tuple(ignored_prefixes))]
        wrong = [
            f"{name} is {list(self.tensors[name].shape)}, not {list(slot.shape)}"
            for name, slot in expected.items()
            if name in self.tensors and self.tensors[name].shape != tuple(slot.shape)
        ]
        faults = [
            f"{label}: {_some(names)}"
            for label, names in (("missing", missing), ("extra", extra), ("wrong shape", wrong))
            if names
        ]
        if faults:
            raise CheckpointCorrupt(f"{self.folder}: tensors {'; '.join(faults)}; config.json and weights do not match")
        for name in expected:
            stored, slot = self.tensors[name], expected[name]
            is_code = isinstance(slot, Tensor) and not slot.dtype.is_floating_point
            is_fp8 = isinstance(slot, Tensor) and slot.dtype == torch.float8_e4m3fn
            if (stored.dtype in (torch.uint8, torch.int8)) != is_code:
                raise UnknownArchitecture(
                    f"{stored.file}: {name} is stored as {stored.dtype_name}, which this engine does not read"
                )
            if is_fp8 and stored.dtype != torch.float8_e4m3fn:
                raise CheckpointCorrupt(f"{stored.file}: {name} is {stored.dtype_name}, not FP8; convert it again")
            if not is_fp8 and stored.dtype == torch.float8_e4m3fn and stored.scales is None:
                raise CheckpointCorrupt(f"{stored.file}: {name} is FP8 and has no {SCALE_SUFFIX}; fetch it again")

    def load_into(self, slots: Mapping[str, Slot], progress: Progress | None = None) -> None:
        """Fill every slot from its tensor, in the order of the files.

        Raises:
            CheckpointCorrupt: a file ended early, could not be read, or what is to be packed is no numbers.
        """
        stored = sorted((self.tensors[name] for name in slots), key=lambda tensor: (tensor.file, tensor.offset))
        total = sum(tensor.num_bytes for tensor in stored)
        done = 0
        for file, tensors in _by_file(stored):
            with _reading(file) as handle:
                for tensor in tensors:
                    _read_tensor(handle, tensor, slots[tensor.name])
                    done += tensor.num_bytes
                    if progress is not None:
                        progress(done, total)


def read_header(path: Path) -> list[StoredTensor]:
    """The tensors of one safetensors file.

    Raises:
        CheckpointCorrupt: not a safetensors file, or shorter than its header says.
    """
    fault = CheckpointCorrupt(f"{path}: not a whole safetensors file; fetch it again")
    try:
        with _reading(path) as handle:
            size = path.stat().st_size
            base, entries = _parse_header(handle, size)
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as cause:
        raise fault from cause
    tensors = [_stored(name, entry, path, base) for name, entry in entries.items()]
    if not all(tensor.fills_its_bytes for tensor in tensors) or _overlap(tensors):
        raise fault
    end = max((tensor.offset + tensor.num_bytes for tensor in tensors), default=0)
    if end > size:
        raise CheckpointCorrupt(f"{path}: {size:,} bytes of {end:,}; truncated, fetch it again")
    return tensors


def _parse_header(handle: BinaryIO, size: int) -> tuple[int, dict[str, _HeaderEntry]]:
    """Where the tensors' bytes begin, and their entries; any of several errors when the file is something else."""
    header_bytes = int.from_bytes(handle.read(8), "little")
    if not 2 <= header_bytes <= min(MAX_HEADER_BYTES, size - 8):
        raise ValueError(f"a header of {header_bytes} bytes")
    header = json.loads(handle.read(header_bytes))
    header.pop("__metadata__", None)
    return 8 + header_bytes, _HEADER.validate_python(header)


def _overlap(tensors: Sequence[StoredTensor]) -> bool:
    """Whether two lie over each other: a header that says so was not written with these bytes."""
    ends = sorted((tensor.offset, tensor.offset + tensor.num_bytes) for tensor in tensors)
    return any(start < end for (_, end), (start, _) in pairwise(ends))


def _stored(name: str, entry: _HeaderEntry, path: Path, base: int) -> StoredTensor:
    start, stop = entry.data_offsets
    return StoredTensor(name, path, entry.dtype, entry.shape, base + start, stop - start)


def _by_file(tensors: Iterable[StoredTensor]) -> Iterator[tuple[Path, list[StoredTensor]]]:
    groups: dict[Path, list[StoredTensor]] = {}
    for tensor in tensors:
        groups.setdefault(tensor.file, []).append(tensor)
    yield from groups.items()


def _reading(path: Path) -> BinaryIO:
    try:
        return path.open("rb", buffering=0)
    except OSError as fault:
        raise CheckpointMissing(f"{path}: {fault.strerror}; check the disk or fetch the file again") from fault


def _read_tensor(handle: BinaryIO, stored: StoredTensor, slot: Slot) -> None:
    """Row by row through a staging buffer where dtype, device or layout differ, else straight into the slot."""
    handle.seek(stored.offset)
    if isinstance(slot, PackedMatrix):
        _read_rows(handle, stored, slot)
    elif slot.dtype == stored.dtype and slot.device.type == "cpu" and slot.is_contiguous():
        _read_exactly(handle, slot, stored)
    else:
        _read_rows(handle, stored, slot if slot.dim() > 1 else slot[:, None])
    if not isinstance(slot, PackedMatrix) and slot.dim() == 1:
        _require_numbers(slot, stored)


def _read_rows(handle: BinaryIO, stored: StoredTensor, rows: Slot) -> None:
    dtype, per_row = stored.dtype, math.prod(rows.shape[1:])
    rows_at_once = max(1, STAGING_BYTES // max(1, per_row * dtype.itemsize))
    if isinstance(rows, PackedMatrix):  # blocks of rows are packed whole
        rows_at_once = max(1, rows_at_once // rows.row_block) * rows.row_block
    staging = torch.empty((min(rows_at_once, rows.shape[0]), *rows.shape[1:]), dtype=dtype)
    scales = _read_scales(stored.scales) if stored.scales else None
    if isinstance(rows, PackedMatrix) and rows.is_fp8 and scales is not None:
        rows.copy_scales(scales)
        rows, scales = rows.codes, None  # as they are published
    first = 0
    for part in rows.split(rows_at_once):
        piece = staging[: part.shape[0]]
        _read_exactly(handle, piece, stored)
        part.copy_(piece if scales is None else scaled_rows(piece, scales, first + torch.arange(part.shape[0])))
        if isinstance(part, PackedMatrix):
            _require_numbers(part.scales, stored)
        first += part.shape[0]


def _require_numbers(some: Tensor, stored: StoredTensor) -> None:
    """Of a few that speak for many. Packing hides what is no number in codes that look like any other, and its scales
    still tell; a router's bias that is none is compared with numbers, and routes wrongly without a word.
    """
    if not bool(some.isfinite().all()):
        raise CheckpointCorrupt(f"{stored.file}: {stored.name} has values that are no finite numbers; fetch it again")


def _read_scales(stored: StoredTensor) -> Tensor:
    scales = torch.empty(stored.shape, dtype=stored.dtype)
    with _reading(stored.file) as handle:
        handle.seek(stored.offset)
        _read_exactly(handle, scales, stored)
    _require_numbers(scales.float(), stored)
    return scales.float()


def _read_exactly(handle: BinaryIO, target: Tensor, stored: StoredTensor) -> None:
    # A tensor of any dtype as writable bytes.
    view = memoryview(target.detach().reshape(-1).view(torch.uint8).numpy().data)
    while view:
        try:
            count = handle.readinto(view)  # type: ignore[attr-defined]  # raw binary files have it
        except OSError as fault:
            raise CheckpointCorrupt(
                f"{stored.file}: {fault.strerror} while reading {stored.name}; check the disk"
            ) from fault
        if not count:
            raise CheckpointCorrupt(f"{stored.file}: ended inside {stored.name}; truncated, fetch it again")
        view = view[count:]


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:MAX_NAMES_SHOWN])
    return shown if len(names) <= MAX_NAMES_SHOWN else f"{shown} and {len(names) - MAX_NAMES_SHOWN} more"
