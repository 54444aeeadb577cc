"""Files of KV by content: a segment is named after its tokens and all before them.

So whoever has the tokens finds the file, sessions that begin alike share it, and nothing has to be kept in step.

FOLDER/
  MODEL/         one folder per model and way of computing it
    KEY          check sum, then the latents of `SEGMENT_TOKENS` tokens, all cache layers
"""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import threading
import time
import zlib
from array import array
from collections.abc import Iterator, Sequence
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger(__name__)

SEGMENT_TOKENS = 16
"""Half a MiB or one for LongCat-Flash-Lite; what is left of a prefix at its end is computed anew."""

TOUCH_S = 3_600.0
"""A segment that is in use is marked so at most this often."""

MIN_FREE_BYTES = 1 << 30
"""Of the disk, below which nothing more is written: it belongs to others."""

KEPT_AFTER_PRUNING = 0.9
_CHECK_BYTES = 8
_MODEL, _SEGMENT = re.compile(r"[0-9a-f]{24}"), re.compile(r"\.?[0-9a-f]{32}(?=\.|$)")
"""Names of ours. Whoever names a folder that has other things in it loses none of them."""


def next_key(key: bytes, token_ids: Sequence[int]) -> bytes:
    """The key of a segment behind another, which is empty for the first."""
    return blake2b(array("q", token_ids).tobytes(), key=key, digest_size=16).digest()


def keys_of(token_ids: Sequence[int]) -> Iterator[bytes]:
    """The keys of all whole segments of a prefix, in order."""
    key = b""
    for start in range(0, len(token_ids) - SEGMENT_TOKENS + 1, SEGMENT_TOKENS):
        key = next_key(key, token_ids[start : start + SEGMENT_TOKENS])
        yield key


class SegmentFolder:
    """The segments of one model, among those of others. Faults of the disk are `OSError`, but when reading."""

    def __init__(self, root: Path, model: str, max_bytes: int) -> None:
        """Nothing is made before something is written.

        Args:
            root: of all models.
            model: whatever the numbers depend on, as the name of a folder: 24 hexadecimal digits.
            max_bytes: of all models together; those that were not used for the longest time go first.
        """
        self._root = root
        self._folder = root / model
        self._max_bytes = max_bytes
        self._num_bytes: int | None = None
        self._seen_s: dict[bytes, float] = {}
        """When a segment was last found to be there."""

    def has(self, key: bytes) -> bool:
        """Whether a segment is there, or was within the hour; it counts as used. Disks may be far away."""
        now_s = time.time()
        if now_s - self._seen_s.get(key, -TOUCH_S) < TOUCH_S:
            return True
        path = self._path(key)
        try:
            age_s = now_s - path.stat().st_mtime
        except OSError:
            return False
        if age_s > TOUCH_S:
            _touch(path)
        self._seen_s[key] = now_s
        return True

    def read(self, key: bytes) -> NDArray[np.uint8] | None:
        """A segment's bytes; None where it is gone or damaged, and then it is removed where it can be."""
        path = self._path(key)
        self._seen_s.pop(key, None)
        try:
            data = np.fromfile(path, np.uint8)
        except OSError:
            return None
        if data[:_CHECK_BYTES].tobytes() != _check(data[_CHECK_BYTES:]):
            logger.warning("%s is damaged and is removed; its tokens are computed anew", path)
            with suppress(OSError):
                path.unlink(missing_ok=True)
            return None
        return data[_CHECK_BYTES:]

    def write(self, key: bytes, data: NDArray[np.uint8]) -> None:
        """Keep a segment: all of it or nothing, whatever happens to this process."""
        path = self._path(key)
        if not self._folder.is_dir():
            # The numbers tell of what was said: nobody else may read them.
            self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._folder.mkdir(exist_ok=True, mode=0o700)
        if shutil.disk_usage(self._folder).free < MIN_FREE_BYTES:
            raise OSError(errno.ENOSPC, f"less than {MIN_FREE_BYTES >> 30} GiB of the disk are free")
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
        try:
            with temporary.open("wb") as file:
                file.write(_check(data))
                file.write(data.data)
            temporary.replace(path)
        except OSError:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        self._grow(len(data) + _CHECK_BYTES)

    def touch(self, keys: Sequence[bytes]) -> None:
        """Mark segments of one prefix as used; the first ones stay longest, for the others need them."""
        for key in reversed(keys):
            _touch(self._path(key))

    def _path(self, key: bytes) -> Path:
        return self._folder / key.hex()

    def _grow(self, num_bytes: int) -> None:
        if self._num_bytes is None:
            self._num_bytes = sum(size for _, size, _ in _found(self._root))
        else:
            self._num_bytes += num_bytes
        if self._num_bytes > self._max_bytes:
            self._num_bytes = _prune(self._root, int(self._max_bytes * KEPT_AFTER_PRUNING))


def remove_prefix(root: Path, token_ids: Sequence[int]) -> int:
    """Remove what is kept of some tokens, with all models; others who begin alike compute theirs anew.

    Returns:
        Bytes that were freed.
    """
    names = [key.hex() for key in keys_of(token_ids)]
    freed = 0
    for model in _folders(root):
        for name in names:
            with suppress(OSError):
                freed += (model / name).stat().st_size
                (model / name).unlink()
    return freed


def kept_bytes(root: Path) -> int:
    """Of all models."""
    return sum(size for _, size, _ in _found(root))


def _check(data: NDArray[np.uint8]) -> bytes:
    """A check sum and the size: a file that was cut off, or whose pages never reached the disk, has others."""
    return zlib.crc32(data.data).to_bytes(4, "little") + (len(data) & 0xFFFFFFFF).to_bytes(4, "little")


def _touch(path: Path) -> None:
    with suppress(OSError):
        os.utime(path)


def _folders(root: Path) -> list[Path]:
    try:
        return [path for path in root.iterdir() if _MODEL.fullmatch(path.name) and path.is_dir()]
    except OSError:
        return []


def _found(root: Path) -> Iterator[tuple[float, int, Path]]:
    """Every segment, and what is left of one, with when it was last used and its size; of other files none."""
    for folder in _folders(root):
        with suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                with suppress(OSError):
                    stat = entry.stat(follow_symlinks=False)
                    if _SEGMENT.match(entry.name):
                        yield stat.st_mtime, stat.st_size, Path(entry.path)


def _prune(root: Path, wanted_bytes: int) -> int:
    """Remove the oldest files until no more than so many bytes are left; how many are."""
    files = sorted(_found(root))
    left = sum(size for _, size, _ in files)
    for _, size, path in files:
        if left <= wanted_bytes:
            break
        with suppress(OSError):
            path.unlink()
        left -= size
    return left
