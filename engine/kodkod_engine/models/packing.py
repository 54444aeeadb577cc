"""A model's large matrices replaced by packed ones, before it has memory."""

from __future__ import annotations

import torch

from kodkod_engine.layers.attention import LatentAttention
from kodkod_engine.layers.feed_forward import FeedForward
from kodkod_engine.layers.linear import Linear, PackedLinear
from kodkod_engine.layers.moe import MixtureOfExperts, PackedExperts
from kodkod_engine.layers.packed import Precision, Precisions
from kodkod_engine.models.longcat_flash import LongcatFlash
from kodkod_engine.models.mtp import MtpBlock


def pack_model(model: LongcatFlash, mtp: MtpBlock | None, precisions: Precisions) -> None:
    """Give the parts of a meta model the precisions asked for; a tied head stays what the words are.

    The draft block follows the model's attention and dense networks, also where a checkpoint keeps it more precise:
    what it drafts is verified.
    """
    with torch.device("meta"):
        for layer in model.dual_layers:
            layer.experts = _experts(layer.experts, precisions.experts)
            for half in (layer.first, layer.second):
                _pack_attention(half.attention, precisions.attention)
                _pack_dense(half.dense, precisions.dense)
        if model.lm_head is not None:
            model.lm_head = _linear(model.lm_head, precisions.head)
        if mtp is not None:
            mtp.join = _linear(mtp.join, precisions.dense)
            _pack_attention(mtp.attention, precisions.attention)
            _pack_dense(mtp.dense, precisions.dense)


def _pack_attention(attention: LatentAttention, precision: Precision) -> None:
    attention.qkv_a = _linear(attention.qkv_a, precision, attention.config.q_lora_rank)
    attention.q_b = _linear(attention.q_b, precision)
    attention.o = _linear(attention.o, precision)


def _pack_dense(dense: FeedForward, precision: Precision) -> None:
    dense.gate_up = _linear(dense.gate_up, precision, dense.gate_up.weight.shape[0] // 2)
    dense.down = _linear(dense.down, precision)


def _linear(plain: Linear, precision: Precision, part_rows: int = 0) -> Linear:
    if precision is Precision.BF16:
        return plain
    out_features, in_features = plain.weight.shape
    return PackedLinear(in_features, out_features, precision, part_rows)


def _experts(plain: MixtureOfExperts, precision: Precision) -> MixtureOfExperts:
    return plain if precision is Precision.BF16 else PackedExperts(plain, precision)
