"""Memory for the weights of a meta model: pinned on the host for some, on the model's device for all that is left."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import suppress

import torch
from torch import Tensor, nn

from kodkod_engine.errors import NotEnoughMemory
from kodkod_engine.layers.moe import PackedExperts
from kodkod_engine.layers.ngram_embedding import NgramEmbedding
from kodkod_engine.layers.pinned import PinningFailed, pinned_empty
from kodkod_engine.models.longcat_flash import LongcatFlash
from kodkod_engine.models.mtp import MtpBlock

logger = logging.getLogger(__name__)


def allocate(parts: Iterable[nn.Module | None], device: torch.device) -> None:
    """Give every weight that has none unset memory on a device."""
    for part in parts:
        for module in part.modules() if part is not None else ():
            for leaf, parameter in list(module.named_parameters(recurse=False)):
                if parameter.is_meta:
                    # Not `empty_like`: of a meta tensor that imports sympy, a third of a second.
                    memory = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
                    setattr(module, leaf, nn.Parameter(memory, requires_grad=False))


def pin_tables(embedding: NgramEmbedding) -> bool:
    """Give the N-gram tables pinned memory; where that is refused, say why and leave them unset."""
    rows = embedding.resident
    assert rows is not None
    try:
        _pin(rows)
    except PinningFailed as fault:
        logger.warning("N-gram tables are read from the checkpoint's files: memory could not be pinned (%s)", fault)
        return False
    return True


def pin_words(model: LongcatFlash, mtp: MtpBlock | None) -> None:
    """Give the words of a model with tables, and of its draft block, pinned memory, if that can be had.

    A row of them is read per token. Those that are the head as well are read whole, and stay.
    """
    if model.embedding is None or model.lm_head is None:
        return
    with suppress(PinningFailed):
        for owner in (model.embedding, mtp):
            if owner is not None:
                owner.word = nn.Parameter(_pinned(owner.word, owner), requires_grad=False)


def pin_experts(model: LongcatFlash, num_layers: int) -> None:
    """Give the experts of so many layers, the last ones, pinned memory.

    Raises:
        NotEnoughMemory: it is refused.
    """
    first = max(0, len(model.dual_layers) - num_layers)
    for layer in model.dual_layers[first:]:
        experts = layer.experts
        assert isinstance(experts, PackedExperts), "plain experts are multiplied where they lie"
        try:
            for part in (experts.packed_gate_up, experts.packed_down):
                _pin(part)
        except PinningFailed as fault:
            raise NotEnoughMemory(
                f"memory for the experts of {num_layers} layers could not be pinned ({fault}); "
                "free some, or name fewer pinned_expert_layers"
            ) from fault


def _pin(module: nn.Module) -> None:
    for leaf, parameter in list(module.named_parameters(recurse=False)):
        setattr(module, leaf, nn.Parameter(_pinned(parameter, module), requires_grad=False))


def _pinned(parameter: Tensor, owner: object) -> Tensor:
    return pinned_empty(tuple(parameter.shape), parameter.dtype, owner)
