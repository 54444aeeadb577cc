"""Which ids an N-gram sees: a pure function of what is committed. Knows integers and torch, and nothing of vLLM."""

from __future__ import annotations

import torch
from torch import Tensor

from kodkod_engine.layers.ngram_hash import ABSENT
from kodkod_engine.models.ngram_spec import NgramSpec, polynomial_spec


def committed_context(all_ids: Tensor, slots: Tensor, num_computed: Tensor, depth: int) -> Tensor:
    """The last ids before each request's step.

    Args:
        all_ids: int [slots, positions]; a request's ids from its first on. What lies at or beyond `num_computed` is not
            read: it may be a draft, or a leftover of the slot's last owner.
        slots: int64 [requests], the row of each.
        num_computed: int [requests], tokens that are committed and have their KV: where the step begins.
        depth: ids wanted, N - 1.

    Returns:
        int64 [requests, depth], oldest first; ABSENT before a request's first token.
    """
    places = num_computed.long()[:, None] + torch.arange(-depth, 0, device=all_ids.device)
    found = all_ids[slots[:, None], places.clamp_min(0)].long()
    return found.masked_fill(places < 0, ABSENT)


def step_windows(context: Tensor, step_ids: Tensor, starts: Tensor) -> Tensor:
    """Each token of a step with its predecessors; drafts see the drafts before them, and nobody keeps anything.

    Args:
        context: int64 [requests, depth], of `committed_context`.
        step_ids: int [tokens], the requests' new and drafted ids, one request after another.
        starts: int [requests + 1], where each begins in `step_ids`, and the end. Stays on the device: no sync.

    Returns:
        int64 [tokens, 1 + depth], as `NgramHasher.row_ids` takes them.
    """
    ids, depth = step_ids.long(), context.shape[1]
    places = torch.arange(len(ids), device=ids.device)
    owners = torch.searchsorted(starts[1:].long(), places, right=True).clamp_max(len(context) - 1)
    distances = torch.arange(depth + 1, device=ids.device)
    # Of a token's predecessors in its request's step: negative ones are in the context.
    columns = (places - starts[owners].long())[:, None] - distances
    in_step = ids[(places[:, None] - distances).clamp_min(0)]
    in_context = context[owners[:, None], (depth + columns).clamp(0, depth - 1)]
    return torch.where(columns >= 0, in_step, in_context)


def spec_of(config: object) -> NgramSpec:
    """The hash of a model by its Hugging Face config, as vLLM reads it."""
    fields = {name: getattr(config, name) for name in _FIELDS}
    num_tables = fields["emb_split_num"] * (fields["emb_neighbor_num"] - 1)
    return polynomial_spec(
        vocab_size=fields["vocab_size"],
        ratio=fields["ngram_vocab_size_ratio"],
        order_limit=fields["emb_neighbor_num"],
        splits=fields["emb_split_num"],
        table_width=fields["hidden_size"] // num_tables,
        border_ids=frozenset({fields["eos_token_id"]}),
    )


_FIELDS = ("vocab_size", "ngram_vocab_size_ratio", "emb_neighbor_num", "emb_split_num", "hidden_size", "eos_token_id")
