"""The plan: homes and precision of a model's parts on a machine, chosen among all that fit. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from kodkod_engine.errors import NotEnoughMemory
from kodkod_engine.placement.machine import GIB, Machine
from kodkod_engine.placement.sizes import PartSizes

PRECISIONS = ("bf16", "int8", "fp8", "int4")
"""The most precise first. In groups of 128, 8-bit integers lose less than e4m3 numbers do."""
EXPECTED_FRACTION = {("gpu", "fp8"): 0.38, ("gpu", "int8"): 0.33, ("gpu", "int4"): 0.2}
"""Of the read limit that decoding reaches where it is not the usual one: as on an H200."""
USUAL_FRACTION = 0.5
MAPPED_FRACTION = 0.9
"""Of its speed that decoding keeps when weights are mapped and stay in the page cache."""
TABLES_FRACTION = {"pinned": 0.96, "mapped": 0.9}
"""Of its speed that decoding on a GPU keeps when the tables are not in its memory: pinned as on an H200,
mapped a goal that was not measured."""
COMFORTABLE_TOKENS_PER_S = 20.0
"""Faster than one reads: above it precision counts for more than speed."""
WORK_BYTES = 1.0 * GIB
"""Activations, code and the rest of a process."""
GPU_WORK_BYTES = 2.0 * GIB
"""Activations of a prefill chunk, scores, graphs, torch's own."""
PLANNED_CONTEXT_TOKENS = 8192


@dataclass(frozen=True, slots=True)
class Placement:
    """One way to hold the model."""

    device: str
    """`gpu` or `cpu`."""
    precision: str
    """Of experts, attention and dense networks."""
    weights: str
    """`resident`, or `mapped` from a converted checkpoint."""
    tables: str
    """`resident` with the weights, `pinned` in host memory that the GPU reads, or `mapped` behind a row cache; `none`
    where the model has none."""
    device_bytes: float
    """Memory it needs on its device."""
    host_bytes: float
    """Memory it needs on the host to be as fast as expected, page cache that has to stay included."""
    least_host_bytes: float
    """Without so much it cannot run at all: mapped weights may leave memory and come again, slowly."""
    limit_tokens_per_s: float
    """Read rate over the bytes of a token."""
    expected_tokens_per_s: float
    is_converted: bool = False
    """Whether it is of a converted checkpoint; another has to be converted before its weights are mapped."""

    @property
    def options(self) -> dict[str, str]:
        """What `EngineConfig` is to be told."""
        return {
            "device": "cuda" if self.device == "gpu" else "cpu",
            "precision": self.precision,
            "weights": self.weights,
            "ngram_tables": "resident" if self.tables == "none" else self.tables,
        }

    @property
    def needs_conversion(self) -> bool:
        """Whether `kodkod convert` comes first."""
        return self.weights == "mapped" and not self.is_converted

    @property
    def story(self) -> str:
        """One line for a person."""
        expected, limit = (_rounded(rate) for rate in (self.expected_tokens_per_s, self.limit_tokens_per_s))
        return f"{self.home}; {expected} tokens/s expected of at most {limit}"

    @property
    def home(self) -> str:
        """The line without how fast it is."""
        tables = {
            "none": "no tables",
            "resident": "tables in memory",
            "pinned": "tables in host memory, read by the GPU",
            "mapped": "tables on the disk, rows cached",
        }
        home = "mapped from the disk" if self.weights == "mapped" else "in memory"
        home += " after kodkod convert" if self.needs_conversion else ""
        memory = f"{self.device_bytes / 1e9:.1f} GB on the GPU, " if self.device == "gpu" else ""
        memory += f"{self.host_bytes / 1e9:.1f} GB of host memory"
        return f"{self.precision} on {self.device}, {home}, {tables[self.tables]}: {memory}"


def _rounded(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def placements(
    sizes: PartSizes, machine: Machine, context_tokens: int = PLANNED_CONTEXT_TOKENS, converted: str | None = None
) -> Iterator[Placement]:
    """Every way the engine knows, fitting or not.

    Args:
        converted: precision of a converted checkpoint, which is to be had in no other.
    """
    devices = ["cpu"] if machine.gpu is None or not machine.gpu.is_supported else ["gpu", "cpu"]
    for device in devices:
        for precision in PRECISIONS if converted is None else (converted,):
            for weights in ("resident",) if device == "gpu" else ("resident", "mapped"):
                for tables in _table_homes(sizes, device):
                    one = placement_of(sizes, machine, context_tokens, device, precision, weights, tables)
                    yield replace(one, is_converted=converted is not None)


def _table_homes(sizes: PartSizes, device: str) -> tuple[str, ...]:
    if not sizes.tables:
        return ("none",)
    return ("resident", "pinned", "mapped") if device == "gpu" else ("resident", "mapped")


def placement_of(
    sizes: PartSizes, machine: Machine, context_tokens: int, device: str, precision: str, weights: str, tables: str
) -> Placement:
    """One of them, with what it needs and how fast it will be."""
    latent_bytes = 2 if device == "gpu" else 4
    needed = sizes.kept_bytes(precision) + context_tokens * sizes.latent_values * latent_bytes
    needed += sizes.table_bytes if tables == "resident" else 0.0
    if weights == "mapped":
        needed -= sizes.words * sizes.value_bytes  # a row of it is read per token; the rest need not stay
    work = min(WORK_BYTES, needed)  # a small model has small activations
    if device == "gpu":
        assert machine.gpu is not None
        rate, device_bytes, host_bytes = machine.gpu.read_bytes_per_s, needed + GPU_WORK_BYTES, work
        host_bytes += sizes.table_bytes if tables == "pinned" else 0.0
        least = host_bytes
    else:
        rate, device_bytes, host_bytes = machine.host_read_bytes_per_s, 0.0, needed + work
        least = (
            host_bytes - sizes.kept_bytes(precision) + sizes.words * sizes.value_bytes
            if weights == "mapped"
            else host_bytes
        )
    limit = rate / sizes.read_bytes(precision, context_tokens // 4, latent_bytes)
    fraction = EXPECTED_FRACTION.get((device, precision), USUAL_FRACTION)
    fraction *= MAPPED_FRACTION if weights == "mapped" else 1.0
    fraction *= TABLES_FRACTION.get(tables, 1.0) if device == "gpu" else 1.0
    return Placement(device, precision, weights, tables, device_bytes, host_bytes, least, limit, limit * fraction)


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
    every = list(placements(sizes, machine, context_tokens, stored if is_converted else None))
    fitting = [placement for placement in every if fits(placement, machine)]
    if not fitting:
        raise NotEnoughMemory(_shortage(every, machine))
    comfortable = [one for one in fitting if one.expected_tokens_per_s >= COMFORTABLE_TOKENS_PER_S]
    if comfortable:
        return max(comfortable, key=lambda one: (_merit(one.precision, stored), one.expected_tokens_per_s))
    return max(fitting, key=lambda one: one.expected_tokens_per_s)


def _merit(precision: str, stored: str) -> int:
    return 1 if precision == stored else -PRECISIONS.index(precision)


def _shortage(every: list[Placement], machine: Machine) -> str:
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


def _told(options: dict[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in options.items())
