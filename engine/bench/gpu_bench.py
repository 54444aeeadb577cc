"""The model under test, made once and handed from part to part, and the ceilings of the run."""

from __future__ import annotations

import gc
from functools import cached_property
from typing import Any

import torch
from gpu_model import Device, Player, Scale, build

from kodkod_engine.benchmark.ceilings import Ceilings, measure_ceilings
from kodkod_engine.models.config import ModelConfig
from kodkod_engine.models.loading import LoadedModel

STEP_BYTES = 2.5e9
"""Activations, graphs and work spaces beside the cache."""
TURN_BYTES = 256
"""Of a place's rotation, which a step keeps beside its cache."""


class Bench:
    """The model under test and what it is measured with; parts are functions of it that yield rows."""

    def __init__(
        self,
        config: ModelConfig,
        device: Device,
        scale: Scale,
        *,
        is_dry: bool,
        measured: dict[str, Any],
        small: dict[str, Any],
    ) -> None:
        """`measured`: parts of an earlier process of the run; `small`: the keys of a model of few layers."""
        self.small = small
        self.config, self.device, self.scale, self.is_dry = config, device, scale, is_dry
        ceilings = measured.get("ceilings")
        self._ceilings = Ceilings(**ceilings[0]) if ceilings else None
        self._loaded: LoadedModel | None = None
        self._player: Player | None = None

    @property
    def ceilings(self) -> Ceilings:
        """Measured once per process."""
        if self._ceilings is None:
            self._ceilings = measure_ceilings(self.device.torch, num_bytes=1 << (20 if self.is_dry else 32))
        return self._ceilings

    def loaded(self, precision: str = "bf16") -> LoadedModel:
        """The model; one of another precision takes over its tables."""
        if self._loaded is None or str(self._loaded.precisions.experts) != precision:
            assert self.ceilings  # beside a model there is no room to measure them
            self._player, tables = None, None
            if self._loaded is not None:
                embedding = self._loaded.model.embedding
                assert embedding is not None
                assert embedding.resident is not None
                tables, self._loaded = embedding.resident.weight.detach(), None
                del embedding
                gc.collect()
                torch.cuda.empty_cache()
            self._loaded = build(self.config, precision, self.device, tables)
        return self._loaded

    def player(self, num_tokens: int | None = None, precision: str = "bf16") -> Player:
        """Sequences in one cache of so many tokens; another size takes the place of the last."""
        wanted, loaded = num_tokens or self.scale.cache_tokens, self.loaded(precision)
        if self._player is None or self._player.asked != wanted or self._player.loaded is not loaded:
            self._player = None
            self._player = Player(loaded, min(wanted, self._room(loaded)), self.device)
            self._player.asked = wanted
        return self._player

    def _room(self, loaded: LoadedModel) -> int:
        """Tokens whose cache leaves room for a step beside it."""
        if not self.device.is_cuda:
            return self.scale.cache_tokens
        gc.collect()
        torch.cuda.empty_cache()
        per_token = loaded.num_cache_layers * loaded.config.latent_dim * loaded.activation_dtype.itemsize
        return max(4096, int((torch.cuda.mem_get_info()[0] - STEP_BYTES) / (per_token + TURN_BYTES)))

    @cached_property
    def flop_rate(self) -> float:
        """bf16 operations per second of large products."""
        return large_matmul_rate(self.device) if self.device.is_cuda else self.ceilings.fp32_flop_per_s

    def drop_player(self) -> None:
        """Make room: its cache is larger than some parts need."""
        self._player = None


def large_matmul_rate(device: Device, size: int = 8192) -> float:
    """bf16 operations per second of a square product that fills the device."""
    left, right = (torch.randn(size, size, device=device.torch).bfloat16() for _ in range(2))
    left @ right
    return 2 * size**3 / device.seconds(lambda: left @ right, repeats=5)
