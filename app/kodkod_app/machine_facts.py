"""What this machine has for kodkod, what is missing, and how to get it."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from kodkod_sandbox.base import BoxOptions
from kodkod_sandbox.choose import diagnose, find_image
from kodkod_sandbox.errors import SandboxError, SandboxUnavailable

GIB = 1024**3
_PROBE_BYTES = 128 * 1024**2
"""Read to measure the memory's speed: more than a processor's cache holds."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One line of the doctor's report."""

    name: str
    is_good: bool
    detail: str
    """What is there, or what is missing and how to get it."""


async def look_around(folder: Path, model: Path | None) -> AsyncIterator[Fact]:
    """Everything, as it is found.

    Args:
        folder: the project, for its disk and its Docker image.
        model: folder of a checkpoint.
    """
    for fact in await _in_thread(program_facts, lambda: hardware_facts(folder)):
        yield fact
    for fact in await sandbox_facts():
        yield fact
    for fact in await _in_thread(
        lambda: image_facts(folder), lambda: model_facts(model), lambda: placement_facts(model), torch_facts
    ):
        yield fact


async def _in_thread(*looks: Callable[[], Iterable[Fact]]) -> list[Fact]:
    return await asyncio.to_thread(lambda: [fact for look in looks for fact in look()])


def program_facts() -> Iterator[Fact]:
    """kodkod itself, its interpreter, and the programs it calls."""
    yield Fact("kodkod", True, f"{version('kodkod')} on Python {platform.python_version()} ({sys.executable})")
    for name, use, is_needed in (("git", "snapshots and diffs", True), ("rg", "quicker search", False)):
        path = shutil.which(name)
        missing = f"not found; install {'ripgrep' if name == 'rg' else name} for {use}"
        yield Fact(name, path is not None or not is_needed, path or missing)


def hardware_facts(folder: Path) -> Iterator[Fact]:
    """Processor, memory, disk, accelerator."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    yield Fact("processor", True, f"{os.cpu_count()} cores, {platform.machine()}")
    yield Fact("memory", True, f"{memory / GIB:.1f} GiB")
    yield Fact("disk", True, f"{shutil.disk_usage(folder).free / GIB:.1f} GiB free at {folder}")


def torch_facts() -> Iterator[Fact]:
    """What the engine computes with. Slow: torch is imported."""
    from kodkod_engine.devices import describe_devices

    yield Fact("torch", True, describe_devices())


def model_facts(folder: Path | None) -> Iterator[Fact]:
    """The checkpoint a command would load, and how fast it can be at most."""
    fact = _model_fact(folder)
    yield fact
    if folder is not None and fact.is_good:
        yield _speed_fact(folder)


def _model_fact(folder: Path | None) -> Fact:
    from kodkod_engine import load_config
    from kodkod_engine.errors import CheckpointError

    if folder is None:
        return _bundled_fact()
    try:
        config = load_config(folder)
    except CheckpointError as fault:
        return Fact("model", False, str(fault))
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    return Fact("model", size > 0, f"{config.architecture}, {config.num_layers} dual layers, {_size(size)} of weights")


def _bundled_fact() -> Fact:
    from kodkod_app.bootstrap import bundled_model

    if bundled_model() is None:
        return Fact("model", False, "none given; name the folder of a checkpoint with -m DIR")
    small = "the small one that comes along, which mends failing tests and does no more"
    return Fact("model", True, f"none given, so {small}; name the folder of a checkpoint with -m DIR")


def _speed_fact(folder: Path) -> Fact:
    """One token at a time reads every weight it uses once, so the memory sets the limit."""
    read_bytes, speed = bytes_per_token(folder), read_bytes_per_s()
    limit = speed / read_bytes
    told = f"at most {limit:,.0f} tokens/s on the processor: {_size(read_bytes)} of weights per token, {_size(speed)}/s"
    return Fact("speed", True, told)


def bytes_per_token(folder: Path) -> float:
    """Weights one decoded token reads: all but the experts it does not pass and the rows it does not look up."""
    from kodkod_engine import load_config

    config = load_config(folder)
    experts = config.experts_per_token / max(1, config.num_experts + config.num_identity_experts)
    total = 0.0
    for name, size in _tensor_sizes(folder):
        if ".mtp." in name or ".embedders." in name:
            continue
        total += size * experts if ".experts." in name else size
    return max(1.0, total)


def _tensor_sizes(folder: Path) -> Iterator[tuple[str, int]]:
    """Name and bytes of each tensor, from the files' headers."""
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        for name, entry in header.items():
            if name != "__metadata__":
                start, end = entry["data_offsets"]
                yield name, end - start


def read_bytes_per_s() -> float:
    """How fast all processors together read memory."""
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np

    workers = min(8, os.cpu_count() or 1)
    parts = np.array_split(np.ones(_PROBE_BYTES // 8), workers)
    with ThreadPoolExecutor(workers) as pool:
        rates = []
        for _ in range(3):
            began = time.perf_counter()
            list(pool.map(np.max, parts))
            rates.append(_PROBE_BYTES / (time.perf_counter() - began))
    return max(rates)


def _size(num_bytes: float) -> str:
    return f"{num_bytes / GIB:.1f} GiB" if num_bytes >= GIB else f"{num_bytes / 1024**2:.1f} MiB"


def image_facts(work_tree: Path) -> Iterator[Fact]:
    """The image a Docker box would start from for the project here; nothing where there is no Docker."""
    try:
        image = find_image(work_tree)
    except SandboxUnavailable:
        return
    except SandboxError as fault:
        yield Fact("docker image", False, str(fault))
    else:
        yield Fact("docker image", not image.note, image.note or image.tag)


MAX_OTHER_PLACEMENTS = 3


def placement_facts(folder: Path | None) -> Iterator[Fact]:
    """Where the checkpoint's parts would go here, and how fast that would be; nothing is loaded."""
    from kodkod_engine import load_config
    from kodkod_engine.errors import CheckpointError, NotEnoughMemory
    from kodkod_engine.placement.machine import this_machine
    from kodkod_engine.placement.plan import choose, fits, placements
    from kodkod_engine.placement.sizes import part_sizes

    if folder is None:
        return
    try:
        config = load_config(folder)
    except CheckpointError:
        return  # the line on the model says it
    sizes, machine = part_sizes(config), this_machine(folder)
    try:
        best = choose(sizes, machine, stored=config.stored_precision)
    except NotEnoughMemory as fault:
        yield Fact("placement", False, str(fault))
        return
    yield Fact("placement", True, best.story)
    yield Fact("its settings", True, ", ".join(f"engine.{key} = {value}" for key, value in best.options.items()))
    others = [one for one in placements(sizes, machine) if one != best and fits(one, machine)]
    for other in sorted(others, key=lambda one: -one.expected_tokens_per_s)[:MAX_OTHER_PLACEMENTS]:
        yield Fact("would fit too", True, other.story)


async def sandbox_facts() -> list[Fact]:
    """Each kind of box, started and closed once on an empty folder."""
    with tempfile.TemporaryDirectory(prefix="kodkod-doctor-") as folder:
        found = await diagnose(BoxOptions(work_tree=Path(folder)))
    return [Fact(f"sandbox {fact.kind}", fact.available, fact.detail) for fact in found]
