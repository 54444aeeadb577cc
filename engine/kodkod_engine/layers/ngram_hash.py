"""Row ids of the N-gram tables ("cached hashes"), for every position of a step at once, on the model's device.

Nothing here rolls forward. Ids are a pure function of a window of token ids, so chunked prefill, prefix hits, forks,
preemption and rejected drafts cannot leave a stale context behind: whoever asks gives the last accepted ids and the
new or drafted ones, and keeps nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kodkod_engine.models.ngram_spec import NgramSpec

ABSENT = -1
"""Marks a place in a window where the sequence has no token."""


class NgramHasher:
    """The tables' hash functions as tensors on one device."""

    def __init__(self, spec: NgramSpec, device: torch.device | str = "cpu") -> None:
        self.spec = spec
        # Beyond a table's order a factor is 0: such a predecessor adds nothing.
        rows = [(*factors, *(0,) * (spec.context_tokens - len(factors))) for factors in spec.multipliers]
        # int64 throughout: one product reaches 1.3e12 at the published sizes.
        self._multipliers = torch.tensor(rows, dtype=torch.int64, device=device)
        self._moduli = torch.tensor(spec.moduli, dtype=torch.int64, device=device)
        self._borders = torch.tensor(sorted(spec.border_ids), dtype=torch.int64, device=device)

    def windows(self, flat_ids: Tensor, places: Tensor) -> Tensor:
        """Each token with its predecessors.

        Args:
            flat_ids: int64 [n], sequences one after another, each preceded by `context_tokens` earlier ids of its
                own (ABSENT where there are none).
            places: int64 [tokens], where in `flat_ids` the tokens of this step stand.

        Returns:
            int64 [tokens, 1 + context_tokens]: the token, then the one before it, and so on.
        """
        distances = torch.arange(self.spec.context_tokens + 1, device=flat_ids.device)
        return flat_ids[places[:, None] - distances]

    def effective(self, windows: Tensor) -> Tensor:
        """What is hashed: windows with the token map applied and places beyond a border made `missing_value`.

        Args:
            windows: int64 [tokens, 1 + context_tokens].

        Returns:
            int64, same shape. Equal rows hash equally, so a row of it can serve as a cache key.
        """
        earlier = windows[:, 1:]
        ends_segment = (earlier == ABSENT) | torch.isin(earlier, self._borders)
        alive = torch.cumprod((~ends_segment).to(torch.int64), dim=1).bool()
        mapped = self._map_tokens(windows)
        mapped[:, 1:].masked_fill_(~alive, self.spec.missing_value)
        return mapped

    def row_ids(self, windows: Tensor) -> Tensor:
        """Row of each table for each window.

        Args:
            windows: int64 [tokens, 1 + context_tokens].

        Returns:
            int64 [tokens, tables], each in [0, moduli[table]).
        """
        values = self.effective(windows)
        # [tokens, tables, distances]; every term is reduced on its own, so the sum stays far inside int64.
        terms = (values[:, None, 1:] * self._multipliers) % self._moduli[:, None]
        return (values[:, :1] + terms.sum(dim=2)) % self._moduli

    def _map_tokens(self, windows: Tensor) -> Tensor:
        mapped = windows.clone()
        for span in self.spec.token_map:
            mapped[(windows >= span.start) & (windows < span.stop)] = span.value
        return mapped


def ngram_row_ids(token_ids: Sequence[int] | Tensor, spec: NgramSpec) -> Tensor:
    """Row ids of a whole sequence from its start.

    Args:
        token_ids: [tokens].

    Returns:
        int64 [tokens, tables].
    """
    ids = torch.as_tensor(token_ids, dtype=torch.int64)
    hasher = NgramHasher(spec, ids.device)
    context = ids.new_full((spec.context_tokens,), ABSENT)
    places = torch.arange(len(ids), device=ids.device) + spec.context_tokens
    return hasher.row_ids(hasher.windows(torch.cat([context, ids]), places))
