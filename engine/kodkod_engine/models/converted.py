"""Converted checkpoints: the engine's own layout, one tensor per weight as the model holds it.

A folder has the model's `config.json`, the tokenizer's files, the weights as `layer-00.safetensors` and so on, the
N-gram tables under their published names, and `converted.json`: what was made from what, and each file's size and hash.
Because a tensor lies in its file as in memory, weights can be mapped instead of read.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from kodkod_engine.errors import CheckpointCorrupt, CheckpointMissing
from kodkod_engine.layers.packed import Precision, Precisions
from kodkod_engine.models.checkpoint import Progress

MANIFEST_NAME = "converted.json"
FORMAT = 1
HASH_CHUNK_BYTES = 8 * 1024**2


class ConvertedFile(BaseModel):
    """One file of a converted checkpoint."""

    model_config = ConfigDict(frozen=True)

    num_bytes: int
    sha256: str


class Manifest(BaseModel):
    """`converted.json`."""

    format: int = FORMAT
    source: str
    """Hash of what it is made from: config, names, shapes and sizes."""
    experts: Precision
    attention: Precision
    dense: Precision
    head: Precision
    has_mtp: bool
    is_complete: bool = False
    files: dict[str, ConvertedFile] = {}

    @property
    def precisions(self) -> Precisions:
        """Of each part."""
        return Precisions(self.experts, self.attention, self.dense, self.head)

    def save(self, folder: Path) -> None:
        """Write it in one step: a reader sees the old one or the new one."""
        part = folder / f"{MANIFEST_NAME}.part"
        part.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")
        part.replace(folder / MANIFEST_NAME)


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a converted checkpoint; None when the folder is not one.

    Raises:
        CheckpointCorrupt: it cannot be read, or is of a later format.
    """
    path = folder / MANIFEST_NAME
    if not path.exists():
        return None
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except OSError as fault:
        raise CheckpointCorrupt(
            f"{path}: {fault.strerror}; allow it to be read, or convert the checkpoint again"
        ) from fault
    except ValidationError as fault:
        raise CheckpointCorrupt(f"{path}: not a manifest; convert the checkpoint again, to an empty folder") from fault
    if manifest.format != FORMAT:
        raise CheckpointCorrupt(
            f"{path}: format {manifest.format}, this version reads {FORMAT}; convert again, to an empty folder"
        )
    return manifest


def require_complete(folder: Path, manifest: Manifest) -> None:
    """That every file is there at its size; hashes are left to `verify`.

    Raises:
        CheckpointMissing: conversion was not finished, or a file is gone.
        CheckpointCorrupt: a file has another size.
    """
    if not manifest.is_complete:
        raise CheckpointMissing(f"{folder}: conversion was not finished; run the same `kodkod convert` again")
    for name, file in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointMissing(f"{path} is missing; run the same `kodkod convert` again")
        if path.stat().st_size != file.num_bytes:
            raise CheckpointCorrupt(
                f"{path}: {path.stat().st_size:,} bytes of {file.num_bytes:,}; remove it and convert again"
            )


def require_sound(folder: Path, manifest: Manifest, progress: Progress | None = None) -> None:
    """That every file has its recorded hash; reads all of them.

    Raises:
        CheckpointCorrupt: one differs, or is gone.
    """
    done, total = 0, sum(file.num_bytes for file in manifest.files.values())
    for name, file in manifest.files.items():
        if file_sha256(folder / name) != file.sha256:
            raise CheckpointCorrupt(f"{folder / name}: not what was written; remove it and convert again")
        done += file.num_bytes
        if progress is not None:
            progress(done, total)


def file_sha256(path: Path) -> str:
    """Hash of a file's bytes; of none when it is not there."""
    digest = hashlib.sha256()
    if path.is_file():
        with path.open("rb", buffering=0) as handle:
            while chunk := handle.read(HASH_CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()
