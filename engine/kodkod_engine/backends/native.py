"""The engine's own model code behind the engine contract."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from kodkod_engine.backends.looped import LoopedEngine, num_blocks_for
from kodkod_engine.chat.special_tokens import Tag
from kodkod_engine.chat.tokenizer import Tokenizer
from kodkod_engine.config import EngineConfig
from kodkod_engine.core.runner import ModelRunner
from kodkod_engine.core.torch_threads import usual_threads
from kodkod_engine.errors import CheckpointCorrupt
from kodkod_engine.kv.disk_prefixes import DiskPrefixes
from kodkod_engine.kv.segments import SEGMENT_TOKENS, SegmentFolder
from kodkod_engine.layers.expanded_context import ExpandedContext
from kodkod_engine.layers.packed import Precisions
from kodkod_engine.models.checkpoint import Progress
from kodkod_engine.models.config import load_config
from kodkod_engine.models.identity import identity_of
from kodkod_engine.models.loading import LoadedModel, TableHome, WeightHome, load_model
from kodkod_engine.passing import in_passing
from kodkod_engine.placement.settling import settled
from kodkod_engine.placement.spare import spare_bytes
from kodkod_engine.speculation.costs import CostTable
from kodkod_engine.speculation.drafter import Drafter
from kodkod_engine.speculation.forced import ForcedDrafter
from kodkod_engine.speculation.mtp import MtpDrafter
from kodkod_engine.speculation.ngram_head import NgramHeadDrafter, load_ngram_head
from kodkod_engine.speculation.speculator import Speculator
from kodkod_engine.speculation.suffix import SuffixDrafter

STEPS_PER_VISIT = 4
"""Of a device: on an H200 they brought 22 % at one sequence and 12 % at four (2026-11-27-gpu-h200.json), eight little
more, and no one who types or cancels notices 15 ms."""


def steps_per_visit(config: EngineConfig, device: torch.device) -> int:
    """What is asked for, or what suits where the steps are computed."""
    return config.steps_per_visit or (STEPS_PER_VISIT if device.type == "cuda" else 1)


def drafters_for(runner: ModelRunner, checkpoint_dir: Path | None = None) -> list[Drafter]:
    """All that can draft for a model; a head on the N-gram embedding is looked for in its checkpoint's folder."""
    drafters: list[Drafter] = [ForcedDrafter(), SuffixDrafter()]
    if runner.loaded.mtp is not None:
        drafters.append(MtpDrafter(runner, runner.loaded.mtp))
    loaded = runner.loaded
    head = load_ngram_head(checkpoint_dir, loaded.config, loaded.device) if checkpoint_dir else None
    if head is not None:
        drafters.append(NgramHeadDrafter(runner, head))
    return drafters


def speculator_for(runner: ModelRunner, config: EngineConfig, checkpoint_dir: Path | None = None) -> Speculator:
    """What an engine speculates with."""
    drafters, vocab_size = drafters_for(runner, checkpoint_dir), runner.loaded.config.vocab_size
    return Speculator(drafters, CostTable(), default=config.speculation, vocab_size=vocab_size)


class NativeEngine(LoopedEngine):
    """See `api.Engine`."""

    runner_class = ModelRunner

    def __init__(
        self,
        loaded: LoadedModel,
        tokenizer: Tokenizer | None,
        config: EngineConfig,
        *,
        speculate: Callable[[ModelRunner, EngineConfig], Speculator] = speculator_for,
        identity: str | None = None,
    ) -> None:
        """`identity`: of the weights, as `models.identity` has it; without it no prefix is kept on disk."""
        config = replace(config, steps_per_visit=steps_per_visit(config, loaded.device))
        self.runner = self.runner_class(loaded, num_blocks_for(config), config.block_size)
        self.runner.expanded = expanded_for(loaded, config)
        super().__init__(
            self.runner,
            vocab_size=loaded.config.vocab_size,
            max_context_tokens=loaded.config.max_context_tokens,
            eos_id=loaded.config.eos_id,
            tokenizer=tokenizer,
            config=config,
            speculator=speculate(self.runner, config),
            store=None if identity is None else _store_for(self.runner, identity, config),
        )

    def close(self) -> None:
        """See `Engine`. The engine has no `runner` any more."""
        super().close()
        vars(self).pop("runner", None)


def load_native(checkpoint_dir: str | Path, config: EngineConfig, progress: Progress | None = None) -> NativeEngine:
    """Load a checkpoint folder; its `tokenizer.json` too when there is one.

    Raises:
        CheckpointError: the folder cannot be used; the message says why and what to do.
        NotEnoughMemory: it does not fit; says by how much, and what would.
    """
    folder = Path(checkpoint_dir)
    torch.set_num_threads(config.threads or usual_threads())
    config, _ = settled(folder, config)
    tokenizer = tokenizer_for(folder)  # before the weights, which may take minutes
    loaded = _loaded(checkpoint_dir, config, progress)
    speculate = partial(speculator_for, checkpoint_dir=folder)
    return NativeEngine(loaded, tokenizer, config, speculate=speculate, identity=identity_of(folder, loaded))


def tokenizer_for(folder: Path) -> Tokenizer | None:
    """A checkpoint's own; None where there is none.

    Raises:
        CheckpointError: it cannot be read, or is another model's: turns would never end.
    """
    if not (folder / "tokenizer.json").exists():
        return None
    tokenizer, eos_id = Tokenizer.from_folder(folder), load_config(folder).eos_id
    if tokenizer.eos_id != eos_id:
        raise CheckpointCorrupt(
            f"{folder}: {Tag.EOS} is {tokenizer.eos_id} in tokenizer.json, and config.json says {eos_id}; "
            "they are of different checkpoints, fetch both again"
        )
    return tokenizer


def _loaded(checkpoint_dir: str | Path, config: EngineConfig, progress: Progress | None) -> LoadedModel:
    """The model, read and packed on a thread that ends; an interruption is heard at the next piece."""
    is_stopped = threading.Event()

    def move(done: int, total: int) -> None:
        if is_stopped.is_set():
            raise KeyboardInterrupt
        if progress is not None:
            progress(done, total)

    load = partial(
        load_model,
        checkpoint_dir,
        dtype=getattr(torch, config.dtype) if config.dtype else None,
        device=config.device,
        mtp=config.mtp,
        ngram_tables=TableHome(config.ngram_tables),
        precisions=Precisions.of(config.precision) if config.precision else None,
        weights=WeightHome(config.weights),
        pinned_expert_layers=config.pinned_expert_layers or 0,
        progress=move,
    )
    return in_passing(load, is_stopped.set)


def expanded_for(loaded: LoadedModel, config: EngineConfig) -> ExpandedContext | None:
    """Where keys and values of the conversation at hand are kept; None where they are not to be."""
    if config.expanded_bytes == 0:
        return None
    attention = loaded.model.dual_layers[0].first.attention
    mapped_bytes = float(sum(one.nbytes for one in loaded.model.parameters())) if config.weights == "mapped" else 0.0
    num_layers = loaded.config.num_attention_blocks
    return ExpandedContext(
        num_layers,
        num_layers * attention.expanded_bytes(loaded.device, loaded.activation_dtype),
        partial(spare_bytes, loaded.device, mapped_bytes),
        math.inf if config.expanded_bytes is None else config.expanded_bytes,
    )


def _store_for(runner: ModelRunner, identity: str, config: EngineConfig) -> DiskPrefixes | None:
    if config.kv_folder is None or not config.kv_folder_bytes or SEGMENT_TOKENS % config.block_size:
        return None
    return DiskPrefixes(
        runner.cache, SegmentFolder(Path(config.kv_folder).expanduser(), identity, config.kv_folder_bytes)
    )
