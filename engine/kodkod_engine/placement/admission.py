"""Whether a model may be loaded as asked: looked at before memory is taken."""

from __future__ import annotations

import re
from pathlib import Path

from kodkod_engine.config import EngineConfig
from kodkod_engine.errors import EngineError
from kodkod_engine.models.config import ModelConfig, load_config
from kodkod_engine.models.converted import read_manifest
from kodkod_engine.placement.machine import MIN_COMPUTE_CAPABILITY, Machine, available_bytes, find_gpu
from kodkod_engine.placement.plan import Placement, placement_of, require_memory
from kodkod_engine.placement.sizes import part_sizes


def require_device(device: str) -> None:
    """That the device is there and new enough.

    Raises:
        EngineError: it is not; says what there is.
    """
    if device == "cpu":
        return
    if not re.fullmatch(r"cuda(:\d+)?", device):
        raise EngineError(f"device {device}: the engine computes on cpu, cuda, or one of several as cuda:1")
    gpu = find_gpu()
    if gpu is None:
        raise EngineError(f"device {device}: torch finds no CUDA device here; use device cpu")
    if not gpu.is_supported:
        have, need = (".".join(map(str, pair)) for pair in (gpu.compute_capability, MIN_COMPUTE_CAPABILITY))
        raise EngineError(f"{gpu.name} has compute capability {have}, the engine needs {need}; use device cpu")


def require_room(folder: Path, options: EngineConfig) -> None:
    """That device and memory suffice for a checkpoint with these options.

    Raises:
        EngineError: the device cannot be used.
        NotEnoughMemory: says by how much, and what would fit.
    """
    require_device(options.device)
    if options.ngram_tables == "pinned" and not options.device.startswith("cuda"):
        raise EngineError(f"pinned N-gram tables are read by a CUDA device; with device {options.device} use mapped")
    config = load_config(folder)
    machine = Machine(available_bytes(), 1.0, 0.0, find_gpu() if options.device.startswith("cuda") else None)
    require_memory(part_sizes(config), asked_placement(folder, config, options, machine), machine)


def asked_placement(folder: Path, config: ModelConfig, options: EngineConfig, machine: Machine) -> Placement:
    """The placement that options stand for."""
    manifest = read_manifest(folder)
    precision = options.precision or (str(manifest.experts) if manifest else config.stored_precision)
    tables = options.ngram_tables if config.ngram else "none"
    return placement_of(
        part_sizes(config),
        machine,
        options.max_cached_tokens,
        "gpu" if options.device.startswith("cuda") else "cpu",
        precision,
        options.weights,
        tables,
    )
