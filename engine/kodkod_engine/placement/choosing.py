"""The choice among placements: which fit, which of them is best, and what to say where none does. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kodkod_engine.errors import NotEnoughMemory
from kodkod_engine.placement.machine import Machine
from kodkod_engine.placement.plan import PLANNED_CONTEXT_TOKENS, PRECISIONS, Placement, placements
from kodkod_engine.placement.sizes import PartSizes


def fits(placement: Placement, machine: Machine) -> bool:
    """Whether there is memory for it."""
    return missing_bytes(placement, machine) <= 0


def missing_bytes(placement: Placement, machine: Machine) -> float:
    """How much too little memory there is where it lacks most; negative when it fits."""
    on_device = placement.device_bytes - machine.gpu.free_bytes if machine.gpu else 0.0
    return max(placement.host_bytes - machine.host_bytes, on_device)


def choose(
    sizes: PartSizes,
    machine: Machine,
    context_tokens: int = PLANNED_CONTEXT_TOKENS,
    stored: str = "bf16",
    *,
    is_converted: bool = False,
) -> Placement:
    """The most precise placement that is comfortably fast, else the fastest; resident before mapped where equal.

    Args:
        sizes: of the model.
        machine: what there is.
        context_tokens: that the cache is to hold.
        stored: the checkpoint's own precision; nothing is more precise than that.
        is_converted: whether it is to be had in no other.

    Raises:
        NotEnoughMemory: none fits; says by how much and what would.
    """
    return best_of(list(placements(sizes, machine, context_tokens, stored if is_converted else None)), machine, stored)


def best_of(every: Sequence[Placement], machine: Machine, stored: str) -> Placement:
    """See `choose`; one that reads experts over the link is the last resort, for it is several times as slow.

    Raises:
        NotEnoughMemory: none of these fits.
    """
    fitting = [placement for placement in every if fits(placement, machine)]
    if not fitting:
        raise NotEnoughMemory(_shortage(every, machine))
    comfortable = [one for one in fitting if one.is_comfortable and not one.pinned_expert_layers]
    if comfortable:
        return max(comfortable, key=lambda one: (_merit(one.precision, stored), one.expected_tokens_per_s))
    return max(fitting, key=lambda one: one.expected_tokens_per_s)


def _merit(precision: str, stored: str) -> int:
    return 1 if precision == stored else -PRECISIONS.index(precision)


def _shortage(every: Sequence[Placement], machine: Machine) -> str:
    least = min(every, key=lambda placement: missing_bytes(placement, machine))
    missing = missing_bytes(least, machine)
    can_page = least.weights == "mapped" and least.least_host_bytes <= machine.host_bytes
    way_out = "; it loads all the same and is as slow as the disk" if can_page else ""
    return (
        f"not enough memory: the smallest placement ({least.precision}, {least.weights} weights, {least.tables} "
        f"tables) needs {missing / 1e9:.1f} GB more than the {machine.host_bytes / 1e9:.1f} GB there are; "
        f"close other programs{way_out}"
    )


def require_memory(
    sizes: PartSizes, asked: Placement, machine: Machine, context_tokens: int = PLANNED_CONTEXT_TOKENS
) -> None:
    """That a placement somebody asked for fits; the machine's rates do not matter.

    Args:
        sizes: of the model.
        asked: the placement, with a cache of so many tokens.
        machine: what there is.
        context_tokens: that the cache is to hold.

    Raises:
        NotEnoughMemory: it does not; says by how much, and what would.
    """
    missing = missing_bytes(replace(asked, host_bytes=asked.least_host_bytes), machine)
    if missing > 0:
        raise NotEnoughMemory(
            f"{asked.precision} weights with {asked.tables} tables and a cache of {context_tokens:,} tokens need "
            f"{missing / 1e9:.1f} GB more memory than there is; {_way_out(sizes, asked, machine, context_tokens)}"
        )


def _way_out(sizes: PartSizes, asked: Placement, machine: Machine, context_tokens: int) -> str:
    """Another placement; where none fits, a smaller cache."""
    converted = asked.precision if asked.is_converted else None
    fitting = [one for one in placements(sizes, machine, context_tokens, converted) if fits(one, machine)]
    if fitting:
        best = max(fitting, key=lambda one: one.expected_tokens_per_s)
        return f"this would fit: {best.home} ({_told(best.options)})"
    every = list(placements(sizes, machine, PLANNED_CONTEXT_TOKENS, converted))
    if context_tokens > PLANNED_CONTEXT_TOKENS and any(fits(one, machine) for one in every):
        return f"a smaller cache would fit: max_cached_tokens {PLANNED_CONTEXT_TOKENS}"
    return _shortage(every, machine)


def _told(options: dict[str, str | int]) -> str:
    return ", ".join(f"{name} {value}" for name, value in options.items())
