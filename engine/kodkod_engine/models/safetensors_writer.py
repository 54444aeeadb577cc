"""Writing a safetensors file piece by piece: its header is known before its bytes are, and it is hashed as it goes.

A file appears under its name when it is whole and on the disk; until then it is called `NAME.part`.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from kodkod_engine.errors import DiskFull

DTYPE_NAMES = {
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.uint8: "U8",
    torch.int8: "I8",
}
ALIGNMENT = 64
CHUNK_BYTES = 16 * 1024**2
PART_SUFFIX = ".part"


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """What a file will hold."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """In the file."""
        return math.prod(self.shape) * self.dtype.itemsize


def header_bytes(tensors: Sequence[PlannedTensor]) -> bytes:
    """Length and header, padded so that the data begins at a multiple of `ALIGNMENT`."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in tensors:
        ends = [offset, offset + tensor.num_bytes]
        header[tensor.name] = {
            "dtype": DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": ends,
        }
        offset = ends[1]
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def file_bytes(tensors: Sequence[PlannedTensor]) -> int:
    """Size of the file."""
    return len(header_bytes(tensors)) + sum(tensor.num_bytes for tensor in tensors)


class SafetensorsWriter:
    """Writes the planned tensors in their order; a context manager, left without a fault when all are written."""

    def __init__(self, path: Path, tensors: Sequence[PlannedTensor], tell: Callable[[int], None] | None = None) -> None:
        """Begin `path`.part anew.

        Args:
            tell: called with the bytes written so far, while it is written.

        Raises:
            DiskFull: no room; says how much is missing.
        """
        self.path, self._part = path, path.with_name(path.name + PART_SUFFIX)
        self._left = self._total = file_bytes(tensors)
        self._tell = tell
        self._hash = hashlib.sha256()
        self._file = self._part.open("wb", buffering=0)
        self.write(header_bytes(tensors))

    @property
    def sha256(self) -> str:
        """Of what was written so far."""
        return self._hash.hexdigest()

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes.

        Raises:
            DiskFull: no room; says how much of this file is missing.
        """
        view = memoryview(data).cast("B")
        for start in range(0, len(view), CHUNK_BYTES):
            chunk = view[start : start + CHUNK_BYTES]
            self._write_all(chunk)
            self._hash.update(chunk)
            if self._tell is not None:
                self._tell(self._total - self._left)

    def write_tensor(self, tensor: Tensor) -> None:
        """Append a tensor's values."""
        self.write(memoryview(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data))

    def _write_all(self, chunk: memoryview) -> None:
        while chunk:
            try:
                count = self._file.write(chunk)
            except OSError as fault:
                if fault.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                missing = self._left - shutil.disk_usage(self.path.parent).free
                raise DiskFull(disk_full_message(self.path, missing if missing > 0 else self._left)) from fault
            self._left -= count
            chunk = chunk[count:]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                assert self._left == 0, f"{self._left} bytes of {self.path} were not written"
                os.fsync(self._file.fileno())
        finally:
            self._file.close()
        if kind is None:
            self._part.replace(self.path)
        else:
            self._part.unlink(missing_ok=True)  # it is made anew; on a full disk its room is wanted


def disk_full_message(path: Path, missing: int) -> str:
    """One line: the cause and a way out."""
    return f"{path}: the disk is full, {missing / 1e9:.2f} GB more are needed; make room and run the same command again"
