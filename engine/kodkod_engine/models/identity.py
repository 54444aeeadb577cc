"""What the numbers of a model depend on, as a short name: for what is kept of them on disk."""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path

from kodkod_engine.models.loading import LoadedModel

METHOD = 1
"""Of computing keys and values; to be raised when they come out otherwise by more than rounding."""


def identity_of(checkpoint_dir: Path, loaded: LoadedModel) -> str:
    """The same for the same files, loaded in the same way; files are told apart by name, size and time of change."""
    how = (METHOD, loaded.dtype, loaded.activation_dtype, loaded.precisions, loaded.num_cache_layers)
    digest = blake2b(repr(how).encode(), digest_size=12)
    for path in sorted(checkpoint_dir.iterdir()):
        if path.suffix in (".json", ".safetensors"):
            stat = path.stat()
            digest.update(repr((path.name, stat.st_size, stat.st_mtime_ns)).encode())
    return digest.hexdigest()
