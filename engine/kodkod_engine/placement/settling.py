"""What nobody said of where a model goes, decided by the plan before it is loaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from kodkod_engine.config import USUAL_CACHED_TOKENS, EngineConfig
from kodkod_engine.models.config import load_config
from kodkod_engine.placement.admission import StoredAs, require_device, require_room, sizes_of, stored_as
from kodkod_engine.placement.choosing import best_of, fits
from kodkod_engine.placement.machine import GIB, Machine, this_machine
from kodkod_engine.placement.plan import PLANNED_CONTEXT_TOKENS, Placement, placement_of, placements
from kodkod_engine.placement.sizes import PartSizes

LARGE_CACHED_TOKENS = 131_072
"""Of a GPU with room for them: several long sessions side by side."""
SMALL_BYTES = 1.0 * GIB
"""Up to here a step is quick enough on a processor, and nothing has to be planned."""


def settled(folder: Path, options: EngineConfig) -> tuple[EngineConfig, Placement | None]:
    """The options with everything decided that was left open; and the placement, where the plan decided it.

    Args:
        folder: the checkpoint.
        options: what was said holds; the plan chooses among what agrees with it (see `planned`).

    Raises:
        CheckpointError: the folder cannot be used.
        EngineError: the device cannot be used, or what was said cannot be together.
        NotEnoughMemory: says by how much, and what would fit.
    """
    if options.device != "auto":
        require_device(options.device)
    config = load_config(folder)
    stored = stored_as(folder, config)
    sizes = sizes_of(config, stored, options)
    is_decided = options.is_settled or _is_small(sizes)
    placement = None if is_decided else planned(sizes, stored, this_machine(folder, options.device), options)
    if placement is not None:
        options = _as_planned(options, placement, stored.precision)
    else:
        options = _unplanned(options, USUAL_CACHED_TOKENS if is_decided else PLANNED_CONTEXT_TOKENS)
    require_room(folder, options, stored)
    return options, placement


def planned(sizes: PartSizes, stored: StoredAs, machine: Machine, options: EngineConfig) -> Placement | None:
    """Where a model goes when no more is said: whole on the GPU or, where there is none that it fits or it is small, on
    the processor, as precise as it is stored; where that does not fit, what `choosing.best_of` says.

    The cache is of the usual size; larger where a GPU has room, smaller where nothing fits beside it.

    Returns:
        None where nothing fits that can be loaded as it is and agrees with the options.
    """
    if options.max_cached_tokens is not None:
        return _best(sizes, stored, machine, options)
    for tokens in (USUAL_CACHED_TOKENS, PLANNED_CONTEXT_TOKENS):
        best = _best(sizes, stored, machine, replace(options, max_cached_tokens=tokens))
        if best is not None:
            return _with_larger_cache(best, sizes, machine)
    return None


def _best(sizes: PartSizes, stored: StoredAs, machine: Machine, options: EngineConfig) -> Placement | None:
    converted = stored.precision if stored.is_converted else None
    every = placements(sizes, machine, options.cached_tokens, converted, options.pinned_expert_layers)
    able = [one for one in every if _agrees(one, options) and not one.needs_conversion and fits(one, machine)]
    if _is_small(sizes) and options.device == "auto":
        able = [one for one in able if one.device == "cpu"]
    fits_gpu = any(one.device == "gpu" for one in able)
    as_stored = [
        one
        for one in able
        if one.precision == stored.precision and not one.pinned_expert_layers and (one.device == "gpu") == fits_gpu
    ]
    return best_of(as_stored or able, machine, stored.precision) if able else None


def _with_larger_cache(placement: Placement, sizes: PartSizes, machine: Machine) -> Placement:
    """On a GPU with room for it; a processor would take hours to fill one."""
    if placement.device != "gpu" or placement.pinned_expert_layers:
        return placement
    way = placement.device, placement.precision, placement.weights, placement.tables
    larger = placement_of(sizes, machine, LARGE_CACHED_TOKENS, *way)
    return replace(larger, is_converted=placement.is_converted) if fits(larger, machine) else placement


def _is_small(sizes: PartSizes) -> bool:
    return sizes.kept_bytes("bf16") + sizes.table_bytes < SMALL_BYTES


def _agrees(placement: Placement, options: EngineConfig) -> bool:
    """Whether it is what was said; whoever names a dtype wants numbers of it."""
    planned = placement.options
    precision = options.precision or (None if options.dtype is None else "bf16")
    homes = ((options.weights, planned["weights"]), (options.ngram_tables, planned["ngram_tables"]))
    return (
        options.device.split(":")[0] in ("auto", str(planned["device"]).split(":")[0])
        and precision in (None, planned["precision"])
        and all(said in ("auto", home) for said, home in homes)
        and options.pinned_expert_layers in (None, placement.pinned_expert_layers)
    )


def _as_planned(options: EngineConfig, placement: Placement, stored_precision: str) -> EngineConfig:
    planned: dict[str, Any] = {"pinned_expert_layers": 0, **placement.options}
    planned["max_cached_tokens"] = placement.context_tokens
    if options.device != "auto":
        planned["device"] = options.device  # of several devices, one
    if placement.precision == stored_precision:
        planned["precision"] = options.precision  # part by part as it is stored
    return replace(options, **planned)


def _unplanned(options: EngineConfig, cached_tokens: int) -> EngineConfig:
    """On the processor and in memory, but for what was said."""
    usual: dict[str, Any] = {"device": "cpu", "weights": "resident", "ngram_tables": "resident"}
    usual |= {"pinned_expert_layers": 0, "max_cached_tokens": cached_tokens}
    still = {name: value for name, value in usual.items() if getattr(options, name) in ("auto", None)}
    return replace(options, **still)
