"""The head over the tokens a conversation is likely to use: a draft is dominated by reading the whole one.

A byte-pair vocabulary is in the order its pieces were learnt, the frequent ones first. Hot are the first eighth of it,
and whatever the conversation has used so far. A token outside can be generated as ever; it is not drafted, that is all.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from kodkod_engine.layers.linear import linear
from kodkod_engine.models.longcat_flash import LongcatFlash

SMALL_VOCAB = 16_384
"""Up to here the whole vocabulary is hot."""

COMMON_SHARE = 8
"""One in so many of the vocabulary is hot in every conversation."""


@dataclass(slots=True)
class _Own:
    """What one conversation has used besides the common tokens."""

    num_seen: int = 0
    ids: list[int] = field(default_factory=list)
    known: set[int] = field(default_factory=set)
    weight: Tensor | None = None
    """[ids, hidden]."""


class HotHead:
    """Logits over hot tokens, per stream."""

    def __init__(self, model: LongcatFlash, small_vocab: int = SMALL_VOCAB) -> None:
        self._weight = model.head_weight
        self._vocab_size = model.config.vocab_size
        # A packed head is read in a fraction of the time, and its rows cannot be picked one by one.
        is_whole = self._vocab_size <= small_vocab or not isinstance(self._weight, Tensor)
        self._num_common = self._vocab_size if is_whole else self._vocab_size // COMMON_SHARE
        self._own: dict[str, _Own] = {}

    def logits(self, request_id: str, token_ids: list[int], normed: Tensor) -> tuple[Tensor | None, Tensor]:
        """Of one position.

        Args:
            request_id: whose conversation it is.
            token_ids: the conversation.
            normed: [1, hidden].

        Returns:
            Ids of the hot tokens in ascending order, None when that is all of them; and their logits, fp32 [hot].
        """
        if self._num_common == self._vocab_size:
            return None, linear(normed, self._weight)[0].float()
        assert isinstance(self._weight, Tensor)
        logits = linear(normed, self._weight[: self._num_common])[0].float()
        own = self._catch_up(request_id, token_ids)
        ids = torch.arange(self._num_common, device=logits.device)
        if own.weight is not None:
            ids = torch.cat([ids, torch.tensor(own.ids, device=logits.device)])
            logits = torch.cat([logits, linear(normed, own.weight)[0].float()])
        return ids, logits

    def _catch_up(self, request_id: str, token_ids: list[int]) -> _Own:
        own = self._own.setdefault(request_id, _Own())
        new = {one for one in token_ids[own.num_seen :] if one >= self._num_common} - own.known
        own.num_seen = len(token_ids)
        if new and isinstance(self._weight, Tensor):
            own.known |= new
            # In the order of ids, as the whole vocabulary is: a draw then falls on the same token here and there.
            own.ids = sorted(own.known)
            own.weight = self._weight[torch.tensor(own.ids, device=self._weight.device)]
        return own

    def end(self, request_id: str) -> None:
        """A stream has ended."""
        self._own.pop(request_id, None)
