"""What is measured beside our own engine: transformers on the very weights, or vLLM on the same checkpoint.

transformers                    in this process, around our loaded tensors
vllm                            in this process, on the checkpoint's folder
vllm:http://host:8000/v1        a `vllm serve` that runs
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch

from kodkod_engine.api import Engine
from kodkod_engine.backends.vllm import is_address, open_vllm
from kodkod_engine.backends.vllm_config import VllmConfig
from kodkod_engine.benchmark.completions import (
    complete_together,
    decode_step_s,
    on_engine_thread,
    random_prompts,
)
from kodkod_engine.benchmark.transformers_peer import TransformersPeer
from kodkod_engine.passing import in_passing

if TYPE_CHECKING:
    from kodkod_engine.backends.native import NativeEngine

TRANSFORMERS, VLLM = "transformers", "vllm"


class Peer(Protocol):
    """Another implementation of the same model."""

    def decode(self, batch: int, context_tokens: int, steps: int) -> float:
        """Seconds per step of decoding so many sequences."""
        ...

    def prefill(self, prompt: tuple[int, ...]) -> float:
        """Seconds to the first token."""
        ...

    def close(self) -> None:
        """Give back what it holds."""
        ...


class EnginePeer:
    """Another back end behind the engine contract."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._generator = torch.Generator().manual_seed(11)

    def decode(self, batch: int, context_tokens: int, steps: int) -> float:
        """See `Peer`."""
        prompts = random_prompts(self._engine.vocab_size, batch, context_tokens, self._generator)
        return decode_step_s(self._engine, prompts, steps)

    def prefill(self, prompt: tuple[int, ...]) -> float:
        """See `Peer`."""
        (done,) = complete_together(self._engine, [prompt], 1)
        return done.usage.prefill_s

    def close(self) -> None:
        """See `Peer`."""
        self._engine.close()


class PeerOnOurThread:
    """transformers where our engine computes, so that neither slows the other's threads down."""

    def __init__(self, engine: NativeEngine, folder: Path) -> None:
        self._engine = engine
        self._peer = in_passing(partial(TransformersPeer, engine.runner.loaded, folder))

    def decode(self, batch: int, context_tokens: int, steps: int) -> float:
        """See `Peer`."""
        return on_engine_thread(self._engine, partial(self._peer.decode, batch, context_tokens, steps))

    def prefill(self, prompt: tuple[int, ...]) -> float:
        """See `Peer`."""
        return on_engine_thread(self._engine, partial(self._peer.prefill, prompt))

    def close(self) -> None:
        """See `Peer`."""
        self._peer.close()


def is_peer(name: str) -> bool:
    """Whether `open_peer` knows the name."""
    return name in (TRANSFORMERS, VLLM) or (name.startswith(f"{VLLM}:") and is_address(name.removeprefix(f"{VLLM}:")))


def open_peer(name: str, engine: NativeEngine, folder: Path, config: VllmConfig | None = None) -> Peer:
    """A peer by its name, of an engine with the checkpoint in a folder.

    Raises:
        EngineError: it cannot be used here; says why.
    """
    if name == TRANSFORMERS:
        return PeerOnOurThread(engine, folder)
    place = str(folder) if name == VLLM else name.removeprefix(f"{VLLM}:")
    return EnginePeer(open_vllm(place, config or VllmConfig()))
