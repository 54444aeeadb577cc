"""The engine's own model code behind the engine contract."""

from __future__ import annotations

from pathlib import Path

import torch

from kodkod_engine.backends.looped import LoopedEngine, num_blocks_for
from kodkod_engine.chat.tokenizer import Tokenizer
from kodkod_engine.config import EngineConfig
from kodkod_engine.core.runner import ModelRunner
from kodkod_engine.layers.packed import Precisions
from kodkod_engine.models.checkpoint import Progress
from kodkod_engine.models.loading import LoadedModel, TableHome, WeightHome, load_model
from kodkod_engine.placement.admission import require_room


class NativeEngine(LoopedEngine):
    """See `api.Engine`."""

    def __init__(self, loaded: LoadedModel, tokenizer: Tokenizer | None, config: EngineConfig) -> None:
        self.runner = ModelRunner(loaded, num_blocks_for(config), config.block_size)
        super().__init__(
            self.runner,
            vocab_size=loaded.config.vocab_size,
            max_context_tokens=loaded.config.max_context_tokens,
            eos_id=loaded.config.eos_id,
            tokenizer=tokenizer,
            config=config,
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
    require_room(Path(checkpoint_dir), config)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    loaded = load_model(
        checkpoint_dir,
        dtype=getattr(torch, config.dtype) if config.dtype else None,
        device=config.device,
        mtp=config.mtp,
        ngram_tables=TableHome(config.ngram_tables),
        precisions=Precisions.of(config.precision) if config.precision else None,
        weights=WeightHome(config.weights),
        progress=progress,
    )
    has_tokenizer = (Path(checkpoint_dir) / "tokenizer.json").exists()
    return NativeEngine(loaded, Tokenizer.from_folder(Path(checkpoint_dir)) if has_tokenizer else None, config)
