"""Whether a model may be loaded as asked: looked at before memory is taken."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from kodkod_engine.config import EngineConfig
from kodkod_engine.errors import CheckpointError, EngineError
from kodkod_engine.models.config import ModelConfig, load_config
from kodkod_engine.models.converted import read_manifest
from kodkod_engine.models.loading import open_stored
from kodkod_engine.placement.choosing import require_memory
from kodkod_engine.placement.machine import (
    MIN_COMPUTE_CAPABILITY,
    MIN_COMPUTE_CAPABILITY_FOR_FP8,
    Gpu,
    Machine,
    available_bytes,
    find_gpu,
)
from kodkod_engine.placement.plan import Placement, placement_of
from kodkod_engine.placement.sizes import PartSizes, part_sizes


def require_device(device: str) -> None:
    """That the device is there and new enough.

    Raises:
        EngineError: it is not; says what there is.
    """
    if device == "cpu":
        return
    if not re.fullmatch(r"cuda(:\d+)?", device):
        raise EngineError(f"device {device}: the engine computes on auto, cpu, cuda, or one of several as cuda:1")
    gpu = find_gpu(device)
    if gpu is None:
        raise EngineError(f"device {device}: torch finds no CUDA device of that name here; use device cpu")
    if not gpu.is_supported:
        raise EngineError(f"{_falls_short(gpu, 'the engine', MIN_COMPUTE_CAPABILITY)}; use device cpu")


def _falls_short(gpu: Gpu, who: str, need: tuple[int, int]) -> str:
    have, wanted = (".".join(map(str, pair)) for pair in (gpu.compute_capability, need))
    return f"{gpu.name} has compute capability {have}, {who} needs {wanted}"


def require_room(folder: Path, options: EngineConfig, stored: StoredAs | None = None) -> None:
    """That device and memory suffice for a checkpoint with settled options.

    Args:
        folder: the checkpoint.
        options: with nothing left open.
        stored: what its files are, where that is known.

    Raises:
        EngineError: the device cannot be used, or cannot read what is meant for it.
        NotEnoughMemory: says by how much, and what would fit.
    """
    require_device(options.device)
    config = load_config(folder)
    stored = stored or stored_as(folder, config)
    precision = options.precision or stored.precision
    _require_readable(options, precision, config)
    machine = Machine(
        available_bytes(), 1.0, 0.0, find_gpu(options.device) if options.device.startswith("cuda") else None
    )
    if machine.gpu is not None and not machine.gpu.reads(precision):
        short = _falls_short(machine.gpu, precision.upper(), MIN_COMPUTE_CAPABILITY_FOR_FP8)
        raise EngineError(f"{short}; name another precision, int8 or int4, or use device cpu")
    asked = asked_placement(stored, config, options, machine)
    require_memory(sizes_of(config, stored, options), asked, machine, options.cached_tokens)


def _require_readable(options: EngineConfig, precision: str, config: ModelConfig) -> None:
    """That what is pinned or mapped is read by a device that can."""
    layers, is_on_gpu = options.pinned_expert_layers or 0, options.device.startswith("cuda")
    if options.weights == "mapped" and is_on_gpu:
        raise EngineError(f"mapped weights are read by the processor; with device {options.device} use resident ones")
    if options.ngram_tables == "pinned" and not is_on_gpu:
        raise EngineError(f"pinned N-gram tables are read by a CUDA device; with device {options.device} use mapped")
    if layers and not is_on_gpu:
        raise EngineError(
            f"pinned experts are read by a CUDA device; with device {options.device} use pinned_expert_layers 0"
        )
    if layers and precision == "bf16":
        raise EngineError("pinned experts are read packed; name a precision with them: int4, int8 or fp8")
    if layers > config.num_layers:
        raise EngineError(f"pinned_expert_layers {layers}: the model has {config.num_layers} layers")


@dataclass(frozen=True, slots=True)
class StoredAs:
    """What a plan has to know of a checkpoint's files."""

    precision: str
    value_bytes: float
    """Of a weight that is not packed."""
    has_draft: bool
    """Whether there is a draft block."""
    is_converted: bool


def stored_as(folder: Path, config: ModelConfig) -> StoredAs:
    """How a checkpoint's weights are stored; what its config says where they are not here, or not whole.

    Raises:
        CheckpointCorrupt: its manifest cannot be read.
    """
    manifest = read_manifest(folder)
    precision = str(manifest.experts) if manifest else config.stored_precision
    try:
        model = open_stored(folder)
    except CheckpointError:  # what is wrong is told when it is loaded; the published one has a draft block
        return StoredAs(precision, 2.0, config.ngram is not None, manifest is not None)
    return StoredAs(precision, float(model.dtype.itemsize), model.has_mtp, manifest is not None)


def sizes_of(config: ModelConfig, stored: StoredAs, options: EngineConfig) -> PartSizes:
    """The parts as these options load them."""
    asked = {None: stored.value_bytes, "float32": 4.0}.get(options.dtype, 2.0)
    return part_sizes(config, asked, with_draft=stored.has_draft if options.mtp is None else options.mtp)


def asked_placement(stored: StoredAs, config: ModelConfig, options: EngineConfig, machine: Machine) -> Placement:
    """The placement that settled options stand for."""
    tables = options.ngram_tables if config.ngram else "none"
    placement = placement_of(
        sizes_of(config, stored, options),
        machine,
        options.cached_tokens,
        "gpu" if options.device.startswith("cuda") else "cpu",
        options.precision or stored.precision,
        options.weights,
        tables,
        options.pinned_expert_layers or 0,
    )
    return replace(placement, is_converted=stored.is_converted)
