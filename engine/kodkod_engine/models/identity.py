"""What the numbers of a model depend on, as a short name: for what is kept of them on disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

from kodkod_engine.models.loading import LoadedModel

METHOD = 1
"""Of computing keys and values; to be raised when they come out otherwise by more than rounding."""

NUM_SAMPLES, SAMPLE_BYTES = 8, 4096
"""Of each file, evenly over its length: unpacked archives may give all files one time, and relatives have one size."""


def identity_of(checkpoint_dir: Path, loaded: LoadedModel) -> str:
    """The same for the same files, loaded in the same way.

    Files are told apart by name, size, time of change, and samples of what is in them.
    """
    how = (METHOD, loaded.dtype, loaded.activation_dtype, loaded.precisions, loaded.num_cache_layers)
    digest = blake2b(repr(how).encode(), digest_size=12)
    for path in sorted(checkpoint_dir.iterdir()):
        if path.suffix in (".json", ".safetensors") and path.is_file():
            with suppress(OSError):  # the model was loaded without it
                digest.update(_facts(path))
    return digest.hexdigest()


def _facts(path: Path) -> bytes:
    stat = path.stat()
    return repr((path.name, stat.st_size, stat.st_mtime_ns)).encode() + b"".join(_samples(path, stat.st_size))


def _samples(path: Path, num_bytes: int) -> Iterator[bytes]:
    last = max(0, num_bytes - SAMPLE_BYTES)
    with path.open("rb") as file:
        for number in range(NUM_SAMPLES):
            file.seek(last * number // (NUM_SAMPLES - 1))
            yield file.read(SAMPLE_BYTES)
