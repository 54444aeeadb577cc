"""What this machine has for kodkod, what is missing, and how to get it."""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from kodkod_app.settings import kv_folders
from kodkod_engine.chat.declare_block import OWN_WORDS
from kodkod_engine.kv.segments import kept_bytes
from kodkod_sandbox.base import BoxOptions
from kodkod_sandbox.choose import diagnose, find_image
from kodkod_sandbox.errors import SandboxError, SandboxUnavailable

if TYPE_CHECKING:
    from kodkod_engine.chat.tokenizer import Tokenizer
    from kodkod_engine.models.loading import StoredModel
    from kodkod_engine.placement.plan import Placement

GIB = 1024**3


@dataclass(frozen=True, slots=True)
class Fact:
    """One line of the doctor's report."""

    name: str
    is_good: bool
    detail: str
    """What is there, or what is missing and how to get it."""
    exit_code: int = 0
    """What a run that needs it would end with; 0 where it can do without, or nothing is missing."""


NO_GIT, NO_MODEL, NO_BOX = 1, 4, 5


def exit_code_of(facts: Iterable[Fact]) -> int:
    """What a run here would end with: the model is missed before the box, and both before git."""
    found = {fact.exit_code for fact in facts}
    return next((code for code in (NO_MODEL, NO_BOX, NO_GIT) if code in found), 0)


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
    for name, use, exit_code in (("git", "snapshots and diffs", NO_GIT), ("rg", "quicker search", 0)):
        path = shutil.which(name)
        missing = f"not found; install {'ripgrep' if name == 'rg' else name} for {use}"
        yield Fact(name, path is not None, path or missing, 0 if path else exit_code)


def hardware_facts(folder: Path) -> Iterator[Fact]:
    """Processor, memory, disk, accelerator."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    yield Fact("processor", True, f"{os.cpu_count()} cores, {platform.machine()}")
    yield Fact("memory", True, f"{memory / GIB:.1f} GiB")
    yield Fact("disk", True, f"{shutil.disk_usage(folder).free / GIB:.1f} GiB free at {folder}")
    for kept in kv_folders(os.environ):
        if num_bytes := kept_bytes(kept):
            told = f"{num_bytes / GIB:.1f} GiB at {kept}; engine.kv_folder_bytes limits them"
            yield Fact("kept prefixes", True, told)


def torch_facts() -> Iterator[Fact]:
    """What the engine computes with. Slow: torch is imported."""
    from kodkod_engine.devices import describe_devices

    yield Fact("torch", True, describe_devices())


def model_facts(folder: Path | None) -> Iterator[Fact]:
    """The checkpoint a command would load; no weights are read."""
    from kodkod_app.bootstrap import require_tokenizer
    from kodkod_engine.backends.native import tokenizer_for
    from kodkod_engine.errors import CheckpointError
    from kodkod_engine.models.loading import require_loadable

    if folder is None:
        yield _bundled_fact()
        return
    try:
        stored = require_loadable(folder)
        require_tokenizer(folder)
        tokenizer = tokenizer_for(folder)
    except CheckpointError as fault:
        yield Fact("model", False, str(fault), NO_MODEL)
        return
    assert tokenizer is not None
    yield Fact("model", True, _about(stored, tokenizer))


def _about(stored: StoredModel, tokenizer: Tokenizer) -> str:
    config, size = stored.config, sum(tensor.num_bytes for tensor in stored.checkpoint.tensors.values())
    made = f"converted to {stored.precision}" if stored.manifest else _published_as(stored)
    layers = f"{config.num_layers} dual layers, {'a' if stored.has_mtp else 'no'} draft block"
    whose = "kodkod's" if tokenizer.words == OWN_WORDS else "its own"
    return f"{config.architecture}, {layers}, tools declared in {whose} words, {_size(size)} of weights, {made}"


def _published_as(stored: StoredModel) -> str:
    plain = str(stored.dtype).removeprefix("torch.")
    return f"fp8 and {plain}" if stored.precision == "fp8" else plain


def _bundled_fact() -> Fact:
    from kodkod_app.bootstrap import bundled_model

    if bundled_model() is None:
        return Fact("model", False, "none given; name the folder of a checkpoint with -m DIR", NO_MODEL)
    small = "the small one that comes along, which mends failing tests and does no more"
    return Fact("model", True, f"none given, so {small}; name the folder of a checkpoint with -m DIR")


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
    """Where the checkpoint's parts go here, and how fast that will be; its `config.json` is enough to know."""
    from kodkod_engine import load_config
    from kodkod_engine.config import EngineConfig
    from kodkod_engine.errors import CheckpointError, NotEnoughMemory
    from kodkod_engine.placement.admission import sizes_of, stored_as
    from kodkod_engine.placement.choosing import choose, fits
    from kodkod_engine.placement.machine import this_machine
    from kodkod_engine.placement.plan import placements
    from kodkod_engine.placement.settling import planned

    if folder is None:
        return
    try:
        config = load_config(folder)
        stored = stored_as(folder, config)
    except CheckpointError:
        return  # the line on the model says it
    usual = EngineConfig()
    sizes, machine = sizes_of(config, stored, usual), this_machine(folder)
    best = planned(sizes, stored, machine, usual)
    try:
        chosen = best or choose(sizes, machine, stored=stored.precision, is_converted=stored.is_converted)
    except NotEnoughMemory as fault:
        yield Fact("placement", False, str(fault), NO_MODEL)
        return
    yield Fact("placement", True, chosen.story)
    yield Fact("its settings", True, _unset(folder, best, stored.precision) if best else _settings(folder, chosen))
    converted = stored.precision if stored.is_converted else None
    every = placements(sizes, machine, chosen.context_tokens, converted)
    others = [one for one in every if one.options != chosen.options and fits(one, machine)]
    for other in sorted(others, key=lambda one: -one.expected_tokens_per_s)[:MAX_OTHER_PLACEMENTS]:
        yield Fact("would fit too", True, f"{other.story}; {_told(other, chosen)}")


def _unset(folder: Path, placement: Placement, stored: str) -> str:
    from kodkod_app.bootstrap import packing_note

    is_packed = placement.precision != stored
    return f"none: loading chooses it{f'; {packing_note(folder, placement.precision)}' if is_packed else ''}"


def _told(placement: Placement, than: Placement) -> str:
    """What to say in the settings to have it and not another."""
    usual = than.options
    return ", ".join(f"engine.{key} = {value}" for key, value in placement.options.items() if usual.get(key) != value)


def _settings(folder: Path, placement: Placement) -> str:
    """What to say in the settings, and what to do before."""
    options = {**placement.options, "max_cached_tokens": placement.context_tokens}
    said = ", ".join(f"engine.{key} = {value}" for key, value in options.items())
    if not placement.needs_conversion:
        return said
    target = quote(f"{folder}-{placement.precision}")
    first = f"kodkod convert {quote(str(folder))} {target} --precision {placement.precision}"
    return f"{first}; then, with -m {target}, {said}"


async def sandbox_facts() -> list[Fact]:
    """Each kind of box, started and closed once on an empty folder."""
    with tempfile.TemporaryDirectory(prefix="kodkod-doctor-") as folder:
        found = await diagnose(BoxOptions(work_tree=Path(folder)))
    missing = 0 if any(fact.available for fact in found) else NO_BOX
    return [Fact(f"sandbox {fact.kind}", fact.available, fact.detail, missing) for fact in found]
