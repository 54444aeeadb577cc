"""The plan: every way to hold a model on a machine, with what it needs and how fast it will be. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from kodkod_engine.placement.machine import GIB, Machine
from kodkod_engine.placement.sizes import PartSizes

PRECISIONS = ("bf16", "int8", "fp8", "int4")
"""The most precise first. In groups of 128, 8-bit integers lose less than e4m3 numbers do."""
USUAL_FRACTION = 0.5
"""Of the read limit that decoding reaches."""
LEAST_GPU_STEP_S = {"fp8": 2.3e-3, "int8": 2.2e-3, "int4": 1.7e-3}
"""What a GPU takes for a token of packed weights however quick its memory is: as on an H200, where kernels that wait
for one another take longer than reading."""
MAPPED_FRACTION = 0.9
"""Of its speed that decoding keeps when weights are mapped and stay in the page cache."""
TABLES_FRACTION = {"pinned": 0.99, "mapped": 0.9}
"""Of its speed that decoding on a GPU keeps when the tables are not in its memory: pinned as on an H200,
mapped a goal that was not measured."""
PINNED_EXPERTS_FRACTION = 0.8
"""Of the link's rate at which a GPU reads experts in place: as on an H200, in 4 bits."""
COMFORTABLE_TOKENS_PER_S = 20.0
"""Faster than one reads: above it precision counts for more than speed."""
WORK_BYTES = 1.0 * GIB
"""Activations, code and the rest of a process."""
GPU_WORK_BYTES = 2.0 * GIB
"""Activations of a prefill chunk, unpacked weights, graphs, torch's own."""
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
    context_tokens: int
    """That the cache holds."""
    pinned_expert_layers: int = 0
    """Whose experts are in pinned host memory."""
    gpu_index: int = 0
    """Of several."""
    is_converted: bool = False
    """Whether it is of a converted checkpoint; another has to be converted before its weights are mapped."""
    value_bytes: float = 2.0
    """Of a weight that is not packed."""

    @property
    def options(self) -> dict[str, str | int]:
        """What `EngineConfig` is to be told."""
        said: dict[str, str | int] = {
            "device": "cpu" if self.device == "cpu" else _cuda_name(self.gpu_index),
            "precision": self.precision,
            "weights": self.weights,
            "ngram_tables": "resident" if self.tables == "none" else self.tables,
        }
        return said | ({"pinned_expert_layers": self.pinned_expert_layers} if self.pinned_expert_layers else {})

    @property
    def is_comfortable(self) -> bool:
        """Whether it is quicker than one reads."""
        return self.expected_tokens_per_s >= COMFORTABLE_TOKENS_PER_S

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
        home = "mapped from the disk" if self.weights == "mapped" else "in memory"
        home += " after kodkod convert" if self.needs_conversion else ""
        cache = f"a cache of {self.context_tokens:,} tokens"
        numbers = "fp32" if self.precision == "bf16" and self.value_bytes > 2 else self.precision
        parts = [f"{numbers} on {self.device}", home, *self._tables, *self._read_by_gpu, cache]
        memory = f"{self.device_bytes / 1e9:.1f} GB on the GPU, " if self.device == "gpu" else ""
        memory += f"{self.host_bytes / 1e9:.1f} GB of host memory"
        return f"{', '.join(parts)}: {memory}"

    @property
    def _tables(self) -> list[str]:
        known = {"none": "no tables", "resident": "tables in memory", "mapped": "tables on the disk, rows cached"}
        return [known[self.tables]] if self.tables in known else []

    @property
    def _read_by_gpu(self) -> list[str]:
        layers = self.pinned_expert_layers
        parts = [f"experts of {layers} layer{'s' * (layers > 1)}"] * bool(layers) + ["tables"] * (
            self.tables == "pinned"
        )
        return [f"{' and '.join(parts)} in host memory that it reads"] if parts else []


def _cuda_name(index: int) -> str:
    return f"cuda:{index}" if index else "cuda"


def _rounded(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def placements(
    sizes: PartSizes,
    machine: Machine,
    context_tokens: int = PLANNED_CONTEXT_TOKENS,
    converted: str | None = None,
    pinned_expert_layers: int | None = None,
) -> Iterator[Placement]:
    """Every way the engine knows, fitting or not.

    Args:
        sizes: of the model.
        machine: what there is.
        context_tokens: that the cache is to hold.
        converted: precision of a converted checkpoint, which is to be had in no other.
        pinned_expert_layers: of those with experts in pinned memory; None has none, and as many as are needed.
    """
    for device in ("gpu", "cpu"):
        for precision in PRECISIONS if converted is None else (converted,):
            if device == "gpu" and not (machine.gpu and machine.gpu.reads(precision)):
                continue
            for weights in ("resident",) if device == "gpu" else ("resident", "mapped"):
                for tables in _table_homes(sizes, device):
                    one = placement_of(sizes, machine, context_tokens, device, precision, weights, tables)
                    yield replace(one, is_converted=converted is not None)
                    layers = _layers_to_pin(one, sizes, machine, pinned_expert_layers)
                    if layers:
                        way = (device, precision, weights, tables, layers)
                        one = placement_of(sizes, machine, context_tokens, *way)
                        yield replace(one, is_converted=converted is not None)


def _layers_to_pin(whole: Placement, sizes: PartSizes, machine: Machine, asked: int | None) -> int:
    """As many as are asked for, else as many as the device has no room for; none that a device could not read."""
    if whole.device != "gpu" or whole.precision == "bf16":
        return 0
    if asked is not None:
        return asked
    assert machine.gpu is not None
    missing = max(0.0, whole.device_bytes - machine.gpu.free_bytes)
    return min(sizes.num_layers, math.ceil(missing / sizes.layer_expert_bytes(whole.precision)))


def _table_homes(sizes: PartSizes, device: str) -> tuple[str, ...]:
    if not sizes.tables:
        return ("none",)
    return ("resident", "pinned", "mapped") if device == "gpu" else ("resident", "mapped")


def placement_of(
    sizes: PartSizes,
    machine: Machine,
    context_tokens: int,
    device: str,
    precision: str,
    weights: str,
    tables: str,
    pinned_expert_layers: int = 0,
) -> Placement:
    """One of them, with what it needs and how fast it will be."""
    is_on_gpu = device == "gpu"
    latent_bytes = 2 if is_on_gpu else 4
    needed = sizes.kept_bytes(precision) + context_tokens * sizes.latent_values * latent_bytes
    needed += sizes.table_bytes if tables == "resident" else 0.0
    if weights == "mapped":
        # A row of them is read per token; the rest need not stay.
        needed -= (sizes.words + sizes.draft_words) * sizes.value_bytes
    work = min(WORK_BYTES, needed)  # a small model has small activations
    if is_on_gpu:
        pinned = pinned_expert_layers * sizes.layer_expert_bytes(precision)
        # A long prompt has the keys and values of its whole context, in one block after another.
        gpu_work = GPU_WORK_BYTES + context_tokens * sizes.rebuilt_values * latent_bytes
        if tables in ("pinned", "mapped") and sizes.head:
            pinned += (sizes.words + sizes.draft_words) * sizes.value_bytes
        device_bytes, host_bytes = needed - pinned + gpu_work, work + pinned
        host_bytes += sizes.table_bytes if tables == "pinned" else 0.0
        least = host_bytes
    else:
        device_bytes, host_bytes = 0.0, needed + work
        least = (
            host_bytes - sizes.kept_bytes(precision) + (sizes.words + sizes.draft_words) * sizes.value_bytes
            if weights == "mapped"
            else host_bytes
        )
    read_bytes = sizes.read_bytes(precision, context_tokens // 4, latent_bytes)
    over_the_link = pinned_expert_layers * sizes.taken_expert_bytes(precision)
    least_s, expected_s = _step_s(machine, read_bytes - over_the_link, over_the_link, device, precision)
    fraction = MAPPED_FRACTION if weights == "mapped" else 1.0
    fraction *= TABLES_FRACTION.get(tables, 1.0) if is_on_gpu else 1.0
    return Placement(
        device, precision, weights, tables, device_bytes, host_bytes, least, 1 / least_s, fraction / expected_s,
        context_tokens, pinned_expert_layers, machine.gpu.index if is_on_gpu and machine.gpu else 0,
        value_bytes=sizes.value_bytes,
    )  # fmt: skip


def _step_s(machine: Machine, own_bytes: float, link_bytes: float, device: str, precision: str) -> tuple[float, float]:
    """Seconds in which a token's bytes can be read at the least, and are as expected, one after another."""
    if device != "gpu":
        least_s = own_bytes / machine.host_read_bytes_per_s
        return least_s, least_s / USUAL_FRACTION
    assert machine.gpu is not None
    own_s, link_s = own_bytes / machine.gpu.read_bytes_per_s, link_bytes / machine.gpu.link_bytes_per_s
    expected_s = max(own_s / USUAL_FRACTION, LEAST_GPU_STEP_S.get(precision, 0.0))
    return own_s + link_s, expected_s + link_s / PINNED_EXPERTS_FRACTION
